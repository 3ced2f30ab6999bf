//! Many at once.

use std::sync::{Arc, Barrier};

use futures_util::future::join_all;
use idempotency_core::{Change, Claim, HaltReason, Inserted, Store, Updated};
use tokio::runtime::Handle;

use crate::{
    StoreFactory,
    world::{LEASE, LONG, World, owner},
};

const CALLERS: u8 = 32;
const ROUNDS: u8 = 20;

/// Does all of these at once: each on a thread of its own, and none begins before all are there.
async fn at_once<C, T, Fut>(calls: Vec<C>) -> Vec<T>
where
    C: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
    T: Send + 'static,
{
    let (all, runtime) = (Arc::new(Barrier::new(calls.len())), Handle::current());
    let threads = calls.into_iter().map(|call| {
        let (all, runtime) = (all.clone(), runtime.clone());
        tokio::task::spawn_blocking(move || {
            all.wait();
            runtime.block_on(call())
        })
    });
    let threads: Vec<_> = threads.collect();
    join_all(threads).await.into_iter().map(|answer| answer.expect("a call")).collect()
}

async fn claims_at_once<F: StoreFactory>(world: &Arc<World<F>>, claims: Vec<Claim>) -> Vec<Inserted> {
    let calls = claims.into_iter().map(|claim| {
        let world = world.clone();
        move || async move { world.insert(&claim).await }
    });
    at_once(calls.collect()).await
}

fn winners(answers: &[Inserted]) -> usize {
    answers.iter().filter(|answer| **answer == Inserted::Claimed).count()
}

/// One of many callers gets the id, and every other one hears of him.
pub async fn i1_of_many_claims_at_once_one_is_claimed<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for round in 0..ROUNDS {
        let claims = (0..CALLERS).map(|caller| world.long_claim(round, caller)).collect();
        let answers = claims_at_once(&world, claims).await;
        assert_eq!(winners(&answers), 1);
        let owner = world.record(round).await.owner;
        for answer in answers {
            assert!(!matches!(answer, Inserted::Exists(record) if record.owner != owner));
        }
    }
}

/// The same for an orphan.
pub async fn i1_of_many_takeovers_at_once_one_is_claimed<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for number in 0..ROUNDS {
        let mut claim = world.claim(number, 200);
        claim.retention = LONG;
        world.claimed(&claim).await;
        if number % 2 == 1 {
            let halt = Change::Halt { reason: HaltReason::Cancelled, retention: LONG };
            world.update(number, 200, halt).await;
        }
    }
    world.pass(LEASE).await;
    for number in 0..ROUNDS {
        let mut claims = Vec::new();
        for caller in 0..CALLERS {
            let mut claim = world.long_claim(number, caller);
            claim.takes_over = Some(owner(200));
            claims.push(claim);
        }
        assert_eq!(world.record(number).await.owner, owner(200), "it is there to be taken over");
        assert_eq!(winners(&claims_at_once(&world, claims).await), 1);
    }
}

/// An owner that says two things at once is taken at one of them.
pub async fn i5_of_two_settles_at_once_one_is_applied<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for number in 0..ROUNDS {
        world.claimed(&world.long_claim(number, 1)).await;
        let says = [world.complete("one"), world.complete("two"), world.halt(HaltReason::Unknown)];
        let calls = says.map(|change| {
            let world = world.clone();
            move || async move { world.update(number, 1, change).await }
        });
        let answers = at_once(calls.into()).await;
        let applied = answers.iter().filter(|answer| **answer == Updated::Applied).count();
        assert_eq!(applied, 1, "{answers:?}");
    }
}

/// All of many ids are claimed, each by its own caller.
pub async fn i1_claims_of_many_ids_do_not_disturb_each_other<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    let claims: Vec<_> = (0..100).map(|number| world.long_claim(number, number)).collect();
    assert_eq!(winners(&claims_at_once(&world, claims).await), 100);
    for number in 0..100 {
        assert_eq!(world.record(number).await.owner, owner(number));
    }
}

/// A put that comes just when its claim is taken over is stored, or refused: never both, and never neither.
pub async fn i5_of_a_takeover_and_a_late_put_one_wins<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for number in 0..ROUNDS {
        let mut claim = world.claim(number, 1);
        claim.retention = LONG;
        world.claimed(&claim).await;
    }
    world.pass(LEASE).await;
    for number in 0..ROUNDS {
        let mut takeover = world.long_claim(number, 2);
        takeover.takes_over = Some(owner(1));
        let put = Change::Complete { response: "late".into(), retention: LONG };
        let (one, other) = (world.clone(), world.clone());
        let taken = tokio::spawn(async move { one.insert(&takeover).await });
        let stored = tokio::spawn(async move { other.update(number, 1, put).await });
        let (taken, stored) = (taken.await.expect("an insert"), stored.await.expect("an update"));
        let record = world.record(number).await;
        match stored {
            Updated::Applied => {
                assert!(matches!(taken, Inserted::Exists(_)), "{taken:?}");
                assert_eq!((record.owner, record.state.is_settled()), (owner(1), true));
            }
            _ => {
                assert_eq!((stored, taken), (Updated::Fenced, Inserted::Claimed));
                assert_eq!((record.owner, record.state.is_settled()), (owner(2), false));
            }
        }
    }
}

/// What is claimed anew at the moment of a prune is not pruned with what expired.
pub async fn i12_a_prune_beside_a_claim_deletes_no_claim<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for number in 0..100 {
        world.claimed(&world.claim(number, 1)).await;
    }
    world.pass(5).await;
    let pruning = {
        let world = world.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                world.store.prune(world.now(), 10).await.expect("a prune");
            }
        })
    };
    let claims: Vec<_> = (0..100).map(|number| world.long_claim(number, 2)).collect();
    assert_eq!(winners(&claims_at_once(&world, claims).await), 100, "what has expired is free");
    pruning.await.expect("a prune");
    for number in 0..100 {
        assert_eq!(world.record(number).await.owner, owner(2), "it was not pruned");
    }
}
