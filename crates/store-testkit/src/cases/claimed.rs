//! What a store claims to be able to do beside the five methods.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use idempotency_core::{Change, HaltReason, Inserted, Store};

use crate::{
    StoreFactory,
    world::{LEASE, LONG, World, fingerprint, id, lease_until, owner},
};

const TEN_MINUTES: Duration = Duration::from_secs(600);

/// Far longer than a hint takes.
const SOON: Duration = Duration::from_secs(5);

/// Callers whose clocks are ten minutes off, either way, hear the same as everybody else, in their own time.
pub async fn i8_a_shared_store_decides_by_its_own_clock<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    if !world.store.capabilities().shared {
        return;
    }
    for (number, off) in [(1, time::Duration::minutes(10)), (2, time::Duration::minutes(-10))] {
        let now = || world.now() + off;
        let claim = world.long_claim(number, 1);
        assert_eq!(world.store.insert(&claim, now()).await.unwrap(), Inserted::Claimed);
        let record = world.store.lookup(&id(number), now()).await.unwrap().expect("it was claimed just now");
        // In the caller's time.
        world.assert_near(lease_until(&record), now() + claim.lease);
        // For others it stands, whatever their clocks say.
        let mut takeover = world.takeover(number, 2, 1);
        takeover.lease = TEN_MINUTES;
        for other in [now() + 2 * TEN_MINUTES, world.now() + 20 * TEN_MINUTES] {
            let answer = world.store.insert(&takeover, other).await.unwrap();
            assert!(matches!(answer, Inserted::Exists(record) if record.owner == owner(1)));
        }
    }
    // What has lapsed has lapsed also for whom it is still ten minutes ago.
    world.claimed(&world.claim(3, 1)).await;
    world.pass(LEASE + 1).await;
    let long_ago = world.now() - TEN_MINUTES;
    let answer = world.store.insert(&world.takeover(3, 2, 1), long_ago).await.unwrap();
    assert_eq!(answer, Inserted::Claimed);
    world.pass(6).await;
    assert_eq!(world.store.lookup(&id(3), world.now() - TEN_MINUTES).await.unwrap(), None);
}

/// Two handles of one shared store, as two processes have them, see the same records and exclude each other.
pub async fn i1_two_handles_of_a_shared_store_are_one<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let Some(other) = world.factory.another(&world.store).await else {
        let shared = world.store.capabilities().shared;
        assert!(!shared || world.factory.is_erased(), "a shared store must be able to be opened twice");
        return;
    };
    other.setup(&crate::world::setup(world.now())).await.expect("what was set up can be set up again");
    let (world, other) = (Arc::new(world), Arc::new(other));
    for number in 0..20 {
        let calls = (0..8u8).map(|caller| {
            let (world, other) = (world.clone(), other.clone());
            tokio::spawn(async move {
                let claim = world.long_claim(number, caller);
                match caller % 2 {
                    0 => world.insert(&claim).await,
                    _ => other.insert(&claim, world.now()).await.expect("an insert"),
                }
            })
        });
        let answers = join_all(calls).await;
        let claimed = answers.iter().filter(|answer| matches!(answer, Ok(Inserted::Claimed))).count();
        assert_eq!(claimed, 1, "{answers:?}");
        let record = other.lookup(&id(number), world.now()).await.expect("a lookup").expect("it was claimed");
        assert_eq!(record.owner, world.record(number).await.owner);
    }
}

/// If it says that expired records vanish by themselves, nobody has to prune them.
pub async fn i7_what_expires_natively_vanishes_by_itself<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let capabilities = world.store.capabilities();
    if !capabilities.native_expiry {
        return;
    }
    world.claimed(&world.claim(1, 1)).await;
    world.claimed(&world.claim(2, 1)).await;
    world.update(2, 1, world.complete("response")).await;
    world.claimed(&world.long_claim(3, 1)).await;
    world.pass(6).await;
    if capabilities.scan {
        let page = world.store.scan(None, 100).await.expect("a page");
        assert!(page.records.iter().all(|(found, _)| *found == id(3)), "what has expired is gone");
    }
    let pruned = world.store.prune(world.now(), 10).await.expect("a prune");
    assert_eq!((pruned.deleted, pruned.more), (0, false), "there is nothing to prune");
    assert!(world.lookup(3).await.is_some());
}

/// If it says that it pushes: whoever watches an id hears of its end, whatever the end.
pub async fn whoever_watches_an_id_hears_that_it_is_settled<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    if !world.store.capabilities().push {
        assert!(world.store.settled().is_none(), "a store that does not push has no hints");
        return;
    }
    let mut hints = world.store.settled().expect("a store that pushes has hints");
    let ends = [
        world.complete("response"),
        Change::Halt { reason: HaltReason::Panicked, retention: LONG },
        Change::Release,
    ];
    for (number, end) in (1..).zip(ends) {
        world.claimed(&world.long_claim(number, 1)).await;
        let running = world.store.watch(&id(number), world.now()).await.expect("a watch");
        assert_eq!(running.expect("what was claimed").owner, owner(1));
        world.update(number, 1, end).await;
        let heard = tokio::time::timeout(SOON, async {
            while hints.next().await.expect("hints without an end") != id(number) {}
        });
        heard.await.expect("a hint that it was settled");
    }
    // A takeover keeps the wish.
    let mut claim = world.claim(9, 1);
    claim.retention = LONG;
    world.claimed(&claim).await;
    world.store.watch(&id(9), world.now()).await.expect("a watch");
    world.pass(LEASE + 1).await;
    let mut takeover = world.long_claim(9, 2);
    takeover.takes_over = Some(owner(1));
    assert_eq!(takeover.fingerprint, fingerprint());
    world.claimed(&takeover).await;
    world.update(9, 2, world.complete("response")).await;
    let heard = tokio::time::timeout(SOON, async {
        while hints.next().await.expect("hints without an end") != id(9) {}
    });
    heard.await.expect("a hint after the takeover");
    // What has an end already is read, for nobody will tell of it.
    let settled = world.store.watch(&id(9), world.now()).await.expect("a watch of what is settled");
    assert!(settled.is_some_and(|record| record.state.is_settled()));
    let nothing = world.store.watch(&id(77), world.now()).await.expect("a watch of what is not there");
    assert_eq!(nothing, None);
}
