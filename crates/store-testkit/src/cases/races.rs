//! Many at once.

use std::sync::Arc;

use futures_util::future::join_all;
use idempotency_core::{Claim, HaltReason, Inserted, Store, Update, Updated};

use crate::{
    StoreFactory,
    world::{LEASE, World, id, owner},
};

const CALLERS: u8 = 32;
const ROUNDS: u8 = 20;

/// Claims all of these at once, each in a task of its own.
async fn at_once<F: StoreFactory>(world: &Arc<World<F>>, claims: Vec<Claim>) -> Vec<Inserted> {
    let tasks = claims.into_iter().map(|claim| {
        let world = world.clone();
        tokio::spawn(async move { world.insert(&claim).await })
    });
    join_all(tasks).await.into_iter().map(|inserted| inserted.expect("a claim")).collect()
}

fn winners(answers: &[Inserted]) -> usize {
    answers.iter().filter(|answer| **answer == Inserted::Claimed).count()
}

/// One of many callers gets the id, and every other one hears of him.
pub async fn i1_of_many_claims_at_once_one_is_claimed<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for round in 0..ROUNDS {
        let claims = (0..CALLERS).map(|caller| world.long_claim(round, caller)).collect();
        let answers = at_once(&world, claims).await;
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
            world.update(number, 200, world.halt(HaltReason::Cancelled)).await;
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
        let expired = world.lookup(number).await.is_none();
        assert_eq!(winners(&at_once(&world, claims).await), 1, "expired: {expired}");
    }
}

/// An owner that says two things at once is taken at one of them.
pub async fn i5_of_two_settles_at_once_one_is_applied<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    for number in 0..ROUNDS {
        world.claimed(&world.long_claim(number, 1)).await;
        let says = [world.complete("one"), world.complete("two"), world.halt(HaltReason::Unknown)];
        let tasks = says.map(|change| {
            let world = world.clone();
            tokio::spawn(async move {
                let update = Update::new(id(number), owner(1), change);
                world.store.update(&update, world.now()).await.expect("an update")
            })
        });
        let answers = join_all(tasks).await;
        let applied = answers.iter().filter(|answer| matches!(answer, Ok(Updated::Applied))).count();
        assert_eq!(applied, 1, "{answers:?}");
    }
}

/// All of many ids are claimed, each by its own caller.
pub async fn i1_claims_of_many_ids_do_not_disturb_each_other<F: StoreFactory>(factory: F) {
    let world = Arc::new(World::new(factory).await);
    let claims: Vec<_> = (0..200).map(|number| world.long_claim(number, number)).collect();
    assert_eq!(winners(&at_once(&world, claims).await), 200);
    for number in 0..200 {
        assert_eq!(world.record(number).await.owner, owner(number));
    }
}
