//! What a store says of itself, and what it keeps.

use std::collections::BTreeMap;

use idempotency_core::{
    Change, HaltReason, Record, RequestId, Restored, Secret, SecretCheck, Setup, Store, StoreErrorKind,
    Survives, Write,
};

use crate::{
    StoreFactory,
    world::{LONG, World, id, owner, response_of, setup},
};

/// What a store declares to survive it survives: here that it is closed and opened again. Its killing is a test of
/// whole processes.
pub async fn i6_what_was_acknowledged_survives_reopening<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    world.claimed(&world.long_claim(2, 1)).await;
    world.update(2, 1, world.complete_for_long("response")).await;
    world.claimed(&world.long_claim(3, 1)).await;
    world.update(3, 1, Change::Halt { reason: HaltReason::Panicked, retention: LONG }).await;
    let before = [world.record(1).await, world.record(2).await, world.record(3).await];
    let durable = world.store.capabilities().durability.local > Survives::Memory;
    let World { factory, store, .. } = world;
    let Some(store) = factory.reopen(store).await else {
        assert!(!durable || factory.is_erased(), "a durable store must be able to be opened again");
        return;
    };
    store.setup(&setup(factory.now())).await.expect("what was set up can be set up again");
    let world = World::of(factory, store);
    for (number, before) in (1..).zip(&before) {
        world.unchanged(number, before).await;
    }
    assert_eq!(response_of(&world.existing(&world.claim(2, 9)).await), &"response".into());

    // The secret is known still, and so is that the records moved.
    let other = Setup::new(Secret::new([2; 32]).check(), world.now());
    let refused = world.store.setup(&other).await.expect_err("another secret");
    assert_eq!(refused.kind(), StoreErrorKind::WrongSecret);
    world.store.retire("the new store").await.expect("a durable store can be retired");
    let World { factory, store, .. } = world;
    let store = factory.reopen(store).await.expect("it was opened again before");
    let refused = store.setup(&setup(factory.now())).await.expect_err("it was retired");
    assert_eq!(refused.kind(), StoreErrorKind::Moved);
}

/// A tracker with another secret would recognise no retry.
pub async fn i6_another_secret_is_refused<F: StoreFactory>(factory: F) {
    let store = factory.open().await;
    let check = Secret::new([1; 32]).check();
    let set_up = async |check: SecretCheck| store.setup(&Setup::new(check, factory.now())).await;
    set_up(check).await.expect("an empty store can be set up");
    set_up(check).await.expect("and again after a restart of the backend");
    for other in [Secret::new([2; 32]).check(), SecretCheck::unkeyed()] {
        let refused = set_up(other).await.expect_err("another secret");
        assert_eq!(refused.kind(), StoreErrorKind::WrongSecret);
        assert!(!refused.is_retryable());
    }
    set_up(check).await.expect("a refused one has changed nothing");
}

/// After a swap away, a restart on the old configuration must not charge twice.
pub async fn i11_a_retired_store_refuses_to_be_set_up<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    match world.store.retire("the new store").await {
        Ok(()) => {
            let refused = world.store.setup(&setup(world.now())).await.expect_err("it was retired");
            assert_eq!(refused.kind(), StoreErrorKind::Moved);
            assert!(refused.to_string().contains("the new store") && !refused.is_retryable(), "{refused}");
        }
        Err(refused) => {
            assert_eq!(refused.kind(), StoreErrorKind::Unsupported);
            let durable = world.store.capabilities().durability.local > Survives::Memory;
            assert!(!durable, "a durable store must be able to be retired");
        }
    }
}

/// After it was closed a store does as before, or refuses; it does not panic, and nothing that it kept is lost by it.
pub async fn i9_a_closed_store_answers_or_refuses<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    world.update(1, 1, world.complete_for_long("response")).await;
    let before = world.record(1).await;
    for _ in 0..2 {
        world.store.close().await.expect("a store can be closed, also twice");
    }
    match world.store.insert(&world.long_claim(2, 2), world.now()).await {
        Ok(answer) => assert_eq!(answer, idempotency_core::Inserted::Claimed),
        Err(refused) => assert!(refused.was_not_applied(), "nobody need wonder: {refused:?}"),
    }
    match world.store.lookup(&id(1), world.now()).await {
        Ok(found) => world.assert_same(&found.expect("the record"), &before),
        Err(refused) => assert!(refused.was_not_applied(), "{refused:?}"),
    }
    let World { factory, store, .. } = world;
    if let Some(store) = factory.reopen(store).await {
        store.setup(&setup(factory.now())).await.expect("what was set up can be set up again");
        World::of(factory, store).unchanged(1, &before).await;
    }
}

