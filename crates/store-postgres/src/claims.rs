//! Claims, many in one statement.

use std::{collections::HashMap, sync::Arc};

use deadpool_postgres::Object;
use futures_util::FutureExt;
use idempotency_core::{Claim, Inserted, RequestId, StoreError, StoreErrorKind};
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_postgres::types::Type;

use crate::{
    batch::in_halves,
    error::{is_locked, store_error, unsure},
    pool::Connections,
    quiet::Quiet,
    rows::{self, fingerprint, micros},
    sends::{Sends, query},
    statements::Statements,
};

/// How often a claim is tried whose id is taken and free again at the very moment.
const ROUNDS: usize = 8;

/// The columns of several claims.
#[derive(Default)]
struct Columns {
    ids: Vec<Vec<u8>>,
    owners: Vec<Vec<u8>>,
    fingerprints: Vec<Vec<u8>>,
    metas: Vec<Vec<u8>>,
    leases: Vec<i64>,
    retentions: Vec<i64>,
    locks: Vec<i64>,
}

impl Columns {
    fn of<'a>(claims: impl Iterator<Item = &'a Claim>, statements: &Statements) -> Self {
        let mut columns = Self::default();
        for claim in claims {
            columns.ids.push(claim.id.as_bytes().to_vec());
            columns.owners.push(claim.owner.as_bytes().to_vec());
            columns.fingerprints.push(fingerprint(&claim.fingerprint));
            columns.metas.push(claim.meta.as_bytes().to_vec());
            columns.leases.push(micros(claim.lease));
            columns.retentions.push(micros(claim.retention));
            columns.locks.push(statements.lock_of(claim.id.as_bytes()));
        }
        columns
    }
}

/// What the statement says of an id; nothing if it is to be asked again.
type Said = HashMap<RequestId, Inserted>;

/// One statement for all these claims, of ids that differ: the careful one, or the hasty one.
pub(crate) async fn claim_once<C: Sends>(
    client: &C,
    statements: &Statements,
    statement: &str,
    claims: &[&Claim],
    now: OffsetDateTime,
) -> Result<Said, StoreError> {
    // First what takes over: the claim finds it to be its own then.
    let after_takeover = claims.iter().any(|claim| claim.takes_over.is_some());
    let judged = |error| if after_takeover { unsure(error) } else { error };
    for claim in claims {
        if let Some(from) = claim.takes_over {
            let types = [
                Type::BYTEA,
                Type::BYTEA,
                Type::BYTEA,
                Type::BYTEA,
                Type::INT8,
                Type::INT8,
                Type::INT8,
                Type::BYTEA,
            ];
            query(
                client,
                &statements.take_over,
                &types,
                &[
                    &Quiet(&claim.id.as_bytes()[..]),
                    &Quiet(&claim.owner.as_bytes()[..]),
                    &Quiet(fingerprint(&claim.fingerprint)),
                    &Quiet(&claim.meta.as_bytes()[..]),
                    &micros(claim.lease),
                    &micros(claim.retention),
                    &Quiet(statements.lock_of(claim.id.as_bytes())),
                    &Quiet(&from.as_bytes()[..]),
                ],
            )
            .await
            .map_err(judged)?;
        }
    }
    let columns = Columns::of(claims.iter().copied(), statements);
    let types = [
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8_ARRAY,
    ];
    let rows = query(
        client,
        statement,
        &types,
        &[
            &Quiet(columns.ids),
            &Quiet(columns.owners),
            &Quiet(columns.fingerprints),
            &Quiet(columns.metas),
            &columns.leases,
            &columns.retentions,
            &Quiet(columns.locks),
        ],
    )
    .await
    .map_err(judged)?;
    let mut said = Said::with_capacity(claims.len());
    for row in rows {
        let answer = match row.try_get::<_, &str>("answer").map_err(store_error)? {
            "claimed" => Inserted::Claimed,
            "busy" => Inserted::Busy,
            _ => Inserted::Exists(rows::record(&row, now)?.into()),
        };
        said.insert(rows::id(&row)?, answer);
    }
    Ok(said)
}

fn contended() -> StoreError {
    let message = "the id is claimed and released by others all the time";
    StoreError::new(StoreErrorKind::Unavailable, message).not_applied()
}

/// Claims of ids that differ, each with an answer of its own.
pub(crate) async fn claim(
    connections: &Connections,
    statements: &Arc<Statements>,
    claims: &[&Claim],
    now: OffsetDateTime,
) -> Vec<Result<Inserted, StoreError>> {
    let together = |claims: Vec<Claim>| claim_all(connections, statements, claims, now).boxed();
    let answers = in_halves(claims, together).await;
    answers.into_iter().map(|answer| answer?.ok_or_else(contended)).collect()
}

async fn claim_all(
    connections: &Connections,
    statements: &Arc<Statements>,
    claims: Vec<Claim>,
    now: OffsetDateTime,
) -> Result<Vec<Option<Inserted>>, StoreError> {
    let claims = Arc::new(claims);
    let said = connections.step(|connection: Arc<Object>| {
        let (claims, statements) = (claims.clone(), statements.clone());
        async move {
            let mut said = Said::with_capacity(claims.len());
            for _ in 0..ROUNDS {
                let left: Vec<&Claim> = claims.iter().filter(|claim| !said.contains_key(&claim.id)).collect();
                if left.is_empty() {
                    break;
                }
                let in_haste = statements.haste.is_allowed(Instant::now());
                let statement = if in_haste { &statements.claim_in_haste } else { &statements.claim };
                match claim_once(&connection, &statements, statement, &left, now).await {
                    Ok(once) => said.extend(once),
                    Err(error) if in_haste && is_locked(&error) => {
                        statements.haste.was_in_vain(Instant::now())
                    }
                    Err(error) => return Err(if said.is_empty() { error } else { unsure(error) }),
                }
            }
            Ok(said)
        }
    });
    let mut said = said.await?;
    Ok(claims.iter().map(|claim| said.remove(&claim.id)).collect())
}
