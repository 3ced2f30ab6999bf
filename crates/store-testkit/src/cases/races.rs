//! Many at once.

use std::sync::{Arc, Barrier};

use futures_util::future::join_all;
use idempotency_core::{Change, Claim, HaltReason, Inserted, Updated};
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
        world.claimed(&world.claim(number, 200)).await;
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
