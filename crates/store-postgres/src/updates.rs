//! What moves records on, many in one statement, and waits for no row that is locked for longer than a moment.

use std::{collections::HashMap, sync::Arc};

use deadpool_postgres::Object;
use futures_util::FutureExt;
use idempotency_core::{Change, RequestId, StoreError, StoreErrorKind, Update, Updated};
use tokio::time::{Duration, Instant, sleep};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{
    batch::in_halves,
    error::{corrupt, is_locked, store_error, unsure},
    pool::Connections,
    quiet::Quiet,
    rows::{self, PROCESSING, micros, name_of},
    sends::{Sends, query},
    statements::Statements,
};

/// How long it takes at first until a row that was locked is looked at again, and at most.
const FIRST_REST: Duration = Duration::from_millis(5);
const LONGEST_REST: Duration = Duration::from_millis(80);

/// What statements say of ids.
type Said = HashMap<RequestId, Updated>;

/// A statement for all that these updates change, of ids that differ, and one for all that they delete. What is missing in
/// the answer is locked, or not there.
pub(crate) async fn update_once<C: Sends>(
    client: &C,
    statements: &Statements,
    updates: &[&Update],
) -> Result<Said, StoreError> {
    let (deleted, changed): (Vec<&Update>, Vec<&Update>) = updates.iter().partition(|update| deletes(update));
    let mut rows = Vec::with_capacity(updates.len());
    if !changed.is_empty() {
        rows.extend(change(client, statements, &statements.update, &changed).await?);
    }
    if !deleted.is_empty() {
        let is_first = changed.is_empty();
        let deleted = delete(client, statements, &deleted).await;
        rows.extend(deleted.map_err(|error| if is_first { error } else { unsure(error) })?);
    }
    said_of(&rows)
}

/// The same in haste, for those that change a claim that runs. What is missing in the answer is everything else.
async fn settle_in_haste<C: Sends>(
    client: &C,
    statements: &Statements,
    updates: &[&Update],
) -> Result<Said, StoreError> {
    let changed: Vec<&Update> = updates.iter().copied().filter(|update| !deletes(update)).collect();
    if changed.is_empty() {
        return Ok(Said::new());
    }
    said_of(&change(client, statements, &statements.settle_in_haste, &changed).await?)
}

fn deletes(update: &Update) -> bool {
    matches!(update.change, Change::Release | Change::Forget)
}

fn said_of(rows: &[Row]) -> Result<Said, StoreError> {
    let mut said = Said::with_capacity(rows.len());
    for row in rows {
        let answer = match row.try_get(1).map_err(store_error)? {
            "applied" => Updated::Applied,
            "already" => Updated::AlreadyApplied,
            "fenced" => Updated::Fenced,
            "not_found" => Updated::NotFound,
            _ => return Err(corrupt("the statement said something else than it says")),
        };
        said.insert(rows::id(row)?, answer);
    }
    Ok(said)
}

async fn delete<C: Sends>(
    client: &C,
    statements: &Statements,
    updates: &[&Update],
) -> Result<Vec<Row>, StoreError> {
    let ids: Vec<&[u8]> = updates.iter().map(|update| &update.id.as_bytes()[..]).collect();
    let owners: Vec<&[u8]> = updates.iter().map(|update| &update.owner.as_bytes()[..]).collect();
    let forgets: Vec<bool> = updates.iter().map(|update| matches!(update.change, Change::Forget)).collect();
    let types = [Type::BYTEA_ARRAY, Type::BYTEA_ARRAY, Type::BOOL_ARRAY, Type::TEXT];
    let params: [&(dyn ToSql + Sync); 4] = [&Quiet(ids), &Quiet(owners), &forgets, &statements.channel];
    query(client, &statements.delete, &types, &params).await
}

async fn change<C: Sends>(
    client: &C,
    statements: &Statements,
    statement: &str,
    updates: &[&Update],
) -> Result<Vec<Row>, StoreError> {
    let (mut ids, mut owners, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut leases, mut retentions, mut states) = (Vec::new(), Vec::new(), Vec::new());
    let (mut digests, mut bodies) = (Vec::new(), Vec::new());
    for update in updates {
        ids.push(&update.id.as_bytes()[..]);
        owners.push(&update.owner.as_bytes()[..]);
        changes.push(update.change.name());
        let (lease, retention, state, digest, body) = match &update.change {
            Change::Renew { lease, retention } => (micros(*lease), *retention, PROCESSING, None, None),
            Change::Complete { response, retention } => {
                let (state, body) = rows::response(response);
                (0, *retention, state, Some(response.digest().as_bytes().to_vec()), body)
            }
            Change::Halt { reason, retention } => (0, *retention, name_of(*reason), None, None),
            _ => (0, Duration::ZERO, PROCESSING, None, None),
        };
        leases.push(lease);
        retentions.push(micros(retention));
        states.push(state);
        digests.push(digest);
        bodies.push(body);
    }
    let types = [
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::TEXT,
    ];
    let params: [&(dyn ToSql + Sync); 9] = [
        &Quiet(ids),
        &Quiet(owners),
        &changes,
        &leases,
        &retentions,
        &states,
        &Quiet(digests),
        &Quiet(bodies),
        &statements.channel,
    ];
    query(client, statement, &types, &params).await
}

