//! What becomes of a permit that is not used as it should.

use std::{panic, thread};

use idempotency_core::Survives;
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{Track, Tracked, Tracker};

use crate::support::*;

#[test]
fn a_dropped_permit_halts_its_request_as_cancelled() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        drop(init(&tracker, id(1)).await);
        assert_eq!(outcome(&tracker, id(1)).await, "halted cancelled");
    });
}

#[test]
fn a_permit_dropped_by_a_panic_halts_its_request_as_panicked() {
    let tracker = block_on(Tracker::builder(MemoryStore::new()).spawn()).unwrap();
    let permit = block_on(init(&tracker, id(1)));
    let died = thread::spawn(move || {
        let _permit = permit;
        panic!("the caller dies as planned");
    });
    died.join().unwrap_err();
    assert_eq!(block_on(outcome(&tracker, id(1))), "halted panicked");
}

#[test]
fn a_result_is_handed_over_at_the_call_and_not_undone_by_dropping_the_wait() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        drop(init(&tracker, id(1)).await.complete("done"));
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        drop(init(&tracker, id(2)).await.release());
        assert_eq!(outcome(&tracker, id(2)).await, "init");
    });
}

#[test]
fn a_caller_who_goes_away_before_the_answer_leaves_nothing_behind() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        // Dropped before the tracker saw it, and dropped with the answer in it.
        drop(tracker.track((id(1), payload())));
        assert_eq!(outcome(&tracker, id(1)).await, "init");
        let unread = tracker.track((id(2), payload()));
        while tracker.status().await.unwrap().live == 0 {}
        drop(unread);
        init(&tracker, id(2)).await.complete("done").await.unwrap();
        let status = tracker.status().await.unwrap();
        assert_eq!((status.live, status.queued), (0, 0));
    });
}

#[test]
fn a_claim_whose_caller_went_away_is_inherited_by_the_next_one() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        store.always("insert", Fault::Delay(std::time::Duration::from_millis(500)));
        let first = tracker.track((id(1), payload()));
        let second = tracker.track((id(1), payload()));
        let stranger = tracker.track((id(1), other_payload()));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        drop(first);
        let Ok(Tracked::Init(permit)) = second.await else { panic!() };
        assert!(matches!(stranger.await, Ok(Tracked::Mismatch { .. })));
        assert_eq!(store.calls("release"), 0, "it was inherited, not released and claimed anew");
        permit.complete("done").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn an_unread_permit_halts_when_it_came_through_the_raw_address() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let unread = tracker.addr().send(Track::new(id(1), payload()));
        let mut unread = Box::pin(unread);
        // The request is in the mailbox after its first poll.
        assert!(futures_util::FutureExt::now_or_never(&mut unread).is_none());
        while tracker.status().await.unwrap().live == 0 {}
        drop(unread);
        assert_eq!(outcome(&tracker, id(1)).await, "halted cancelled");
    });
}

#[test]
fn debug_output_shows_eight_digits_of_an_id_and_no_body() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        assert_eq!(tracker.status().await.unwrap().capabilities.durability.local, Survives::Memory);
        let permit = init(&tracker, id(1)).await;
        let shown = format!("{permit:?} {tracker:?}");
        assert!(shown.contains(&format!("RequestId({})", id(1))), "{shown}");
        permit.complete("a body that is nobody's business").await.unwrap();
        let shown = format!("{:?}", tracker.track((id(1), payload())).await);
        assert!(!shown.contains("business"), "{shown}");
    });
}
