//! What handles answer by themselves, and when they must not.

use std::time::Duration;

use idempotency_core::{Change, Record, Store, Update};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{Forgotten, Settled, SwapPolicy, Track, Tracked, TrackerHandle};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::support::*;

const DONE: &str = "cached b\"done\"";

/// A tracker whose store has this record, and whose handles have it after the first replay.
async fn replaying(store: &FaultyStore) -> TrackerHandle {
    let tracker = spawn(store.clone()).await;
    init(&tracker, id(1)).await.complete("done").await.unwrap();
    assert_eq!(outcome(&tracker, id(1)).await, DONE);
    tracker
}

async fn refusal(tracker: &TrackerHandle, track: impl Into<Track>) -> &'static str {
    tracker.track(track).await.expect_err("it is refused").outcome()
}

#[test]
fn a_replay_that_was_read_lately_asks_nobody() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = replaying(&store).await;
        let asked = store.calls("insert");
        for _ in 0..100 {
            assert_eq!(outcome(&tracker, id(1)).await, DONE);
        }
        assert_eq!(store.calls("insert"), asked);
        // Also while the store is away, for as long as it may be served.
        store.down(Fault::Hang);
        sleep(Duration::from_millis(4_900)).await;
        assert_eq!(outcome(&tracker, id(1)).await, DONE);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(refusal(&tracker, (id(1), payload())).await, "unavailable");
        store.well();
        assert_eq!(outcome(&tracker, id(1)).await, DONE);
        assert!(store.calls("insert") > asked);
    });
}

#[test]
fn another_payload_is_told_apart_and_a_track_that_makes_no_sense_is_refused() {
    virtual_time(async {
        let tracker = replaying(&FaultyStore::new()).await;
        assert!(matches!(tracker.track((id(1), other_payload())).await, Ok(Tracked::Mismatch { .. })));
        let wrong = Track::new(id(1), payload()).lease(Duration::from_millis(1));
        assert_eq!(refusal(&tracker, wrong).await, "invalid");
    });
}

#[test]
fn what_was_forgotten_here_is_not_replayed() {
    virtual_time(async {
        let tracker = replaying(&FaultyStore::new()).await;
        let Some(Record { owner, .. }) = tracker.lookup(id(1)).await.unwrap() else { panic!("it is there") };
        assert_eq!(tracker.forget(id(1), owner, "a test").await.unwrap(), Forgotten::Forgotten);
        init(&tracker, id(1)).await.complete("again").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"again\"");
    });
}

/// Its answer was lost: whether it happened nobody knows.
#[test]
fn what_may_have_been_forgotten_is_asked_for() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = replaying(&store).await;
        let Some(Record { owner, .. }) = tracker.lookup(id(1)).await.unwrap() else { panic!("it is there") };
        store.always("forget", Fault::FailAfter);
        tracker.forget(id(1), owner, "a test").await.unwrap_err();
        drop(init(&tracker, id(1)).await);
    });
}

#[test]
fn a_swap_that_leaves_records_behind_leaves_none_here() {
    virtual_time(async {
        let tracker = replaying(&FaultyStore::new()).await;
        tracker.swap(MemoryStore::new(), SwapPolicy::forget_settled("a test")).await.unwrap();
        drop(init(&tracker, id(1)).await);
    });
}

/// With a life that is just long enough to be kept at first, and too short later.
#[test]
fn what_has_expired_is_not_served() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).cache_ttl(Duration::from_secs(3600)).spawn().await.unwrap();
        let track = || Track::new(id(1), payload()).retention(Duration::from_secs(61));
        let Ok(Tracked::Init(permit)) = tracker.track(track()).await else { panic!("a new id") };
        permit.complete("done").await.unwrap();
        assert_eq!(word_of(tracker.track(track()).await), DONE);
        let asked = store.calls("insert");
        sleep(Duration::from_millis(60_900)).await;
        assert_eq!(word_of(tracker.track(track()).await), DONE);
        assert_eq!(store.calls("insert"), asked, "from here");
        sleep(Duration::from_millis(101)).await;
        drop(init(&tracker, id(1)).await);
    });
}

#[test]
fn a_tracker_that_shuts_down_serves_nobody() {
    virtual_time(async {
        let tracker = replaying(&FaultyStore::new()).await;
        tracker.shutdown(Duration::ZERO).await.unwrap();
        assert_eq!(refusal(&tracker, (id(1), payload())).await, "shutting_down");
    });
}

