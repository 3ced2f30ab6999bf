//! A record in columns, and in the time of whoever reads it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use deadpool_postgres::Object;
use idempotency_core::{
    Body, Digest, Fingerprint, HaltReason, Meta, Owner, Record, RequestId, Scheme, State, StoreError,
    StoredResponse,
};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::FromSql};

use crate::{
    Message,
    error::{corrupt, store_error},
    quiet::Quiet,
    sends::query,
    statements::Statements,
};

pub(crate) const PROCESSING: &str = "processing";
const COMPLETED: &str = "completed";
const NOT_KEPT: &str = "not_kept";

const REASONS: [(&str, HaltReason); 7] = [
    ("cancelled", HaltReason::Cancelled),
    ("shutdown", HaltReason::Shutdown),
    ("panicked", HaltReason::Panicked),
    ("timed_out", HaltReason::TimedOut),
    ("unknown", HaltReason::Unknown),
    ("unresolved", HaltReason::Unresolved),
    ("owner_lost", HaltReason::OwnerLost),
];

pub(crate) fn name_of(reason: HaltReason) -> &'static str {
    // A reason that this version does not know is at least an unknown outcome.
    REASONS.iter().find(|(_, known)| *known == reason).map_or("unknown", |(name, _)| *name)
}

/// What stands for a response: its state and its body.
pub(crate) fn response(response: &StoredResponse) -> (&'static str, Option<&[u8]>) {
    match response.body() {
        Body::Kept(body) => (COMPLETED, Some(body)),
        Body::NotKept => (NOT_KEPT, None),
    }
}

/// The scheme and the hash.
pub(crate) fn fingerprint(fingerprint: &Fingerprint) -> Vec<u8> {
    let mut bytes = vec![fingerprint.scheme().0];
    bytes.extend_from_slice(fingerprint.as_bytes());
    bytes
}

/// Microseconds, and at most a hundred years of them.
pub(crate) fn micros(duration: Duration) -> i64 {
    const LONGEST: u128 = 3_155_695_200_000_000;
    duration.as_micros().min(LONGEST) as i64
}

/// How far off an instant is, in microseconds; negative if it has passed.
pub(crate) fn left(instant: OffsetDateTime, now: OffsetDateTime) -> i64 {
    let left = instant - now;
    let micros = micros(left.unsigned_abs());
    if left.is_negative() { -micros } else { micros }
}

fn column<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, StoreError> {
    row.try_get(name).map_err(store_error)
}

pub(crate) fn id(row: &Row) -> Result<RequestId, StoreError> {
    let id: &[u8] = row.try_get(0).map_err(store_error)?;
    id.try_into().map(RequestId::from_bytes).map_err(|_| corrupt("an id has another length"))
}

