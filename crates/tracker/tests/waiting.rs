//! Callers that wait for what somebody else makes of it.

use std::time::Duration;

use futures_util::future::join_all;
use idempotency_core::{Claim, Owner, Store};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{OnConcurrent, OnOrphan, Track, Tracked, TrackerHandle};
use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

fn waits(number: u64, at_most: Duration) -> Track {
    Track::new(id(number), payload()).on_concurrent(OnConcurrent::Wait { at_most })
}

async fn hears(tracker: &TrackerHandle, track: Track) -> String {
    word_of(tracker.track(track).await)
}

#[test]
fn whoever_waits_on_the_same_node_hears_the_result_and_the_store_is_not_asked() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        let waiting = join_all((0..100).map(|_| hears(&tracker, waits(1, 60 * SECOND))));
        let work = async {
            sleep(10 * SECOND).await;
            assert_eq!(tracker.status().await.unwrap().waiting, 100);
            permit.complete("done").await.unwrap();
            Instant::now()
        };
        let (heard, done) = tokio::join!(waiting, work);
        assert!(heard.iter().all(|heard| heard == "cached b\"done\""), "{heard:?}");
        assert!(done.elapsed() < SECOND / 10, "at once");
        assert_eq!((store.calls("insert"), store.calls("lookup")), (1, 0));
    });
}

#[test]
fn whoever_has_waited_long_enough_or_goes_away_changes_nothing() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let permit = init(&tracker, id(1)).await;
        let before = Instant::now();
        assert_eq!(hears(&tracker, waits(1, 3 * SECOND)).await, "processing");
        assert_eq!(before.elapsed().as_secs(), 3);
        let gone = timeout(SECOND, tracker.track(waits(1, 30 * SECOND))).await;
        assert!(gone.is_err());
        sleep(SECOND / 10).await;
        assert_eq!(tracker.status().await.unwrap().waiting, 0);
        assert!(permit.is_held());
        permit.complete("done").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn another_payload_does_not_wait() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let _permit = init(&tracker, id(1)).await;
        let mut other = waits(1, 60 * SECOND);
        other.fingerprint = other_payload();
        let before = Instant::now();
        assert_eq!(hears(&tracker, other).await, "mismatch");
        assert!(before.elapsed() < SECOND);
    });
}

#[test]
fn no_more_wait_than_may_and_the_others_hear_so_at_once() {
    virtual_time(async {
        let tracker = builder(MemoryStore::new()).max_waiting(2, 3).spawn().await.unwrap();
        let permits = [init(&tracker, id(1)).await, init(&tracker, id(2)).await];
        let asks = |number| {
            let tracker = tracker.clone();
            spawn_local(async move { hears(&tracker, waits(number, 60 * SECOND)).await })
        };
        let asked = [1, 1, 1, 2, 2].map(asks);
        sleep(SECOND).await;
        assert_eq!(tracker.status().await.unwrap().waiting, 3);
        for permit in permits {
            permit.complete("done").await.unwrap();
        }
        let heard = join_all(asked).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
        let cached = "cached b\"done\"";
        assert_eq!(heard, [cached, cached, "processing", cached, "processing"]);
    });
}

#[test]
fn when_the_owner_dies_those_who_wait_hear_it_and_by_policy_exactly_one_takes_over() {
    for policy in [OnOrphan::Halt, OnOrphan::Rerun] {
        virtual_time(async {
            let tracker = spawn(MemoryStore::new()).await;
            let permit = init(&tracker, id(1)).await;
            let asked = (0..10).map(|_| {
                let (tracker, policy) = (tracker.clone(), policy.clone());
                spawn_local(async move {
                    match tracker.track(waits(1, 60 * SECOND).on_orphan(policy)).await {
                        Ok(Tracked::Init(permit)) => {
                            assert!(permit.took_over());
                            sleep(5 * SECOND).await;
                            permit.complete("again").await.unwrap();
                            "init".to_owned()
                        }
                        other => word_of(other),
                    }
                })
            });
            let asked: Vec<_> = asked.collect();
            sleep(SECOND).await;
            drop(permit);
            let heard: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
            let count = |word: &str| heard.iter().filter(|heard| *heard == word).count();
            match policy {
                OnOrphan::Rerun => {
                    assert_eq!((count("init"), count("cached b\"again\"")), (1, 9), "{heard:?}")
                }
                _ => assert_eq!(count("halted cancelled"), 10, "{heard:?}"),
            }
        });
    }
}

#[test]
fn a_release_lets_exactly_one_of_those_who_wait_run() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let permit = init(&tracker, id(1)).await;
        let asked: Vec<_> = (0..10)
            .map(|_| {
                let tracker = tracker.clone();
                spawn_local(async move {
                    match tracker.track(waits(1, 60 * SECOND)).await {
                        Ok(Tracked::Init(permit)) => {
                            permit.complete("second").await.unwrap();
                            "init".to_owned()
                        }
                        other => word_of(other),
                    }
                })
            })
            .collect();
        sleep(SECOND).await;
        permit.release().await.unwrap();
        let heard: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(heard.iter().filter(|heard| *heard == "init").count(), 1, "{heard:?}");
        assert_eq!(heard.iter().filter(|heard| *heard == "cached b\"second\"").count(), 9, "{heard:?}");
    });
}