/// Updates of ids that differ. Those whose rows are locked are repeated alone, so that they hold nobody else up.
pub(crate) async fn update(
    connections: &Connections,
    statements: &Arc<Statements>,
    updates: &[&Update],
) -> Vec<Result<Updated, StoreError>> {
    let together = |updates: Vec<Update>| update_all(connections, statements, updates).boxed();
    let answers = in_halves(updates, together).await;
    let repeated = updates.iter().zip(answers).map(async |(update, answer)| match answer? {
        Some(said) => Ok(said),
        None => update_locked(connections, statements, update).await,
    });
    futures_util::future::join_all(repeated).await
}

/// Nothing for a row that is locked, by a transaction that may be open for long.
async fn update_all(
    connections: &Connections,
    statements: &Arc<Statements>,
    updates: Vec<Update>,
) -> Result<Vec<Option<Updated>>, StoreError> {
    let updates = Arc::new(updates);
    let said = connections.step(|connection: Arc<Object>| {
        let (updates, statements) = (updates.clone(), statements.clone());
        async move {
            let all: Vec<&Update> = updates.iter().collect();
            let mut said = Said::new();
            if statements.haste.is_allowed(Instant::now()) {
                match settle_in_haste(&connection, &statements, &all).await {
                    Ok(settled) => said = settled,
                    Err(error) if is_locked(&error) => statements.haste.was_in_vain(Instant::now()),
                    Err(error) => return Err(error),
                }
            }
            let left: Vec<&Update> =
                all.iter().copied().filter(|update| !said.contains_key(&update.id)).collect();
            if !left.is_empty() {
                let is_first = said.is_empty();
                let once = update_once(&connection, &statements, &left).await;
                said.extend(once.map_err(|error| if is_first { error } else { unsure(error) })?);
            }
            let missing = left.iter().filter(|update| !said.contains_key(&update.id));
            let missing: Vec<RequestId> = missing.map(|update| update.id).collect();
            if !missing.is_empty() {
                let locked = are_there(&connection, &statements, &missing).await.map_err(unsure)?;
                let gone = missing.iter().filter(|id| !locked.contains(id));
                said.extend(gone.map(|id| (*id, Updated::NotFound)));
            }
            Ok(said)
        }
    });
    let mut said = said.await?;
    Ok(updates.iter().map(|update| said.remove(&update.id)).collect())
}

async fn update_locked(
    connections: &Connections,
    statements: &Arc<Statements>,
    update: &Update,
) -> Result<Updated, StoreError> {
    let update = Arc::new(update.clone());
    until_free(connections, |connection: Arc<Object>| {
        let (update, statements) = (update.clone(), statements.clone());
        async move {
            let said = update_once(&connection, &statements, &[&update]).await?;
            match said.get(&update.id) {
                Some(said) => Ok(Some(*said)),
                None if are_there(&connection, &statements, &[update.id]).await?.is_empty() => {
                    Ok(Some(Updated::NotFound))
                }
                None => Ok(None),
            }
        }
    })
    .await
}

/// Repeats a step until its row is not locked any more, which it says by an answer; with rests, so that nobody's connection is
/// held.
async fn until_free<T, F>(connections: &Connections, step: impl Fn(Arc<Object>) -> F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<Option<T>, StoreError>> + Send + 'static,
{
    let deadline = connections.deadline();
    let mut rest = FIRST_REST;
    while Instant::now() + rest < deadline {
        sleep(rest).await;
        rest = (rest * 2).min(LONGEST_REST);
        if let Some(answer) = connections.step(&step).await? {
            return Ok(answer);
        }
    }
    // An attempt whose connection was lost may hold the row itself, and be applied yet.
    Err(StoreError::new(StoreErrorKind::Unavailable, "the record is locked by a transaction that is open"))
}

/// The next settle or release of the id tells of it.
pub(crate) async fn watch(
    connections: &Connections,
    statements: &Arc<Statements>,
    id: RequestId,
) -> Result<(), StoreError> {
    let step = |connection: Arc<Object>| {
        let statements = statements.clone();
        async move {
            let id = Quiet(&id.as_bytes()[..]);
            let rows = query(&connection, &statements.watch, &[Type::BYTEA], &[&id]).await?;
            let is_locked = rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(store_error)?;
            Ok((!is_locked).then_some(()))
        }
    };
    match connections.step(&step).await? {
        Some(()) => Ok(()),
        None => until_free(connections, &step).await,
    }
}

async fn are_there(
    connection: &Arc<Object>,
    statements: &Statements,
    ids: &[RequestId],
) -> Result<Vec<RequestId>, StoreError> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
    let rows = query(connection, &statements.are_there, &[Type::BYTEA_ARRAY], &[&Quiet(ids)]).await?;
    rows.iter().map(rows::id).collect()
}