/// The record in a row; `caller` is what `now` of the row is for whoever reads it.
pub(crate) fn record(row: &Row, caller: OffsetDateTime) -> Result<Record, StoreError> {
    let server: OffsetDateTime = column(row, "now")?;
    let to_caller = |instant: OffsetDateTime| caller.saturating_add(instant - server);
    let bytes = |name, message| -> Result<&[u8], StoreError> {
        column::<Option<&[u8]>>(row, name)?.ok_or_else(|| corrupt(message))
    };
    let owner = bytes("owner", "a record has no owner")?;
    let owner = owner.try_into().map_err(|_| corrupt("an owner has another length"))?;
    let Some((scheme, hash)) = bytes("fingerprint", "a record has no fingerprint")?.split_first() else {
        return Err(corrupt("a fingerprint is cut off"));
    };
    let hash = hash.try_into().map_err(|_| corrupt("a fingerprint has another length"))?;
    let meta = Bytes::copy_from_slice(bytes("meta", "a record has no meta")?);
    let meta = Meta::new(meta).map_err(|_| corrupt("the meta of a record is too large"))?;
    let response = |body| -> Result<State, StoreError> {
        let digest = bytes("digest", "a response has no digest")?;
        let digest = digest.try_into().map_err(|_| corrupt("a digest has another length"))?;
        Ok(State::Completed(StoredResponse::from_parts(Digest::from_bytes(digest), body)))
    };
    let state = match column::<&str>(row, "state")? {
        PROCESSING => {
            let lease_until: Option<OffsetDateTime> = column(row, "lease_until")?;
            let lease_until = lease_until.ok_or_else(|| corrupt("a running request has no lease"))?;
            State::Processing { lease_until: to_caller(lease_until) }
        }
        COMPLETED => response(Body::Kept(Bytes::copy_from_slice(bytes("body", "a response has no body")?)))?,
        NOT_KEPT => response(Body::NotKept)?,
        // A later version may have other reasons.
        name => State::Halted(
            REASONS
                .iter()
                .find(|(known, _)| *known == name)
                .map_or(HaltReason::Unknown, |(_, reason)| *reason),
        ),
    };
    let (claimed_at, expires_at) = (column(row, "claimed_at")?, column(row, "expires_at")?);
    Ok(Record::new(
        Owner::from_bytes(owner),
        Fingerprint::from_parts(Scheme(*scheme), hash),
        to_caller(claimed_at),
        to_caller(expires_at),
        meta,
        state,
    ))
}

/// A record in parts, with the times that it has left: the server adds its own clock.
pub(crate) struct Parts {
    id: [u8; 32],
    owner: [u8; 16],
    state: &'static str,
    claimed_ago: i64,
    lapses_in: Option<i64>,
    pub(crate) expires_in: i64,
    fingerprint: Vec<u8>,
    digest: Option<[u8; 32]>,
    meta: Bytes,
    body: Option<Bytes>,
}

impl Parts {
    pub(crate) fn of(id: &RequestId, record: &Record, now: OffsetDateTime) -> Self {
        let (state, lapses_in, digest, body) = match &record.state {
            State::Processing { lease_until } => (PROCESSING, Some(left(*lease_until, now)), None, None),
            State::Completed(response) => {
                let (state, _) = self::response(response);
                (state, None, Some(*response.digest().as_bytes()), response.bytes().cloned())
            }
            State::Halted(reason) => (name_of(*reason), None, None, None),
        };
        Self {
            id: *id.as_bytes(),
            owner: *record.owner.as_bytes(),
            state,
            claimed_ago: -left(record.claimed_at, now),
            lapses_in,
            expires_in: left(record.expires_at, now),
            fingerprint: fingerprint(&record.fingerprint),
            digest,
            meta: record.meta.as_bytes().clone(),
            body,
        }
    }

    /// Whether it was written.
    pub(crate) async fn write(
        &self,
        connection: &Arc<Object>,
        statements: &Statements,
    ) -> Result<bool, StoreError> {
        use tokio_postgres::types::Type;
        let types = [
            Type::BYTEA,
            Type::BYTEA,
            Type::TEXT,
            Type::INT8,
            Type::INT8,
            Type::INT8,
            Type::BYTEA,
            Type::BYTEA,
            Type::BYTEA,
            Type::BYTEA,
        ];
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
            &Quiet(&self.id[..]),
            &Quiet(&self.owner[..]),
            &self.state,
            &self.claimed_ago,
            &self.lapses_in,
            &self.expires_in,
            &Quiet(&self.fingerprint[..]),
            &Quiet(self.digest.as_ref().map(|digest| &digest[..])),
            &Quiet(&self.meta[..]),
            &Quiet(self.body.as_deref()),
        ];
        Ok(!query(connection, &statements.restore, &types, &params).await?.is_empty())
    }
}

pub(crate) fn message(row: &Row) -> Result<Message, StoreError> {
    let payload: &[u8] = column(row, "payload")?;
    Ok(Message::new(column(row, "number")?, column(row, "topic")?, Bytes::copy_from_slice(payload)))
}
