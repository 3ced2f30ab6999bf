//! What one tenant may have, and what is kept until the store takes it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use idempotency_core::Tenant;
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{
    ErrorKind, Happened, Permit, Settled, TenantLimits, Track, Tracked, TrackerHandle,
};
use tokio::time::sleep;

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

fn tenant(name: &str) -> Tenant {
    Tenant::derive(None, [name.as_bytes()])
}

fn of(name: &str, number: u64) -> Track {
    Track::new(id(number), payload()).tenant(tenant(name))
}

async fn granted(tracker: &TrackerHandle, track: Track) -> Permit {
    match tracker.track(track).await {
        Ok(Tracked::Init(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

async fn is_refused(tracker: &TrackerHandle, track: Track) -> bool {
    tracker.track(track).await.is_err_and(|error| *error.kind() == ErrorKind::Overloaded)
}

#[test]
fn a_tenant_has_no_more_claims_than_he_may_and_the_others_go_on() {
    virtual_time(async {
        let limits = TenantLimits::new().max_in_flight(2);
        let tracker = builder(MemoryStore::new()).tenant_limits(limits).spawn().await.unwrap();
        let first = granted(&tracker, of("alice", 1)).await;
        let second = granted(&tracker, of("alice", 2)).await;
        assert!(is_refused(&tracker, of("alice", 3)).await);
        let others = granted(&tracker, of("bob", 4)).await;
        let nobodys = init(&tracker, id(5)).await;
        first.complete("done").await.unwrap();
        // What was done is replayed all the same, and there is room for one.
        assert!(matches!(tracker.track(of("alice", 1)).await, Ok(Tracked::Cached { .. })));
        let third = granted(&tracker, of("alice", 3)).await;
        assert!(is_refused(&tracker, of("alice", 6)).await);
        for permit in [second, third, others, nobodys] {
            permit.release().await.unwrap();
        }
        granted(&tracker, of("alice", 6)).await.release().await.unwrap();
    });
}

#[test]
fn a_tenant_stores_no_more_than_he_may_until_it_expires() {
    virtual_time(async {
        let limits = TenantLimits::new().max_stored_bytes(3_000);
        let tracker = builder(MemoryStore::new()).retention(160 * SECOND).tenant_limits(limits);
        let tracker = tracker.spawn().await.unwrap();
        for number in 1..=3 {
            granted(&tracker, of("alice", number)).await.complete(vec![7; 900]).await.unwrap();
        }
        assert!(is_refused(&tracker, of("alice", 4)).await, "three times 900 and 256 are more than 3,000");
        assert!(matches!(tracker.track(of("alice", 3)).await, Ok(Tracked::Cached { .. })));
        granted(&tracker, of("bob", 5)).await.complete(vec![7; 900]).await.unwrap();
        // An overwhelmed tenant is served again once his records have expired.
        sleep(171 * SECOND).await;
        granted(&tracker, of("alice", 4)).await.complete("done").await.unwrap();
    });
}

#[test]
fn limits_that_let_nobody_in_are_refused() {
    virtual_time(async {
        for limits in [TenantLimits::new().max_in_flight(0), TenantLimits::new().max_stored_bytes(0)] {
            let refused = builder(MemoryStore::new()).tenant_limits(limits).spawn().await.unwrap_err();
            assert!(matches!(refused.kind(), ErrorKind::Invalid(_)));
        }
    });
}

/// While the store is away: results stay, as far as there is room for them; that the work was done always stays.
#[test]
fn i10_what_the_store_does_not_take_is_answered_from_here_and_bounded() {
    virtual_time(async {
        let store = FaultyStore::new();
        let happened = Arc::new(Mutex::new(Vec::new()));
        let told = happened.clone();
        let tracker = builder(store.clone())
            .max_deferred_bytes(1_000)
            .on_happened(move |id, what| told.lock().unwrap().push((id, what)));
        let tracker = tracker.spawn().await.unwrap();
        let permits = [init(&tracker, id(1)).await, init(&tracker, id(2)).await, init(&tracker, id(3)).await];
        store.down(Fault::FailBefore);
        for (permit, size) in permits.into_iter().zip([600, 600, 300]) {
            assert_eq!(permit.complete(vec![b'x'; size]).await.unwrap(), Settled::Deferred);
        }
        assert_eq!(tracker.status().await.unwrap().deferred_bytes, 900);
        let kept = async || {
            let mut kept = Vec::new();
            for number in 1..=3 {
                match tracker.track((id(number), payload())).await {
                    Ok(Tracked::Cached { response, .. }) => kept.push(response.bytes().map(|it| it.len())),
                    other => panic!("{other:?}"),
                }
            }
            kept
        };
        // From what this node holds, also after the lease.
        assert_eq!(kept().await, [Some(600), None, Some(300)]);
        sleep(100 * SECOND).await;
        assert_eq!(kept().await, [Some(600), None, Some(300)]);
        store.well();
        sleep(5 * SECOND).await;
        let status = tracker.status().await.unwrap();
        assert_eq!((status.live, status.deferred_bytes), (0, 0), "all is stored");
        assert_eq!(kept().await, [Some(600), None, Some(300)]);
        let not_kept: Vec<_> =
            happened.lock().unwrap().iter().filter(|it| it.1 == Happened::NotKept).copied().collect();
        assert_eq!(not_kept, [(id(2), Happened::NotKept)]);
    });
}

#[test]
fn what_could_not_be_stored_at_the_end_is_told() {
    virtual_time(async {
        let store = FaultyStore::new();
        let happened = Arc::new(Mutex::new(Vec::new()));
        let told = happened.clone();
        let tracker =
            builder(store.clone()).on_happened(move |id, what| told.lock().unwrap().push((id, what)));
        let tracker = tracker.spawn().await.unwrap();
        let (done, running) = (init(&tracker, id(1)).await, init(&tracker, id(2)).await);
        store.down(Fault::FailBefore);
        assert_eq!(done.complete("done").await.unwrap(), Settled::Deferred);
        let report = tracker.shutdown(2 * SECOND).await.unwrap();
        assert_eq!(report.unsettled, 2);
        let unstored: Vec<_> =
            happened.lock().unwrap().iter().filter(|it| it.1 == Happened::Unstored).copied().collect();
        assert_eq!(unstored, [(id(1), Happened::Unstored)], "of the other one nothing is known");
        assert!(!running.is_held());
    });
}
