//! Leases, renewals, work limits and takeovers.

use std::time::Duration;

use idempotency_core::{Change, Claim, Owner, Store, StoreCommand};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{OnOrphan, Settled, Track, Tracked};
use tokio::time::{sleep, timeout};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn work_longer_than_the_lease_keeps_its_claim() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        for _ in 0..10 {
            sleep(60 * SECOND).await;
            assert!(permit.is_held());
            assert_eq!(outcome(&tracker, id(1)).await, "processing");
        }
        let renewals = store.calls("renew");
        assert!((118..=122).contains(&renewals), "{renewals} renewals in ten minutes, one every 5 s");
        permit.complete("done").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        sleep(60 * SECOND).await;
        assert_eq!(store.calls("renew"), renewals, "nothing is renewed that is settled");
    });
}

#[test]
fn a_lease_that_cannot_be_kept_is_lost_in_time() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        assert!(timeout(14 * SECOND, permit.lost()).await.is_err(), "all is well");
        store.always("renew", Fault::Hang);
        let before = tokio::time::Instant::now();
        permit.lost().await;
        let after = before.elapsed();
        assert!(after < 15 * SECOND, "{after:?}: before the lease runs out");
        assert!(!permit.is_held());
        // The store is back before anybody took over.
        store.well();
        sleep(20 * SECOND).await;
        assert!(permit.is_held());
        permit.complete("done").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn nobody_is_stuck_after_the_work_limit() {
    virtual_time(async {
        let tracker = builder(MemoryStore::new()).work_limit(60 * SECOND).spawn().await.unwrap();
        let permit = init(&tracker, id(1)).await;
        sleep(59 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "processing");
        // Work limit, lease, and a second.
        sleep(17 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "halted owner_lost");
        assert_eq!(tracker.status().await.unwrap().live, 0);
        // The owner may still complete: the halt was reported, not written.
        assert_eq!(permit.complete("late").await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"late\"");
    });
}

/// A node that died: it claimed, and is never heard of again.
async fn dead_node(store: &FaultyStore, number: u64) -> idempotency_tracker::Permit {
    let node = spawn(store.clone()).await;
    let permit = init(&node, id(number)).await;
    let owner = permit.owner();
    store.plan(move |command| match command {
        StoreCommand::Update(update)
            if update.owner == owner && matches!(update.change, Change::Renew { .. }) =>
        {
            Some(Fault::Hang)
        }
        _ => None,
    });
    std::mem::forget(node);
    permit
}

#[test]
fn after_one_lease_a_dead_node_is_known_to_be_dead_and_by_policy_succeeded() {
    virtual_time(async {
        let store = FaultyStore::new();
        let dead = dead_node(&store, 1).await;
        let tracker = spawn(store.clone()).await;
        sleep(14 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "processing");
        sleep(2 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "halted owner_lost");

        let rerun = Track::new(id(1), payload()).on_orphan(OnOrphan::Rerun);
        let Ok(Tracked::Init(permit)) = tracker.track(rerun).await else { panic!() };
        assert!(permit.took_over());
        assert_ne!(permit.owner(), dead.owner());
        // The dead one was only slow. Its result comes too late (I5).
        assert_eq!(dead.complete("zombie").await.unwrap(), Settled::Superseded);
        assert_eq!(permit.complete("successor").await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"successor\"");
    });
}

#[test]
fn a_takeover_that_never_reached_its_caller_leaves_the_orphan_an_orphan() {
    virtual_time(async {
        let store = FaultyStore::new();
        let _dead = dead_node(&store, 1).await;
        let tracker = spawn(store.clone()).await;
        sleep(16 * SECOND).await;
        let unread = tracker.track(Track::new(id(1), payload()).on_orphan(OnOrphan::Rerun));
        while tracker.status().await.unwrap().live == 0 {}
        drop(unread);
        // A release would have forgotten that the dead one may have done its work.
        assert_eq!(outcome(&tracker, id(1)).await, "halted cancelled");
    });
}

#[test]
fn a_halt_that_is_no_orphan_is_not_rerun() {
    virtual_time(async {
        let tracker = builder(MemoryStore::new()).on_orphan(OnOrphan::Rerun).spawn().await.unwrap();
        init(&tracker, id(1)).await.halt(idempotency_core::HaltReason::Panicked).await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "halted panicked");
        drop(init(&tracker, id(2)).await);
        assert_eq!(outcome(&tracker, id(2)).await, "init", "a cancelled one is");
    });
}

#[test]
fn a_claim_that_the_store_lost_is_claimed_again_by_its_owner() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        let forget = idempotency_core::Update::new(id(1), permit.owner(), Change::Release);
        Store::update(&*store.inner, &forget, time::OffsetDateTime::UNIX_EPOCH).await.unwrap();
        assert!(store.inner.is_empty());
        sleep(6 * SECOND).await;
        assert_eq!(store.inner.len(), 1);
        assert!(permit.is_held());
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
    });
}

#[test]
fn a_permit_knows_at_once_that_somebody_else_has_its_claim() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        // Behind its back the record is given to somebody else.
        let now = tracker.clock().now();
        let release = idempotency_core::Update::new(id(1), permit.owner(), Change::Release);
        store.inner.update(&release, now).await.unwrap();
        let other = Claim::new(id(1), Owner::from_u128(7), payload());
        store.inner.insert(&other, now).await.unwrap();
        let before = tokio::time::Instant::now();
        permit.lost().await;
        assert!(before.elapsed() <= 6 * SECOND, "{:?}: at the next renewal", before.elapsed());
        assert!(!permit.is_held());
        assert_eq!(permit.complete("too late").await.unwrap(), Settled::Superseded);
    });
}

#[test]
fn a_result_past_the_work_limit_is_kept_alive_and_holds_up_nobody() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).work_limit(4 * SECOND).spawn().await.unwrap();
        let late = init(&tracker, id(1)).await;
        sleep(6 * SECOND).await;
        store.always("complete", Fault::FailBefore);
        assert_eq!(late.complete("done").await.unwrap(), Settled::Deferred);
        let healthy = Track::new(id(2), payload()).work_limit(900 * SECOND);
        let Ok(Tracked::Init(healthy)) = tracker.track(healthy).await else { panic!() };
        let before = store.calls("renew");
        sleep(60 * SECOND).await;
        assert!(healthy.is_held());
        // Both are renewed: every 5 s for a minute.
        let renewals = store.calls("renew") - before;
        assert!((22..=30).contains(&renewals), "{renewals}");
        store.well();
        sleep(3 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn a_result_that_hangs_in_the_store_is_kept_alive_by_renewals() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        store.always("complete", Fault::Hang);
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Deferred);
        sleep(60 * SECOND).await;
        // Another node sees that somebody lives.
        let other = builder(store.inner.clone()).on_orphan(OnOrphan::Rerun).spawn().await.unwrap();
        assert_eq!(outcome(&other, id(1)).await, "processing");
        store.well();
        sleep(5 * SECOND).await;
        assert_eq!(outcome(&other, id(1)).await, "cached b\"done\"");
    });
}
