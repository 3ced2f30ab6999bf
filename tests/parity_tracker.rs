//! What the original's suite checks of its request tracker, in our words.

use std::time::Duration;

use idempotency::{
    Fingerprint, HaltReason, MemoryStore, RequestId, Scope, Settled, Track, Tracked, Tracker, TrackerHandle,
};

fn request() -> (RequestId, Fingerprint) {
    let id = RequestId::derive(None, &Scope::global(), [&b"request-id"[..]]);
    (id, Fingerprint::derive(None, [&b"fingerprint"[..]]))
}

async fn tracker() -> TrackerHandle {
    Tracker::builder(MemoryStore::new()).spawn().await.unwrap()
}

#[tokio::test]
async fn a_first_request_is_told_to_work() {
    let tracker = tracker().await;
    let Ok(Tracked::Init(permit)) = tracker.track(request()).await else { panic!() };
    assert_eq!(permit.id(), request().0);
    permit.release().await.unwrap();
}

#[tokio::test]
async fn a_concurrent_request_is_told_that_one_is_processing() {
    let tracker = tracker().await;
    let before = tracker.clock().now();
    let Ok(Tracked::Init(_permit)) = tracker.track(request()).await else { panic!() };
    let concurrent = tracker.track(request()).await.unwrap();
    let Tracked::Processing { since: Some(since), retry_after } = concurrent else {
        panic!("{concurrent:?}")
    };
    assert!(since >= before && since <= tracker.clock().now());
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(15));
}

#[tokio::test]
async fn another_fingerprint_is_a_mismatch() {
    let tracker = tracker().await;
    let Ok(Tracked::Init(_permit)) = tracker.track(request()).await else { panic!() };
    let (id, _) = request();
    let other = tracker.track((id, Fingerprint::derive(None, [&b"other"[..]]))).await.unwrap();
    let Tracked::Mismatch { expires_at, .. } = other else { panic!("{other:?}") };
    assert!(expires_at > tracker.clock().now());
}

#[tokio::test]
async fn a_cached_response_is_answered_with_its_expiry() {
    let tracker = tracker().await;
    let Ok(Tracked::Init(permit)) = tracker.track(request()).await else { panic!() };
    assert_eq!(permit.complete("OK").await.unwrap(), Settled::Stored);
    let cached = tracker.track(request()).await.unwrap();
    let Tracked::Cached { response, expires_at, .. } = cached else { panic!("{cached:?}") };
    assert_eq!(response.bytes().unwrap(), "OK");
    let day = time::Duration::hours(24);
    let left = expires_at - tracker.clock().now();
    assert!(left <= day && left > day - time::Duration::minutes(1), "{left}");
}

#[tokio::test]
async fn a_caller_that_crashes_halts_its_request() {
    let tracker = tracker().await;
    let Ok(Tracked::Init(permit)) = tracker.track(request()).await else { panic!() };
    let crashing = tokio::spawn(async move {
        let _permit = permit;
        panic!("the caller crashes as planned");
    });
    assert!(crashing.await.unwrap_err().is_panic());
    let halted = tracker.track(request()).await.unwrap();
    assert!(matches!(halted, Tracked::Halted { reason: HaltReason::Panicked, .. }), "{halted:?}");
}

#[tokio::test]
async fn a_response_for_a_request_that_is_no_longer_known_is_told_so_and_not_stored() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let tracker = Tracker::builder(store.clone()).spawn().await.unwrap();
    let Ok(Tracked::Init(permit)) = tracker.track(request()).await else { panic!() };
    // The record vanishes behind the tracker's back.
    let release =
        idempotency::store::Update::new(request().0, permit.owner(), idempotency::store::Change::Release);
    idempotency::store::Store::update(&*store, &release, tracker.clock().now()).await.unwrap();
    assert_eq!(permit.complete("OK").await.unwrap(), Settled::Gone);
    assert!(store.is_empty());
}

#[tokio::test]
async fn after_a_short_retention_the_request_is_new_again() {
    let tracker = tracker().await;
    let track = || Track::from(request()).retention(Duration::from_millis(20));
    let Ok(Tracked::Init(permit)) = tracker.track(track()).await else { panic!() };
    permit.complete("OK").await.unwrap();
    // Wall time is the point: the default clock is used.
    tokio::time::sleep(Duration::from_millis(25)).await;
    let Ok(Tracked::Init(permit)) = tracker.track(track()).await else { panic!() };
    permit.release().await.unwrap();
}

#[tokio::test]
async fn expired_records_are_pruned_and_others_are_kept() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let tracker =
        Tracker::builder(store.clone()).prune_every(Duration::from_millis(10)).spawn().await.unwrap();
    let (id, fingerprint) = request();
    let kept = RequestId::derive(None, &Scope::global(), [&b"kept"[..]]);
    for (id, retention) in [(id, Duration::from_millis(1)), (kept, Duration::from_secs(60))] {
        let track = Track::new(id, fingerprint).retention(retention);
        let Ok(Tracked::Init(permit)) = tracker.track(track).await else { panic!() };
        permit.complete("OK").await.unwrap();
    }
    while store.len() > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(tracker.track((kept, fingerprint)).await, Ok(Tracked::Cached { .. })));
}
