//! The two bounds: claims in flight and callers that wait.

use std::time::Duration;

use idempotency_store_memory::MemoryStore;
use idempotency_tracker::ErrorKind;

use crate::support::*;

#[test]
fn past_max_in_flight_only_what_would_claim_is_refused() {
    virtual_time(async {
        let tracker = builder(MemoryStore::new()).max_in_flight(10).spawn().await.unwrap();
        init(&tracker, id(100)).await.complete("done").await.unwrap();
        let mut running = Vec::new();
        for number in 0..10 {
            running.push(init(&tracker, id(number)).await);
        }
        let error = tracker.track((id(11), payload())).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Overloaded);
        assert!(error.is_retryable());
        assert_eq!(outcome(&tracker, id(100)).await, "cached b\"done\"", "a replay is not refused");
        assert_eq!(outcome(&tracker, id(3)).await, "processing");
        // Settling is never refused, and makes room.
        running.pop().unwrap().complete("done").await.unwrap();
        running.push(init(&tracker, id(11)).await);
        assert_eq!(tracker.status().await.unwrap().in_flight, 10);
    });
}

#[test]
fn past_max_queued_callers_are_refused_at_once_and_a_cancelled_one_counts_until_it_is_dealt_with() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).max_queued(5).spawn().await.unwrap();
        store.always("insert", Fault::Hang);
        let mut waiting: Vec<_> = (0..5).map(|number| tracker.track((id(number), payload()))).collect();
        assert_eq!(tracker.status().await.unwrap().queued, 5);
        let refused = tracker.track((id(9), payload())).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Overloaded);
        // Going away does not help to get more work into the tracker than it takes.
        waiting.pop();
        assert!(tracker.track((id(9), payload())).await.is_err());
        store.well();
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(waiting);
        assert_eq!(tracker.status().await.unwrap().queued, 0);
        init(&tracker, id(9)).await.complete("done").await.unwrap();
    });
}

#[test]
fn two_hundred_callers_at_once_get_one_permit() {
    virtual_time(async {
        for store in [FaultyStore::new(), FaultyStore::new().immediate(true)] {
            let tracker = spawn(store.clone()).await;
            let tracks: Vec<_> = (0..200).map(|_| tracker.track((id(1), payload()))).collect();
            let mut permits = Vec::new();
            for track in tracks {
                match track.await.unwrap() {
                    idempotency_tracker::Tracked::Init(permit) => permits.push(permit),
                    idempotency_tracker::Tracked::Processing { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(permits.len(), 1);
            assert_eq!(store.calls("insert"), 1, "what the tracker knows it does not ask the store");
            permits.pop().unwrap().complete("done").await.unwrap();
        }
    });
}
