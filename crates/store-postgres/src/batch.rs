//! The commands of a batch: each kind in a statement of its own, and those of one id one after the other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use deadpool_postgres::Object;
use futures_util::future::{BoxFuture, join_all, join4};
use idempotency_core::{Record, RequestId, StoreCommand, StoreError, StoreErrorKind, StoreReply};
use time::OffsetDateTime;
use tokio_postgres::types::Type;

use crate::{
    PostgresStore, claims::claim, error::is_perhaps_of_one, pool::Connections, quiet::Quiet, rows,
    sends::query, statements::Statements, store::Inner, updates::update,
};

/// Each command with the first others whose ids differ.
pub(crate) async fn apply(
    store: &PostgresStore,
    batch: &[StoreCommand],
    now: OffsetDateTime,
) -> Vec<Result<StoreReply, StoreError>> {
    let mut answers: Vec<Option<Result<StoreReply, StoreError>>> = batch.iter().map(|_| None).collect();
    let mut left: Vec<usize> = (0..batch.len()).collect();
    while !left.is_empty() {
        let mut ids = HashSet::with_capacity(left.len());
        let (wave, later): (Vec<usize>, Vec<usize>) =
            left.iter().partition(|&&number| batch[number].id().is_none_or(|id| ids.insert(*id)));
        for (number, answer) in apply_wave(store, batch, &wave, now).await {
            answers[number] = Some(answer);
        }
        left = later;
    }
    answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered()))).collect()
}

/// Commands of ids that differ.
async fn apply_wave(
    store: &PostgresStore,
    batch: &[StoreCommand],
    wave: &[usize],
    now: OffsetDateTime,
) -> Vec<(usize, Result<StoreReply, StoreError>)> {
    let Inner { statements, steps, .. } = &*store.inner;
    let (mut of_claims, mut of_updates, mut of_lookups, mut others) = (vec![], vec![], vec![], vec![]);
    let (mut claims, mut updates, mut lookups) = (vec![], vec![], vec![]);
    for &number in wave {
        match &batch[number] {
            StoreCommand::Insert(claim) => {
                of_claims.push(number);
                claims.push(&**claim);
            }
            StoreCommand::Update(update) => {
                of_updates.push(number);
                updates.push(&**update);
            }
            StoreCommand::Lookup(id) => {
                of_lookups.push(number);
                lookups.push(*id);
            }
            _ => others.push(number),
        }
    }
    let claimed = async {
        let answers = if claims.is_empty() { vec![] } else { claim(steps, statements, &claims, now).await };
        of_claims.into_iter().zip(answers.into_iter().map(|answer| answer.map(StoreReply::Inserted)))
    };
    let updated = async {
        let answers = if updates.is_empty() { vec![] } else { update(steps, statements, &updates).await };
        of_updates.into_iter().zip(answers.into_iter().map(|answer| answer.map(StoreReply::Updated)))
    };
    let read = async {
        let found = match lookups.is_empty() {
            true => Ok(HashMap::new()),
            false => lookup(steps, statements, lookups.clone(), now).await,
        };
        of_lookups.into_iter().zip(lookups).map(move |(number, id)| {
            let found = found.as_ref().map_err(Clone::clone);
            let found = found.and_then(|found| found.get(&id).cloned().transpose());
            (number, found.map(|found| StoreReply::Found(found.map(Box::new))))
        })
    };
    let done =
        join_all(others.into_iter().map(async |number| (number, batch[number].call(store, now).await)));
    let (claimed, updated, read, done) = join4(claimed, updated, read, done).await;
    claimed.chain(updated).chain(read).chain(done).collect()
}

pub(crate) fn unanswered() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "a command of a batch has no answer")
}

/// The answers to several commands of ids that differ. A statement that fails, fails for all of them: it is repeated in halves, so
/// that only the guilty one fails, or that the locks suffice.
pub(crate) async fn in_halves<'a, C: Clone, A>(
    commands: &[&C],
    together: impl Fn(Vec<C>) -> BoxFuture<'a, Result<Vec<A>, StoreError>>,
) -> Vec<Result<A, StoreError>> {
    let mut answers = Vec::with_capacity(commands.len());
    let mut parts = vec![commands];
    while let Some(part) = parts.pop() {
        match together(part.iter().map(|command| (*command).clone()).collect()).await {
            Ok(of_part) => answers.extend(of_part.into_iter().map(Ok)),
            Err(error) if part.len() > 1 && is_perhaps_of_one(&error) => {
                let (one, other) = part.split_at(part.len() / 2);
                parts.extend([other, one]);
            }
            Err(error) => answers.extend(part.iter().map(|_| Err(error.clone()))),
        }
    }
    answers
}

/// Those that are there.
pub(crate) async fn lookup(
    connections: &Connections,
    statements: &Arc<Statements>,
    ids: Vec<RequestId>,
    now: OffsetDateTime,
) -> Result<HashMap<RequestId, Result<Record, StoreError>>, StoreError> {
    let ids: Arc<[RequestId]> = ids.into();
    let read = connections.step(|connection: Arc<Object>| {
        let (ids, statements) = (ids.clone(), statements.clone());
        async move {
            let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
            let rows = query(&connection, &statements.lookup, &[Type::BYTEA_ARRAY], &[&Quiet(ids)]).await?;
            rows.iter().map(|row| Ok((rows::id(row)?, rows::record(row, now)))).collect()
        }
    });
    read.await
}