/// It may turn out that somebody else has the record.
#[test]
fn a_result_that_the_store_does_not_have_is_answered_and_not_kept() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        let owner = permit.owner();
        store.down(Fault::FailBefore);
        let settling = permit.complete("done");
        sleep(Duration::from_millis(100)).await;
        for _ in 0..2 {
            assert_eq!(outcome(&tracker, id(1)).await, DONE);
        }
        let released = Update::new(id(1), owner, Change::Release);
        Store::update(&*store.inner, &released, OffsetDateTime::UNIX_EPOCH).await.unwrap();
        store.well();
        assert_eq!(settling.await.unwrap(), Settled::Gone);
        drop(init(&tracker, id(1)).await);
    });
}

#[test]
fn without_room_or_time_every_replay_asks_the_store() {
    virtual_time(async {
        let store = FaultyStore::new();
        for builder in
            [builder(store.clone()).read_cache(0), builder(store.clone()).cache_ttl(Duration::ZERO)]
        {
            let tracker = builder.spawn().await.unwrap();
            if let Ok(Tracked::Init(permit)) = tracker.track((id(1), payload())).await {
                permit.complete("done").await.unwrap();
            }
            for _ in 0..3 {
                let asked = store.calls("insert");
                assert_eq!(outcome(&tracker, id(1)).await, DONE);
                assert_eq!(store.calls("insert"), asked + 1);
            }
        }
    });
}

/// What is wanted least makes room.
#[test]
fn no_more_is_kept_than_there_is_room_for() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).read_cache(64 << 10).spawn().await.unwrap();
        for number in 0..200 {
            init(&tracker, id(number)).await.complete(vec![b'x'; 1000]).await.unwrap();
            assert!(matches!(tracker.track((id(number), payload())).await, Ok(Tracked::Cached { .. })));
        }
        let asked = store.calls("insert");
        for number in (0..200).rev() {
            assert!(matches!(tracker.track((id(number), payload())).await, Ok(Tracked::Cached { .. })));
        }
        let found = 200 - (store.calls("insert") - asked);
        assert!((20..=50).contains(&found), "{found} of 200");
    });
}

/// What this node has learnt since is not contradicted by what it read before.
#[test]
fn what_another_node_forgot_is_replayed_for_as_long_as_documented_and_not_once_it_is_known() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, other) = (replaying(&store).await, spawn(store.clone()).await);
        let Some(Record { owner, .. }) = other.lookup(id(1)).await.unwrap() else { panic!("it is there") };
        assert_eq!(other.forget(id(1), owner, "a test").await.unwrap(), Forgotten::Forgotten);
        sleep(Duration::from_millis(4_900)).await;
        assert_eq!(outcome(&tracker, id(1)).await, DONE, "nobody told it");
        sleep(Duration::from_millis(200)).await;
        let permit = init(&tracker, id(1)).await;
        permit.complete("again").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"again\"");

        // Another payload is told of a claim, and so is the first one from then on.
        forget(&other).await;
        let Ok(Tracked::Init(_permit)) = tracker.track((id(1), other_payload())).await else {
            panic!("it is free")
        };
        assert_eq!(outcome(&tracker, id(1)).await, "mismatch");
    });
}

/// What another node was told of is gone.
async fn forget(tracker: &TrackerHandle) {
    let Some(Record { owner, .. }) = tracker.lookup(id(1)).await.unwrap() else { panic!("it is there") };
    tracker.forget(id(1), owner, "a test").await.unwrap();
}

#[test]
fn a_lookup_that_finds_nothing_is_not_contradicted() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, other) = (replaying(&store).await, spawn(store.clone()).await);
        forget(&other).await;
        assert_eq!(tracker.lookup(id(1)).await.unwrap(), None);
        drop(init(&tracker, id(1)).await);
    });
}

#[test]
fn a_record_that_is_not_kept_takes_the_one_before_it_out() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, other) = (replaying(&store).await, spawn(store.clone()).await);
        forget(&other).await;
        let anew = || Track::new(id(1), other_payload()).retention(Duration::from_secs(30));
        let Ok(Tracked::Init(permit)) = other.track(anew()).await else { panic!("it is free") };
        permit.complete("again").await.unwrap();
        assert_eq!(word_of(tracker.track(anew()).await), "cached b\"again\"");
        assert_eq!(outcome(&tracker, id(1)).await, "mismatch");
    });
}
