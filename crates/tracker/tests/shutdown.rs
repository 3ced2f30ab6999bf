//! The end: no new claims, wait, settle what is left, close the store, join the threads.

use std::time::Duration;

use futures_util::future::join_all;
use idempotency_core::{Secret, StoreErrorKind};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{ErrorKind, Once, Outcome, Settled, Tracker};
use tokio::time::{Instant, sleep};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_finishes_within_the_grace_is_stored() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        let closing = tokio::task::spawn_local({
            let tracker = tracker.clone();
            async move { tracker.shutdown(10 * SECOND).await.unwrap() }
        });
        sleep(2 * SECOND).await;
        let refused = tracker.track((id(2), payload())).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::ShuttingDown);
        assert!(permit.is_held(), "still renewed");
        let before = Instant::now();
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
        assert_eq!(closing.await.unwrap().unsettled, 0);
        assert!(before.elapsed() < SECOND, "it does not wait for longer than it must");
        assert!(store.was_closed());
        let next = spawn(store.inner.clone()).await;
        assert_eq!(outcome(&next, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn what_does_not_is_halted_and_may_be_completed_late() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        let before = Instant::now();
        assert_eq!(tracker.shutdown(5 * SECOND).await.unwrap().unsettled, 0);
        assert_eq!(before.elapsed().as_secs(), 5);
        let next = spawn(store.inner.clone()).await;
        assert_eq!(outcome(&next, id(1)).await, "halted shutdown");
        assert!(!permit.is_held());
        let gone = permit.complete("too late for this tracker").await.unwrap_err();
        assert_eq!(gone.kind(), &ErrorKind::ShuttingDown);
    });
}

#[test]
fn a_store_that_is_down_does_not_hold_up_the_end() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let _permit = init(&tracker, id(1)).await;
        store.down(Fault::Hang);
        let before = Instant::now();
        let report = tracker.shutdown(SECOND).await.unwrap();
        assert_eq!(report.unsettled, 1, "and the report says what is left");
        assert!(before.elapsed() < 10 * SECOND, "{:?}", before.elapsed());
    });
}

/// Two seconds of work each, detached from whoever asked.
#[test]
fn two_hundred_requests_are_stored_at_a_shutdown_or_halted_and_none_is_left_processing() {
    for (grace, stored) in [(5 * SECOND, 200), (SECOND, 0)] {
        virtual_time(async {
            let store = FaultyStore::new();
            let (tracker, next) = (spawn(store.clone()).await, spawn(store.inner.clone()).await);
            let asked: Vec<_> = (0..200)
                .map(|number| {
                    let tracker = tracker.clone();
                    let work = || async {
                        sleep(2 * SECOND).await;
                        Outcome::<()>::done("done")
                    };
                    tokio::task::spawn_local(async move { tracker.once(id(number), payload(), work).await })
                })
                .collect();
            sleep(SECOND / 10).await;
            let report = tracker.shutdown(grace).await.unwrap();
            assert_eq!(report.unsettled, 0);
            for answer in join_all(asked).await {
                assert!(
                    matches!(answer.unwrap(), Ok(Once::Done { .. })),
                    "the work was done, and whoever asked hears it"
                );
            }
            let (mut cached, mut halted) = (0, 0);
            for number in 0..200 {
                match outcome(&next, id(number)).await.as_str() {
                    "cached b\"done\"" => cached += 1,
                    "halted shutdown" => halted += 1,
                    other => panic!("{number}: {other}"),
                }
            }
            assert_eq!((cached, halted), (stored, 200 - stored));
        });
    }
}

#[test]
fn a_second_shutdown_waits_for_the_first() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let _permit = init(&tracker, id(1)).await;
        let (one, other) = tokio::join!(tracker.shutdown(2 * SECOND), tracker.shutdown(Duration::ZERO));
        assert_eq!((one.unwrap().unsettled, other.unwrap().unsettled), (0, 0));
        assert_eq!(tracker.shutdown(SECOND).await.unwrap_err().kind(), &ErrorKind::ShuttingDown);
        assert_eq!(tracker.status().await.unwrap_err().kind(), &ErrorKind::ShuttingDown);
        assert_eq!(tracker.track((id(1), payload())).await.unwrap_err().kind(), &ErrorKind::ShuttingDown);
    });
}

#[test]
fn when_the_last_handle_is_gone_what_runs_may_finish_and_then_the_store_is_closed() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        drop(tracker);
        sleep(60 * SECOND).await;
        assert!(permit.is_held());
        assert!(!store.was_closed());
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
        sleep(SECOND).await;
        assert!(store.was_closed());
    });
}

#[test]
fn the_actors_address_keeps_the_tracker_alive() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let addr = tracker.addr();
        drop(tracker);
        sleep(SECOND).await;
        assert!(addr.send(idempotency_tracker::Status).await.unwrap().unwrap().backend_up);
        drop(addr);
        sleep(SECOND).await;
        assert!(store.was_closed());
    });
}

#[test]
fn a_failing_setup_stops_the_start() {
    for fault in [Fault::Refuse(StoreErrorKind::Misconfigured), Fault::Panic, Fault::Hang] {
        virtual_time(async {
            let store = FaultyStore::new();
            store.always("setup", fault);
            let error = builder(store).spawn().await.unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::Setup, "{fault:?}");
            assert!(std::error::Error::source(&error).is_some());
        });
    }
}

#[test]
fn another_secret_is_refused_at_the_start() {
    virtual_time(async {
        let store = std::sync::Arc::new(MemoryStore::new());
        let first = builder(store.clone()).secret(Secret::new([1; 32])).spawn().await.unwrap();
        assert_ne!(first.fingerprint([&b"payload"[..]]), payload(), "the secret keys the hashes");
        first.shutdown(SECOND).await.unwrap();
        let error = builder(store).secret(Secret::new([2; 32])).spawn().await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Setup);
    });
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    let build = || Tracker::builder(MemoryStore::new());
    for wrong in [
        build().lease(5 * SECOND),
        build().store_limit(6 * SECOND),
        build().store_limit(Duration::ZERO),
        build().store_limit(Duration::MAX),
        build().store_limit(Duration::MAX / 3).lease(Duration::MAX),
        build().put_patience(Duration::MAX),
        build().retention(Duration::ZERO),
        build().work_limit(Duration::ZERO),
        build().prune_every(Duration::ZERO),
        build().prune_limit(0),
        build().max_in_flight(0),
        build().max_queued(0),
    ] {
        let error = block_on(wrong.spawn()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error:?}");
    }
}

#[test]
fn a_store_whose_backend_is_down_is_closed_all_the_same() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let mut panics = 1;
        store.plan(move |command| match command.name() {
            "setup" => Some(Fault::FailBefore),
            "insert" if panics > 0 => {
                panics -= 1;
                Some(Fault::Panic)
            }
            _ => None,
        });
        tracker.track((id(1), payload())).await.unwrap_err();
        assert!(!tracker.status().await.unwrap().backend_up);
        tracker.shutdown(Duration::ZERO).await.unwrap();
        assert!(store.was_closed());
    });
}
