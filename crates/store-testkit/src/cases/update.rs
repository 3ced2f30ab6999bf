//! The second table: what becomes of a change by what is there.

use idempotency_core::{Change, HaltReason, State, Updated};

use crate::{
    StoreFactory,
    world::{LEASE, RETENTION, World, lease_until, owner, response_of},
};

/// A change of nothing.
pub async fn i5_what_is_not_there_is_not_found<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for change in world.changes() {
        let name = change.name();
        assert_eq!(world.update(1, 1, change).await, Updated::NotFound, "{name}");
        assert_eq!(world.lookup(1).await, None, "{name}");
    }
}

/// The row `Processing`, same owner.
pub async fn i5_the_owner_moves_a_running_record_on<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for (number, change) in (1..).zip(world.changes()) {
        world.claimed(&world.claim(number, 1)).await;
        let before = world.record(number).await;
        let answer = world.update(number, 1, change.clone()).await;
        let after = world.lookup(number).await;
        match change {
            Change::Renew { .. } => {
                assert_eq!(answer, Updated::Applied);
                world.assert_in(lease_until(&after.unwrap()), LEASE);
            }
            Change::Complete { response, .. } => {
                assert_eq!(answer, Updated::Applied);
                let after = after.unwrap();
                assert_eq!(response_of(&after), &response);
                assert_eq!(after.owner, before.owner);
                world.assert_near(after.claimed_at, before.claimed_at);
                assert_eq!(after.meta, before.meta);
                world.assert_in(after.expires_at, RETENTION);
            }
            Change::Halt { reason, .. } => {
                assert_eq!(answer, Updated::Applied);
                let after = after.unwrap();
                assert_eq!(after.state, State::Halted(reason));
                world.assert_in(after.expires_at, RETENTION);
            }
            Change::Release => assert_eq!((answer, after), (Updated::Applied, None)),
            // An operator's: a running record is its caller's.
            _ => {
                assert_eq!(answer, Updated::Fenced);
                world.assert_same(&after.unwrap(), &before);
            }
        }
    }
}

/// The row `Processing`, same owner, lapsed: until somebody takes it over it is still his.
pub async fn i5_the_owner_may_still_settle_after_its_lease_lapsed<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for number in 1..=5 {
        world.claimed(&world.claim(number, 1)).await;
    }
    world.pass(LEASE).await;
    for (number, change) in (1..).zip(world.changes()) {
        let name = change.name();
        assert_eq!(world.update(number, 1, change.clone()).await, Updated::Applied, "{name}");
        let after = world.lookup(number).await;
        match change {
            Change::Renew { .. } => world.assert_in(lease_until(&after.unwrap()), LEASE),
            Change::Release | Change::Forget => assert_eq!(after, None, "{name}"),
            _ => assert!(after.unwrap().state.is_settled(), "{name}"),
        }
    }
}

/// The last row: nobody but the owner.
pub async fn i5_another_owner_is_fenced_in_every_state<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let settles = [None, Some(world.complete("response")), Some(world.halt(HaltReason::Shutdown))];
    for (number, settle) in (1..).zip(settles) {
        world.claimed(&world.long_claim(number, 1)).await;
        if let Some(settle) = settle {
            world.update(number, 1, settle).await;
        }
        let before = world.record(number).await;
        for change in world.changes() {
            let name = change.name();
            assert_eq!(
                world.update(number, 2, change).await,
                Updated::Fenced,
                "{name} of {:?}",
                before.state
            );
            world.unchanged(number, &before).await;
        }
    }
    // Lapsed is not free.
    world.claimed(&world.claim(9, 1)).await;
    world.pass(LEASE).await;
    let before = world.record(9).await;
    for change in world.changes() {
        assert_eq!(world.update(9, 2, change).await, Updated::Fenced);
        world.unchanged(9, &before).await;
    }
}

/// The row `Completed`, same owner.
pub async fn i3_a_completed_record_stays_as_it_is<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    world.update(1, 1, world.complete("response")).await;
    let before = world.record(1).await;
    let expected = [Updated::Fenced, Updated::AlreadyApplied, Updated::Fenced, Updated::Fenced];
    for (change, expected) in world.changes().into_iter().zip(expected) {
        let name = change.name();
        assert_eq!(world.update(1, 1, change).await, expected, "{name}");
        world.unchanged(1, &before).await;
    }
    assert_eq!(world.update(1, 1, world.complete("another response")).await, Updated::Fenced);
    world.unchanged(1, &before).await;
    assert_eq!(world.update(1, 1, Change::Forget).await, Updated::Applied);
    assert_eq!(world.lookup(1).await, None);
}

/// The row `Halted`, same owner, for a reason that is not a shutdown.
pub async fn i5_a_halted_record_stays_halted<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    world.update(1, 1, world.halt(HaltReason::Panicked)).await;
    let before = world.record(1).await;
    let expected = [Updated::Fenced, Updated::Fenced, Updated::AlreadyApplied, Updated::Fenced];
    for (change, expected) in world.changes().into_iter().zip(expected) {
        let name = change.name();
        assert_eq!(world.update(1, 1, change).await, expected, "{name}");
        world.unchanged(1, &before).await;
    }
    assert_eq!(world.update(1, 1, Change::Forget).await, Updated::Applied);
    assert_eq!(world.lookup(1).await, None);
}

/// Work that went on through a shutdown may still say how it ended.
pub async fn i10_a_result_after_a_shutdown_is_taken<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    world.update(1, 1, world.halt(HaltReason::Shutdown)).await;
    assert_eq!(world.update(1, 1, world.complete("late")).await, Updated::Applied);
    assert_eq!(response_of(&world.record(1).await), &"late".into());
}

/// Pruned and claimed anew: whoever had it before has nothing any more.
pub async fn i5_an_owner_of_an_earlier_generation_is_fenced<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    world.pass(LEASE + RETENTION).await;
    world.store_pruned().await;
    world.claimed(&world.long_claim(1, 2)).await;
    let before = world.record(1).await;
    for change in world.changes() {
        let name = change.name();
        assert_eq!(world.update(1, 1, change).await, Updated::Fenced, "{name}");
        world.unchanged(1, &before).await;
    }
    world.assert_same(&world.existing(&world.claim(1, 1)).await, &before);
}

/// Taken over: the late result of a dead caller changes nothing.
pub async fn i5_a_caller_that_was_taken_over_is_fenced<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    world.pass(LEASE).await;
    world.claimed(&world.takeover(1, 2, 1)).await;
    let before = world.record(1).await;
    for change in world.changes() {
        assert_eq!(world.update(1, 1, change).await, Updated::Fenced);
        world.unchanged(1, &before).await;
    }
    assert_eq!(world.update(1, 2, world.complete("response")).await, Updated::Applied);
    assert_eq!(world.record(1).await.owner, owner(2));
}

/// The first row again: what has expired is as good as gone.
pub async fn i7_what_has_expired_is_not_found<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.claim(1, 1)).await;
    world.claimed(&world.claim(2, 1)).await;
    world.update(2, 1, world.complete("response")).await;
    world.pass(LEASE + RETENTION).await;
    for number in [1, 2] {
        for change in world.changes() {
            let name = change.name();
            assert_eq!(world.update(number, 1, change).await, Updated::NotFound, "{name}");
        }
        assert_eq!(world.lookup(number).await, None);
    }
}