async fn all<F: StoreFactory>(world: &World<F>, limit: usize) -> Vec<(RequestId, Record)> {
    let (mut cursor, mut found) = (None, Vec::new());
    for _ in 0..1000 {
        let page = world.store.scan(cursor, limit).await.expect("a page");
        found.extend(page.records);
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
    panic!("a scan that never ends");
}

/// If it says that it can be scanned: every record, in pages.
pub async fn a_scan_finds_every_record_once_at_least<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    if !world.store.capabilities().scan {
        return;
    }
    assert_eq!(all(&world, 10).await, []);
    let mut expected = BTreeMap::new();
    for number in 0..25 {
        world.claimed(&world.long_claim(number, number)).await;
        if number % 3 == 0 {
            world.update(number, number, world.complete_for_long(vec![number; 10])).await;
        }
        expected.insert(id(number), world.record(number).await);
    }
    for limit in [1, 7, 25, 100] {
        let found: BTreeMap<_, _> = all(&world, limit).await.into_iter().collect();
        assert!(
            found.keys().eq(expected.keys()),
            "in pages of {limit}: {} of {}",
            found.len(),
            expected.len()
        );
        for (one, other) in found.values().zip(expected.values()) {
            world.assert_same(one, other);
        }
    }
}

/// If it says that it can be restored to: the whole record, with its owner and what is left of its times.
pub async fn a_restored_record_is_whole<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    if !world.store.capabilities().restore {
        return;
    }
    let claim = world.long_claim(1, 1);
    let Write::Put(running) = Record::on_insert(None, &claim, world.now()).write else { unreachable!() };
    let update = idempotency_core::Update::new(id(1), owner(1), world.complete("response"));
    let Write::Put(settled) = Record::on_update(Some(&running), &update, world.now()).write else {
        unreachable!()
    };
    for (number, record) in [(1, &running), (2, &settled)] {
        let restored = world.store.restore(&id(number), record, world.now()).await;
        assert_eq!(restored.expect("a restore"), Restored::Restored);
        let found = world.record(number).await;
        world.assert_same(&found, record);
        assert_eq!(
            (found.owner, &found.meta, found.fingerprint),
            (record.owner, &record.meta, record.fingerprint)
        );
        assert_eq!(found.state.is_settled(), record.state.is_settled());
    }
    world.pass(3).await;
    assert_eq!(world.store.restore(&id(3), &settled, world.now()).await.unwrap(), Restored::Expired);
    assert_eq!(world.lookup(3).await, None);
    // Its owner goes on with it.
    let applied = world.update(1, 1, world.complete("response")).await;
    assert_eq!(applied, idempotency_core::Updated::Applied);
}

/// A copy that comes late must not undo what has happened meanwhile.
pub async fn a_settled_record_is_not_overwritten_by_a_restore<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    if !world.store.capabilities().restore {
        return;
    }
    world.claimed(&world.long_claim(1, 1)).await;
    let running = world.record(1).await;
    world.update(1, 1, world.complete("response")).await;
    let settled = world.record(1).await;
    let restored = world.store.restore(&id(1), &running, world.now()).await.expect("a restore");
    assert!(matches!(restored, Restored::Exists(_)), "{restored:?}");
    world.unchanged(1, &settled).await;
    // Nor take an id from somebody else.
    world.claimed(&world.long_claim(2, 2)).await;
    let theirs = world.record(2).await;
    let mut ours = running;
    ours.owner = owner(1);
    let restored = world.store.restore(&id(2), &ours, world.now()).await.expect("a restore");
    assert!(matches!(restored, Restored::Exists(_)), "{restored:?}");
    world.unchanged(2, &theirs).await;
}

/// What its capabilities do not offer is refused, and not done by halves.
pub async fn what_is_not_offered_is_refused_as_unsupported<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let capabilities = world.store.capabilities();
    let unsupported = |error: idempotency_core::StoreError| {
        assert_eq!(error.kind(), StoreErrorKind::Unsupported);
        assert!(error.was_not_applied());
    };
    if !capabilities.scan {
        unsupported(world.store.scan(None, 1).await.expect_err("a scan"));
    }
    world.claimed(&world.long_claim(1, 1)).await;
    if !capabilities.restore {
        let record = world.record(1).await;
        unsupported(world.store.restore(&id(2), &record, world.now()).await.expect_err("a restore"));
        assert_eq!(world.lookup(2).await, None);
    }
    assert_eq!(world.store.settled().is_some(), capabilities.push, "push is what `settled` offers");
    if !capabilities.push {
        unsupported(world.store.watch(&id(1), world.now()).await.expect_err("a watch"));
    }
    let replicas = capabilities.durability.replicas;
    assert!(capabilities.shared || replicas == 0, "replicas of a store that is not shared");
}
