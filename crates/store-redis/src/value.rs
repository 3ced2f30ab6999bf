//! What is stored under a key, and a record in the time of whoever reads it.
//!
//! No clock is in it: its times are milliseconds before the server lets the key expire. So a claim can be written by whoever
//! makes it, in one command, and what a read needs beside the value is how much time the key has left.
//!
//! | position | bytes | |
//! | --- | --- | --- |
//! | 0 | 1 | the version that wrote it: 1 |
//! | 1 | 1 | state: 0 processing, 1 completed, 2 completed without its body, 16 and more halted |
//! | 2 | 1 | whether somebody wants to hear of its end |
//! | 3 | 16 | owner |
//! | 19 | 33 | fingerprint |
//! | 52 | 8 | how long before the expiry it was claimed, little endian like all numbers |
//! | 60 | 8 | how long before it the lease lapses; 0 once settled |
//! | 68 | 32 | digest of the response |
//! | 100 | 2 | length of all this: what a later version adds is skipped |
//! | 102 | 2 | length of meta |
//! | | | meta, and the body |
//!
//! The head has a fixed length, so that the scripts read and change it without the body; a renewal writes sixteen bytes.

use bytes::{Buf, Bytes};
use idempotency_core::{
    Body, Claim, Digest, Fingerprint, Meta, Owner, Record, Scheme, State, StoreError, StoreErrorKind,
    StoredResponse,
};
use time::{Duration, OffsetDateTime};

use crate::scripts::{COMPLETED, NOT_KEPT, PROCESSING, code_of, millis, reason_of};

const VERSION: u8 = 1;
const HEAD: usize = 104;

/// Milliseconds until a key expires, as the server says, and when it said so by the clock of whoever asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    pub(crate) left: i64,
    pub(crate) now: OffsetDateTime,
}

impl Left {
    /// The server lets a key expire once its last millisecond is over.
    fn before_expiry(self, before: i64) -> OffsetDateTime {
        self.now.saturating_add(Duration::milliseconds(self.left.saturating_sub(before).saturating_add(1)))
    }
}

fn corrupt(message: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, message).not_applied()
}

/// Whether a key that is to live for so long was written by somebody else than this value: the expiry of none is further away than
/// when it was claimed.
pub(crate) fn is_of_another(value: &[u8], left: i64) -> bool {
    let claimed = value.get(52..).and_then(|rest| rest.first_chunk());
    claimed.is_some_and(|before| left > i64::from_le_bytes(*before))
}

/// Total: whatever the bytes are, it is a record or an error.
pub(crate) fn read(mut value: Bytes, left: Left) -> Result<Record, StoreError> {
    if value.len() < HEAD {
        return Err(corrupt("a record is cut off"));
    }
    if left.left < 0 {
        return Err(corrupt("a record never expires"));
    }
    let version = value.get_u8();
    if !(1..=VERSION + 1).contains(&version) {
        return Err(corrupt("a record has a version that this one cannot read"));
    }
    let code = value.get_u8();
    value.advance(1);
    let (mut owner, mut fingerprint, mut digest) = ([0; 16], [0; 32], [0; 32]);
    value.copy_to_slice(&mut owner);
    let scheme = Scheme(value.get_u8());
    value.copy_to_slice(&mut fingerprint);
    let [claimed_at, lease_until] =
        [value.get_i64_le(), value.get_i64_le()].map(|before| left.before_expiry(before));
    value.copy_to_slice(&mut digest);
    let (head, meta) = (usize::from(value.get_u16_le()), usize::from(value.get_u16_le()));
    let Some(added) = head.checked_sub(HEAD).filter(|added| added + meta <= value.len()) else {
        return Err(corrupt("a record is cut off"));
    };
    value.advance(added);
    let meta = Meta::new(value.split_to(meta)).map_err(|_| corrupt("the meta of a record is too large"))?;
    let response = |body| State::Completed(StoredResponse::from_parts(Digest::from_bytes(digest), body));
    let state = match code {
        PROCESSING => State::Processing { lease_until },
        COMPLETED => response(Body::Kept(value)),
        NOT_KEPT => response(Body::NotKept),
        code => State::Halted(reason_of(code).ok_or_else(|| corrupt("a record has an unknown state"))?),
    };
    let fingerprint = Fingerprint::from_parts(scheme, fingerprint);
    Ok(Record::new(Owner::from_bytes(owner), fingerprint, claimed_at, left.before_expiry(0), meta, state))
}

/// Of a claim that nobody watches so far.
pub(crate) fn claim(claim: &Claim) -> Vec<u8> {
    let (lease, retention) = (millis(claim.lease) as i64, millis(claim.retention) as i64);
    write(PROCESSING, claim.owner, &claim.fingerprint, [lease + retention, retention], None, &claim.meta, &[])
}

/// Of a record, and how long the key has to live; not positive if it has expired.
pub(crate) fn record(record: &Record, now: OffsetDateTime) -> (Vec<u8>, i64) {
    let left = signed_millis(record.expires_at - now);
    let before_expiry = |instant: OffsetDateTime| left - signed_millis(instant - now);
    let (state, lapses, digest, body) = match &record.state {
        State::Processing { lease_until } => (PROCESSING, before_expiry(*lease_until), None, &[][..]),
        State::Completed(response) => {
            let (state, body) = self::response(response);
            (state, 0, Some(response.digest()), body)
        }
        State::Halted(reason) => (code_of(*reason), 0, None, &[][..]),
    };
    let times = [before_expiry(record.claimed_at), lapses];
    let value = write(state, record.owner, &record.fingerprint, times, digest, &record.meta, body);
    (value, left)
}

/// Rounded up: nothing ends early.
fn signed_millis(duration: Duration) -> i64 {
    let whole = millis(duration.unsigned_abs()) as i64;
    match duration.is_negative() {
        true if duration.subsec_nanoseconds() % 1_000_000 != 0 => 1 - whole,
        true => -whole,
        false => whole,
    }
}

fn write(
    state: u8,
    owner: Owner,
    fingerprint: &Fingerprint,
    before_expiry: [i64; 2],
    digest: Option<Digest>,
    meta: &Meta,
    body: &[u8],
) -> Vec<u8> {
    let meta = meta.as_bytes();
    let mut value = Vec::with_capacity(HEAD + meta.len() + body.len());
    value.extend([VERSION, state, 0]);
    value.extend_from_slice(owner.as_bytes());
    value.push(fingerprint.scheme().0);
    value.extend_from_slice(fingerprint.as_bytes());
    value.extend(before_expiry.iter().flat_map(|before| before.to_le_bytes()));
    value.extend_from_slice(digest.as_ref().map_or(&[0; 32], |digest| digest.as_bytes()));
    value.extend((HEAD as u16).to_le_bytes());
    value.extend((meta.len() as u16).to_le_bytes());
    value.extend_from_slice(meta);
    value.extend_from_slice(body);
    value
}

/// What stands for a response: its state and its body.
pub(crate) fn response(response: &StoredResponse) -> (u8, &[u8]) {
    match response.body() {
        Body::Kept(body) => (COMPLETED, body),
        Body::NotKept => (NOT_KEPT, &[]),
    }
}
