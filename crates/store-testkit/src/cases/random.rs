//! Random sequences of operations, against the table of `core`.

use std::time::Duration;

use idempotency_core::{Change, HaltReason, Inserted, Record, Store, Update, Updated};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use crate::{
    StoreFactory,
    model::Model,
    world::{World, id, owner, setup},
};

/// How many operations a sequence has.
const LENGTH: usize = 50;

#[derive(Debug, Clone)]
enum Operation {
    Insert { id: u8, owner: u8, takes_over: Option<u8>, other_payload: bool },
    Update { id: u8, owner: u8, change: u8 },
    Lookup { id: u8 },
    Prune { limit: usize },
    Pass { ticks: u32 },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let (ids, owners) = (|| 0..3u8, || 0..4u8);
    let insert = (ids(), owners(), prop::option::of(owners()), prop::bool::weighted(0.1)).prop_map(
        |(id, owner, takes_over, other_payload)| Operation::Insert { id, owner, takes_over, other_payload },
    );
    let update =
        (ids(), owners(), 0..8u8).prop_map(|(id, owner, change)| Operation::Update { id, owner, change });
    let lookup = ids().prop_map(|id| Operation::Lookup { id });
    let prune = (0..4usize).prop_map(|limit| Operation::Prune { limit });
    let pass = (1..4u32).prop_map(|ticks| Operation::Pass { ticks });
    let operation = prop_oneof![6 => insert, 8 => update, 2 => lookup, 1 => prune, 3 => pass];
    prop::collection::vec(operation, LENGTH)
}

/// What two answers must agree in where the clocks of store and caller are not the same.
fn without_times(record: Record) -> Record {
    let mut record = record;
    record.claimed_at = time::OffsetDateTime::UNIX_EPOCH;
    record.expires_at = time::OffsetDateTime::UNIX_EPOCH;
    if let idempotency_core::State::Processing { lease_until } = &mut record.state {
        *lease_until = time::OffsetDateTime::UNIX_EPOCH;
    }
    record
}

/// Every answer is that of the table, whatever came before. With a clock that is not exact no time passes.
pub async fn every_sequence_of_operations_is_answered_like_the_table<F: StoreFactory>(factory: F) {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let mut world = World::new(factory).await;
    for _ in 0..world.factory.sequences() {
        let sequence = operations().new_tree(&mut runner).expect("a sequence").current();
        let store = world.factory.open().await;
        store.setup(&setup(world.now())).await.expect("an empty store can be set up");
        world.store = store;
        check(&world, &sequence).await;
    }
}

async fn check<F: StoreFactory>(world: &World<F>, sequence: &[Operation]) {
    let mut model = Model::default();
    let exact = world.factory.is_exact();
    let comparable = |record: Record| if exact { record } else { without_times(record) };
    let of_insert = |answer: Inserted| match answer {
        Inserted::Exists(record) => Inserted::Exists(comparable(record)),
        other => other,
    };
    for (at, operation) in sequence.iter().enumerate() {
        let now = world.now();
        let context = || format!("operation {at} of {sequence:?}");
        match *operation {
            Operation::Insert { id: number, owner: by, takes_over, other_payload } => {
                let mut claim = if exact { world.claim(number, by) } else { world.long_claim(number, by) };
                claim.takes_over = takes_over.map(owner);
                if other_payload {
                    claim.fingerprint = idempotency_core::Fingerprint::derive(None, [&b"other"[..]]);
                }
                let answer = world.store.insert(&claim, now).await.expect("an insert");
                assert_eq!(of_insert(answer), of_insert(model.insert(&claim, now)), "{}", context());
            }
            Operation::Update { id: number, owner: by, change } => {
                let retention = if exact { world.ticks(3) } else { Duration::from_secs(24 * 60 * 60) };
                let update = Update::new(id(number), owner(by), self::change(change, world, retention));
                let answer: Updated = world.store.update(&update, now).await.expect("an update");
                assert_eq!(answer, model.update(&update, now), "{}", context());
            }
            Operation::Lookup { id: number } => {
                let found = world.store.lookup(&id(number), now).await.expect("a lookup");
                let expected = model.lookup(&id(number), now);
                assert_eq!(found.map(comparable), expected.map(comparable), "{}", context());
            }
            Operation::Prune { limit } => {
                let pruned = world.store.prune(now, limit).await.expect("a prune");
                assert!(pruned.deleted <= limit, "{}", context());
            }
            Operation::Pass { ticks } if exact => world.pass(ticks).await,
            Operation::Pass { .. } => {}
        }
    }
}

fn change<F: StoreFactory>(number: u8, world: &World<F>, retention: Duration) -> Change {
    match number {
        0 | 1 => Change::Renew { lease: world.ticks(2), retention },
        2 => Change::Complete { response: "one".into(), retention },
        3 => Change::Complete { response: "two".into(), retention },
        4 => Change::Halt { reason: HaltReason::Cancelled, retention },
        5 => Change::Halt { reason: HaltReason::Shutdown, retention },
        6 => Change::Release,
        _ => Change::Forget,
    }
}
