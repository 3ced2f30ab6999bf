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
    world::{LONG, World, id, owner, setup, without_times},
};

/// How many operations a sequence has.
const LENGTH: usize = 50;

#[derive(Debug, Clone)]
enum Operation {
    Insert {
        id: u8,
        owner: u8,
        takes_over: Option<u8>,
        other_payload: bool,
    },
    /// `theirs`: by whoever has it, as most updates are.
    Update {
        id: u8,
        owner: u8,
        theirs: bool,
        change: u8,
    },
    Lookup {
        id: u8,
    },
    Prune {
        limit: usize,
    },
    Pass {
        ticks: u32,
    },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let (ids, owners) = (|| 0..2u8, || 0..3u8);
    let insert = (ids(), owners(), prop::option::of(owners()), prop::bool::weighted(0.1)).prop_map(
        |(id, owner, takes_over, other_payload)| Operation::Insert { id, owner, takes_over, other_payload },
    );
    let update = (ids(), owners(), prop::bool::weighted(0.7), 0..9u8)
        .prop_map(|(id, owner, theirs, change)| Operation::Update { id, owner, theirs, change });
    let lookup = ids().prop_map(|id| Operation::Lookup { id });
    let prune = (0..4usize).prop_map(|limit| Operation::Prune { limit });
    let pass = (1..4u32).prop_map(|ticks| Operation::Pass { ticks });
    let operation = prop_oneof![6 => insert, 8 => update, 2 => lookup, 1 => prune, 2 => pass];
    prop::collection::vec(operation, LENGTH)
}

/// Every answer is that of the table, whatever came before. With a clock that is not exact no time passes.
pub async fn every_sequence_of_operations_is_answered_like_the_table<F: StoreFactory>(factory: F) {
    // Others in each run: a sequence that fails is printed with its assertion.
    let mut runner = TestRunner::new(Config::default());
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
    let comparable = |record: Record| if exact { record } else { without_times(&record) };
    let of_insert = |answer: Inserted| match answer {
        Inserted::Exists(record) => Inserted::Exists(comparable(*record).into()),
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
            Operation::Update { id: number, owner: by, theirs, change } => {
                let (lease, retention) = match exact {
                    true => (world.ticks(2), world.ticks(5)),
                    false => (LONG, LONG),
                };
                let whose = match model.lookup(&id(number), now) {
                    Some(record) if theirs => record.owner,
                    _ => owner(by),
                };
                let update = Update::new(id(number), whose, self::change(change, lease, retention));
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

fn change(number: u8, lease: Duration, retention: Duration) -> Change {
    match number {
        0 => Change::Renew { lease, retention },
        1 | 2 => Change::Complete { response: "one".into(), retention },
        3 => Change::Complete { response: "two".into(), retention },
        4 => Change::Halt { reason: HaltReason::Cancelled, retention },
        5 | 6 => Change::Halt { reason: HaltReason::Shutdown, retention },
        7 => Change::Release,
        _ => Change::Forget,
    }
}
