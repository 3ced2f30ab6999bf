//! What is stored under a key, and a record in the time of whoever reads it.
//!
//! | position | bytes | |
//! | --- | --- | --- |
//! | 0 | 1 | the version that wrote it: 1 |
//! | 1 | 1 | state: 0 processing, 1 completed, 2 completed without its body, 16 and more halted |
//! | 2 | 1 | whether somebody wants to hear of its end |
//! | 3 | 16 | owner |
//! | 19 | 33 | fingerprint |
//! | 52 | 8 | claimed at, microseconds since 1970 by the server's clock, little endian like all numbers |
//! | 60 | 8 | expires at |
//! | 68 | 8 | the lease lapses at; 0 once settled |
//! | 76 | 32 | digest of the response |
//! | 108 | 2 | length of all this: what a later version adds is skipped |
//! | 110 | 2 | length of meta |
//! | | | meta, and the body |
//!
//! The head has a fixed length, so that the scripts read and change it without the body; a renewal writes sixteen bytes.

use bytes::{Buf, Bytes};
use idempotency_core::{
    Body, Digest, Fingerprint, Meta, Owner, Record, Scheme, State, StoreError, StoreErrorKind, StoredResponse,
};
use time::{Duration, OffsetDateTime};

use crate::scripts::{COMPLETED, NOT_KEPT, PROCESSING, code_of, micros, reason_of};

const VERSION: u8 = 1;
const HEAD: usize = 112;

/// The server's clock beside that of whoever asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    /// Microseconds since 1970.
    pub(crate) server: i64,
    pub(crate) caller: OffsetDateTime,
}

impl Clocks {
    fn to_caller(self, instant: i64) -> OffsetDateTime {
        self.caller.saturating_add(Duration::microseconds(instant.saturating_sub(self.server)))
    }
}

fn corrupt(message: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, message).not_applied()
}

/// Total: whatever the bytes are, it is a record or an error.
pub(crate) fn read(mut value: Bytes, clocks: Clocks) -> Result<Record, StoreError> {
    if value.len() < HEAD {
        return Err(corrupt("a record is cut off"));
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
    let [claimed_at, expires_at, lease_until] =
        [value.get_i64_le(), value.get_i64_le(), value.get_i64_le()].map(|instant| clocks.to_caller(instant));
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
    Ok(Record::new(Owner::from_bytes(owner), fingerprint, claimed_at, expires_at, meta, state))
}

/// The scheme and the hash.
pub(crate) fn fingerprint(fingerprint: &Fingerprint) -> Vec<u8> {
    let mut bytes = vec![fingerprint.scheme().0];
    bytes.extend_from_slice(fingerprint.as_bytes());
    bytes
}

/// What stands for a response: its state and its body.
pub(crate) fn response(response: &StoredResponse) -> (u8, &[u8]) {
    match response.body() {
        Body::Kept(body) => (COMPLETED, body),
        Body::NotKept => (NOT_KEPT, &[]),
    }
}

/// A record in parts, with the times that it has left: the server adds its own clock.
pub(crate) struct Parts {
    /// Version and state, then owner and fingerprint: between them the server puts whether somebody wants to hear.
    pub(crate) before_times: Vec<u8>,
    pub(crate) after_times: Vec<u8>,
    pub(crate) meta_and_body: Vec<u8>,
    pub(crate) claimed_ago: i64,
    pub(crate) expires_in: i64,
    /// 0: it is settled.
    pub(crate) lapses_in: i64,
}

impl Parts {
    pub(crate) fn of(record: &Record, now: OffsetDateTime) -> Self {
        let left = |instant: OffsetDateTime| -> i64 {
            let left = instant - now;
            let micros = micros(left.unsigned_abs()) as i64;
            if left.is_negative() { -micros } else { micros }
        };
        let (state, digest, body, lapses_in) = match &record.state {
            // One that lapses at this moment must not be taken for a settled one.
            State::Processing { lease_until } => match left(*lease_until) {
                0 => (PROCESSING, [0; 32], &[][..], -1),
                lapses_in => (PROCESSING, [0; 32], &[][..], lapses_in),
            },
            State::Completed(response) => {
                let (state, body) = self::response(response);
                (state, *response.digest().as_bytes(), body, 0)
            }
            State::Halted(reason) => (code_of(*reason), [0; 32], &[][..], 0),
        };
        let mut before_times = vec![VERSION, state];
        before_times.extend_from_slice(record.owner.as_bytes());
        before_times.extend(fingerprint(&record.fingerprint));
        let meta = record.meta.as_bytes();
        let mut after_times = digest.to_vec();
        after_times.extend((HEAD as u16).to_le_bytes());
        after_times.extend((meta.len() as u16).to_le_bytes());
        let mut meta_and_body = meta.to_vec();
        meta_and_body.extend_from_slice(body);
        Self {
            before_times,
            after_times,
            meta_and_body,
            claimed_ago: -left(record.claimed_at),
            expires_in: left(record.expires_at),
            lapses_in,
        }
    }
}