/// One of them works on another node.
#[test]
fn on_another_node_a_hint_wakes_them_and_the_store_is_read_once() {
    for time in [3, 12] {
        virtual_time(async {
            let store = FaultyStore::new().pushing();
            let (one, other) = (spawn(store.clone()).await, spawn(store.clone()).await);
            let permit = init(&one, id(1)).await;
            let waiting = join_all((0..100).map(|_| hears(&other, waits(1, 60 * SECOND))));
            let work = async {
                sleep(time * SECOND).await;
                permit.complete("done").await.unwrap();
                Instant::now()
            };
            let (heard, done) = tokio::join!(waiting, work);
            assert!(heard.iter().all(|heard| heard == "cached b\"done\""), "{heard:?}");
            assert!(done.elapsed() < SECOND / 10, "at once");
            // The claim of the first node beside those of the second.
            let reads = store.calls("insert") - 1 + store.calls("watch") + store.calls("lookup");
            let most = 2 + time.div_ceil(5) as usize;
            assert!(reads <= most, "{reads} calls for a hundred callers in {time} s, more than {most}");
        });
    }
}

#[test]
fn on_another_node_without_hints_the_store_is_read_every_five_seconds() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (one, other) = (spawn(store.clone()).await, spawn(store.clone()).await);
        let permit = init(&one, id(1)).await;
        let waiting = join_all((0..100).map(|_| hears(&other, waits(1, 60 * SECOND))));
        let work = async {
            sleep(11 * SECOND).await;
            permit.complete("done").await.unwrap();
            Instant::now()
        };
        let (heard, done) = tokio::join!(waiting, work);
        assert!(heard.iter().all(|heard| heard == "cached b\"done\""), "{heard:?}");
        assert!(done.elapsed() <= 5 * SECOND);
        let reads = store.calls("insert") - 1 + store.calls("lookup");
        assert!(reads <= 2 + 3, "{reads}");
    });
}

#[test]
fn when_the_lease_of_a_dead_node_lapses_those_who_wait_hear_it() {
    virtual_time(async {
        let store = FaultyStore::new().pushing();
        let tracker = spawn(store.clone()).await;
        let now = tracker.clock().now();
        store.inner.insert(&Claim::new(id(1), Owner::from_u128(1), payload()), now).await.unwrap();
        let before = Instant::now();
        let heard = join_all((0..10).map(|_| hears(&tracker, waits(1, 60 * SECOND)))).await;
        assert!(heard.iter().all(|heard| heard == "halted owner_lost"), "{heard:?}");
        let after = before.elapsed();
        assert!(after >= 15 * SECOND && after < 16 * SECOND, "{after:?} after a lease of 15 s");
    });
}

#[test]
fn when_the_lease_of_a_dead_node_lapses_exactly_one_of_those_who_wait_takes_over() {
    virtual_time(async {
        let store = FaultyStore::new().pushing();
        let tracker = spawn(store.clone()).await;
        let now = tracker.clock().now();
        store.inner.insert(&Claim::new(id(1), Owner::from_u128(1), payload()), now).await.unwrap();
        let before = Instant::now();
        let asked: Vec<_> = (0..10)
            .map(|_| {
                let tracker = tracker.clone();
                spawn_local(async move {
                    match tracker.track(waits(1, 60 * SECOND).on_orphan(OnOrphan::Rerun)).await {
                        Ok(Tracked::Init(permit)) => {
                            permit.complete("again").await.unwrap();
                            "init".to_owned()
                        }
                        other => word_of(other),
                    }
                })
            })
            .collect();
        let heard: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(heard.iter().filter(|heard| *heard == "init").count(), 1, "{heard:?}");
        assert_eq!(heard.iter().filter(|heard| *heard == "cached b\"again\"").count(), 9, "{heard:?}");
        assert!(before.elapsed() < 16 * SECOND, "{:?}", before.elapsed());
        let reads = store.calls("insert") + store.calls("watch") + store.calls("lookup");
        assert!(reads < 10, "{reads} calls");
    });
}

#[test]
fn a_shutdown_sends_away_who_waits() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let permit = init(&tracker, id(1)).await;
        let asked = spawn_local({
            let tracker = tracker.clone();
            async move { hears(&tracker, waits(1, 60 * SECOND)).await }
        });
        sleep(SECOND).await;
        let before = Instant::now();
        let (report, heard) = tokio::join!(tracker.shutdown(5 * SECOND), asked);
        assert_eq!(heard.unwrap(), "the request tracker is shutting down");
        assert_eq!(report.unwrap().unsettled, 0);
        assert!(before.elapsed() >= 5 * SECOND && !permit.is_held());
    });
}
