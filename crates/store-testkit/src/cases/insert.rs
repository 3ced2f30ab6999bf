//! The first table: what a claim hears of what is there.

use idempotency_core::{Change, Fingerprint, HaltReason, Inserted, State};

use crate::{
    StoreFactory,
    world::{LEASE, LONG, RETENTION, World, fingerprint, lease_until, owner},
};

/// A claim of an id that is free is written as it was asked for.
pub async fn i1_a_free_id_is_claimed<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    assert_eq!(world.lookup(1).await, None);
    world.claimed(&world.claim(1, 1)).await;
    let record = world.record(1).await;
    assert_eq!((record.owner, record.fingerprint), (owner(1), fingerprint()));
    assert_eq!(record.meta.as_bytes()[..], [1; 3]);
    world.assert_in(record.claimed_at, 0);
    world.assert_in(lease_until(&record), LEASE);
    world.assert_in(record.expires_at, LEASE + RETENTION);
}

/// A second claim of an id is told what is there, and changes nothing.
pub async fn i1_a_second_claim_hears_of_the_first<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    let before = world.record(1).await;
    world.assert_same(&world.existing(&world.claim(1, 2)).await, &before);
    // Naming its owner takes nothing over as long as it is alive.
    world.assert_same(&world.existing(&world.takeover(1, 2, 1)).await, &before);
    world.update(1, 1, world.complete("response")).await;
    let completed = world.record(1).await;
    world.assert_same(&world.existing(&world.claim(1, 2)).await, &completed);
    world.assert_same(&world.existing(&world.takeover(1, 2, 1)).await, &completed);
    world.unchanged(1, &completed).await;
}

/// The same claim again, as it is after a lost reply: it is claimed still, and its lease begins anew.
pub async fn i1_a_repeated_claim_after_a_lost_reply_is_claimed_again<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let claim = world.claim(1, 1);
    world.claimed(&claim).await;
    let first = world.record(1).await;
    world.pass(1).await;
    world.claimed(&claim).await;
    let repeated = world.record(1).await;
    world.assert_in(lease_until(&repeated), LEASE);
    // Also when the lease has lapsed meanwhile, as long as nobody took it over.
    world.pass(LEASE + 1).await;
    world.claimed(&claim).await;
    let repeated = world.record(1).await;
    world.assert_in(lease_until(&repeated), LEASE);
    world.assert_near(repeated.claimed_at, first.claimed_at);
}

/// The same claim again when its work was settled: a repeated claim never runs finished work again.
pub async fn i2_a_repeated_claim_never_runs_settled_work_again<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for (number, settle) in [(1, world.complete("response")), (2, world.halt(HaltReason::Cancelled))] {
        let claim = world.long_claim(number, number);
        world.claimed(&claim).await;
        world.update(number, number, settle).await;
        let settled = world.record(number).await;
        world.assert_same(&world.existing(&claim).await, &settled);
        world.unchanged(number, &settled).await;
    }
}

/// A claim with another payload takes nothing over, whatever state the record is in.
pub async fn i4_a_claim_with_another_fingerprint_takes_nothing_over<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    for (number, reason) in [(2, HaltReason::Cancelled), (3, HaltReason::Panicked)] {
        world.claimed(&world.long_claim(number, 1)).await;
        world.update(number, 1, Change::Halt { reason, retention: LONG }).await;
    }
    world.claimed(&world.long_claim(4, 1)).await;
    world.update(4, 1, Change::Complete { response: "response".into(), retention: LONG }).await;
    world.pass(LEASE).await;
    for number in 1..=4 {
        let before = world.record(number).await;
        let mut claim = world.takeover(number, 2, 1);
        claim.fingerprint = Fingerprint::derive(None, [&b"another payload"[..]]);
        world.assert_same(&world.existing(&claim).await, &before);
        world.unchanged(number, &before).await;
    }
}

/// An orphan goes to whoever names the owner that died, and to nobody else.
pub async fn i8_a_lapsed_claim_is_taken_over_by_whoever_names_its_owner<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    world.existing(&world.takeover(1, 2, 1)).await;
    world.pass(LEASE).await;
    for refused in [world.claim(1, 2), world.takeover(1, 2, 3)] {
        assert_eq!(world.existing(&refused).await.owner, owner(1));
    }
    world.claimed(&world.takeover(1, 2, 1)).await;
    let record = world.record(1).await;
    assert_eq!(record.owner, owner(2));
    world.assert_in(record.claimed_at, 0);
    world.assert_in(lease_until(&record), LEASE);
    // The next one must name the new owner.
    world.existing(&world.takeover(1, 3, 1)).await;
}

/// A halted record goes to whoever names its owner, whatever the reason: the policy of when is the tracker's.
pub async fn i8_a_halted_record_is_taken_over<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let reasons = [HaltReason::Cancelled, HaltReason::Shutdown, HaltReason::Panicked, HaltReason::Unknown];
    for (number, reason) in (1..).zip(reasons) {
        world.claimed(&world.long_claim(number, 1)).await;
        world.update(number, 1, world.halt(reason)).await;
        world.existing(&world.claim(number, 2)).await;
        world.claimed(&world.takeover(number, 2, 1)).await;
        let record = world.record(number).await;
        assert!(record.owner == owner(2) && matches!(record.state, State::Processing { .. }), "{record:?}");
    }
}

/// What has expired is free, also before anybody pruned it.
pub async fn i7_an_expired_record_is_free<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    world.claimed(&world.claim(2, 1)).await;
    world.update(2, 1, world.complete("response")).await;
    world.claimed(&world.claim(3, 1)).await;
    world.update(3, 1, Change::Release).await;
    assert_eq!(
        world.insert(&world.claim(3, 2)).await,
        Inserted::Claimed,
        "what was released is free at once"
    );
    world.pass(LEASE + RETENTION).await;
    for number in [1, 2, 3] {
        world.claimed(&world.claim(number, 4)).await;
        let record = world.record(number).await;
        assert_eq!(record.owner, owner(4));
        world.assert_in(record.claimed_at, 0);
    }
}
