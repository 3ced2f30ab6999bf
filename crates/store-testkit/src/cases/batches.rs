//! Many commands in one call.

use idempotency_core::{Change, Inserted, Store, StoreCommand, StoreReply, Update, Updated};

use crate::{
    StoreFactory,
    world::{World, id, owner, response_of},
};

impl<F: StoreFactory> World<F> {
    async fn apply(&self, batch: &[StoreCommand]) -> Vec<Result<StoreReply, idempotency_core::StoreError>> {
        let replies = self.store.apply(batch, self.now()).await;
        assert_eq!(replies.len(), batch.len(), "one reply for each command");
        replies
    }

    fn update_command(&self, id_number: u8, owner_number: u8, change: Change) -> StoreCommand {
        StoreCommand::Update(Update::new(id(id_number), owner(owner_number), change).into())
    }
}

/// Each command has its own answer, in the order of the commands.
pub async fn a_batch_is_answered_in_order<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    world.claimed(&world.long_claim(2, 1)).await;
    let mut batch = vec![
        StoreCommand::Lookup(id(1)),
        StoreCommand::Insert(world.long_claim(2, 9).into()),
        world.update_command(3, 1, Change::Release),
        StoreCommand::Insert(world.long_claim(4, 1).into()),
        world.update_command(1, 9, Change::Release),
        StoreCommand::Prune { limit: 5 },
        StoreCommand::Lookup(id(5)),
    ];
    for number in 10..100 {
        batch.push(StoreCommand::Insert(world.long_claim(number, number).into()));
    }
    let replies = world.apply(&batch).await;
    assert!(matches!(&replies[0], Ok(StoreReply::Found(Some(record))) if record.owner == owner(1)));
    assert!(matches!(&replies[1], Ok(StoreReply::Inserted(Inserted::Exists(_)))));
    assert!(matches!(&replies[2], Ok(StoreReply::Updated(Updated::NotFound))));
    assert!(matches!(&replies[3], Ok(StoreReply::Inserted(Inserted::Claimed))));
    assert!(matches!(&replies[4], Ok(StoreReply::Updated(Updated::Fenced))));
    assert!(matches!(&replies[5], Ok(StoreReply::Pruned(_))));
    assert!(matches!(&replies[6], Ok(StoreReply::Found(None))));
    assert!(replies[7..].iter().all(|reply| matches!(reply, Ok(StoreReply::Inserted(Inserted::Claimed)))));
    for number in 10..100 {
        assert_eq!(world.record(number).await.owner, owner(number));
    }
}

/// The tracker sends one command of an id at a time; a foreign caller may not. Whatever the order is, at most one of
/// two claims gets the id.
pub async fn a_batch_on_one_id_is_applied_one_after_the_other<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let batch: Vec<_> =
        (1..=20).map(|number| StoreCommand::Insert(world.long_claim(1, number).into())).collect();
    let replies = world.apply(&batch).await;
    let claimed =
        |reply: &&Result<StoreReply, _>| matches!(reply, Ok(StoreReply::Inserted(Inserted::Claimed)));
    assert_eq!(replies.iter().filter(claimed).count(), 1);
}

/// A command that cannot be done is an error of its own.
pub async fn a_poisoned_member_fails_alone<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    let cursor = Some(idempotency_core::Cursor::new("rubbish"));
    let batch = [
        world.update_command(1, 1, world.complete_for_long("response")),
        StoreCommand::Scan { cursor, limit: 1 },
        StoreCommand::Insert(world.long_claim(2, 1).into()),
    ];
    let replies = world.apply(&batch).await;
    assert!(matches!(replies[0], Ok(StoreReply::Updated(Updated::Applied))), "{:?}", replies[0]);
    assert!(replies[1].is_err(), "a cursor that is none: {:?}", replies[1]);
    assert!(matches!(replies[2], Ok(StoreReply::Inserted(Inserted::Claimed))), "{:?}", replies[2]);
    assert_eq!(response_of(&world.record(1).await), &"response".into());
}

/// A member that takes long, here for its size, harms nobody else's.
pub async fn a_slow_member_fails_nobody<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for number in 0..10 {
        world.claimed(&world.long_claim(number, number)).await;
    }
    let body = |number: u8| vec![number; if number == 4 { 4 << 20 } else { 10 }];
    let batch: Vec<_> = (0..10)
        .map(|number| world.update_command(number, number, world.complete_for_long(body(number))))
        .collect();
    let replies = world.apply(&batch).await;
    for (number, reply) in (0..).zip(&replies) {
        assert!(matches!(reply, Ok(StoreReply::Updated(Updated::Applied))), "{number}: {reply:?}");
        assert_eq!(response_of(&world.record(number).await), &body(number).into());
    }
}

/// Nothing to do.
pub async fn an_empty_batch_is_answered_with_nothing<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    assert_eq!(world.apply(&[]).await, []);
}
