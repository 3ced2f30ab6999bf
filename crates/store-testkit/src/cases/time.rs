//! Leases, expiry and pruning.

use std::time::Duration;

use idempotency_core::{Change, Pruned, Store, Updated};

use crate::{
    StoreFactory,
    world::{LEASE, LONG, RETENTION, World, lease_until, owner},
};

impl<F: StoreFactory> World<F> {
    /// Prunes until there is nothing more to prune.
    pub(crate) async fn store_pruned(&self) -> usize {
        let mut deleted = 0;
        for _ in 0..1000 {
            let pruned = self.store.prune(self.now(), 100).await.expect("a prune");
            deleted += pruned.deleted;
            if !pruned.more {
                return deleted;
            }
        }
        panic!("a prune that never ends");
    }
}

/// Not served a moment longer than it is kept, whether it was pruned or not.
pub async fn i7_an_expired_record_is_not_looked_up<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    world.update(1, 1, world.complete("response")).await;
    world.pass(RETENTION - 1).await;
    assert!(world.lookup(1).await.is_some());
    world.pass(1).await;
    assert_eq!(world.lookup(1).await, None);
}

/// A claim without a sign of life is an orphan, and is still there.
pub async fn i8_a_lease_lapses_by_itself<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    assert!(!world.record(1).await.is_lapsed(world.now()));
    world.pass(LEASE).await;
    let record = world.record(1).await;
    assert!(record.is_lapsed(world.now()) && record.is_orphan(world.now()));
    assert_eq!(record.owner, owner(1));
}

/// While it is renewed, a claim lives.
pub async fn i12_a_renewed_claim_outlives_its_first_lease<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    for _ in 0..5 {
        world.pass(1).await;
        assert_eq!(world.update(1, 1, world.renew()).await, Updated::Applied);
        world.store_pruned().await;
    }
    let record = world.record(1).await;
    assert!(!record.is_lapsed(world.now()));
    world.assert_in(record.expires_at, LEASE + RETENTION);
    // And its owner still completes it.
    assert_eq!(world.update(1, 1, world.complete("response")).await, Updated::Applied);
}

/// A late or shorter renewal takes nothing away.
pub async fn i12_a_renewal_never_shortens_a_lease<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    let before = world.record(1).await;
    let short = Change::Renew { lease: Duration::from_millis(1), retention: LONG };
    assert_eq!(world.update(1, 1, short).await, Updated::Applied);
    world.assert_near(lease_until(&world.record(1).await), lease_until(&before));
}

/// Pruning takes what has expired, in every state, and nothing else.
pub async fn i12_prune_deletes_only_what_has_expired<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for number in 1..=3 {
        world.claimed(&world.claim(number, 1)).await;
    }
    world.update(2, 1, world.complete("response")).await;
    world.update(3, 1, world.halt(idempotency_core::HaltReason::Panicked)).await;
    for number in 4..=6 {
        world.claimed(&world.long_claim(number, 1)).await;
    }
    let kept = Duration::from_secs(24 * 60 * 60);
    let response = "response".into();
    world.update(5, 1, Change::Complete { response, retention: kept }).await;
    let reason = idempotency_core::HaltReason::Panicked;
    world.update(6, 1, Change::Halt { reason, retention: kept }).await;
    let before: Vec<_> = [world.record(4).await, world.record(5).await, world.record(6).await].into();

    world.pass(LEASE + RETENTION + 1).await;
    let deleted = world.store_pruned().await;
    if !world.store.capabilities().native_expiry {
        assert_eq!(deleted, 3);
    }
    for (number, before) in (4..).zip(&before) {
        world.unchanged(number, before).await;
    }
    for number in 1..=3 {
        assert_eq!(world.lookup(number).await, None);
    }
    assert_eq!(world.store_pruned().await, 0);
}

/// Work that takes longer than the retention: its record must not go while it runs, nor once it has just ended.
pub async fn trap_prune_deletes_no_running_request<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    for _ in 0..4 {
        world.pass(1).await;
        world.update(1, 1, world.renew()).await;
    }
    // By now the retention, counted from the claim, is over.
    world.store_pruned().await;
    assert!(world.lookup(1).await.is_some(), "a running request was pruned");
    world.update(1, 1, world.complete("response")).await;
    world.pass(RETENTION - 1).await;
    world.store_pruned().await;
    assert!(world.lookup(1).await.is_some(), "a response was pruned before its retention was over");
}

/// One step takes no more than it may.
pub async fn prune_is_bounded_and_says_whether_there_is_more<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for number in 0..10 {
        world.claimed(&world.claim(number, 1)).await;
    }
    assert_eq!(world.store.prune(world.now(), 4).await.unwrap(), Pruned::default());
    world.pass(LEASE + RETENTION).await;
    if world.store.capabilities().native_expiry {
        return;
    }
    let mut deleted = 0;
    for step in 1.. {
        let pruned = world.store.prune(world.now(), 4).await.unwrap();
        assert!(pruned.deleted <= 4, "{pruned:?}");
        deleted += pruned.deleted;
        if !pruned.more {
            break;
        }
        assert!(step < 20, "a prune that never ends");
    }
    assert_eq!(deleted, 10);
}
