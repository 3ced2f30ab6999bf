use bytes::Bytes;
use idempotency_core::{
    Body, Digest, Fingerprint, HaltReason, Meta, Owner, Record, Scheme, State, StoredResponse,
};
use prost::Message;
use time::OffsetDateTime;

use crate::FrameError;

/// All of a record but its body. Numbers of fields are never used again for something else.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(bytes = "bytes", tag = "1")]
    owner: Bytes,
    #[prost(uint32, tag = "2")]
    scheme: u32,
    #[prost(bytes = "bytes", tag = "3")]
    fingerprint: Bytes,
    #[prost(message, optional, tag = "4")]
    claimed_at: Option<Instant>,
    #[prost(message, optional, tag = "5")]
    expires_at: Option<Instant>,
    #[prost(bytes = "bytes", tag = "6")]
    meta: Bytes,
    #[prost(oneof = "Settled", tags = "7, 8, 9")]
    state: Option<Settled>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Settled {
    /// The end of the lease.
    #[prost(message, tag = "7")]
    Processing(Instant),
    /// The digest of the response.
    #[prost(bytes = "bytes", tag = "8")]
    Completed(Bytes),
    #[prost(uint32, tag = "9")]
    Halted(u32),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Instant {
    /// Since 1970, to the full second before.
    #[prost(sint64, tag = "1")]
    seconds: i64,
    #[prost(uint32, tag = "2")]
    nanoseconds: u32,
}

/// Halt reasons as they are stored; a number is never used again for another one.
const REASONS: [(u32, HaltReason); 7] = [
    (1, HaltReason::Cancelled),
    (2, HaltReason::Shutdown),
    (3, HaltReason::Panicked),
    (4, HaltReason::TimedOut),
    (5, HaltReason::Unknown),
    (6, HaltReason::Unresolved),
    (7, HaltReason::OwnerLost),
];

pub(crate) fn write(record: &Record) -> Vec<u8> {
    let state = match &record.state {
        State::Processing { lease_until } => Settled::Processing(Instant::from(*lease_until)),
        State::Completed(response) => {
            Settled::Completed(Bytes::copy_from_slice(response.digest().as_bytes()))
        }
        State::Halted(reason) => {
            let number = REASONS.iter().find(|(_, known)| known == reason).map(|(number, _)| *number);
            // A reason that `core` has and this list has not is still one that nothing is known of.
            Settled::Halted(number.unwrap_or(5))
        }
    };
    Metadata {
        owner: Bytes::copy_from_slice(record.owner.as_bytes()),
        scheme: record.fingerprint.scheme().0.into(),
        fingerprint: Bytes::copy_from_slice(record.fingerprint.as_bytes()),
        claimed_at: Some(record.claimed_at.into()),
        expires_at: Some(record.expires_at.into()),
        meta: Bytes::copy_from_slice(record.meta.as_bytes()),
        state: Some(state),
    }
    .encode_to_vec()
}

pub(crate) fn read(bytes: Bytes) -> Result<Metadata, FrameError> {
    Metadata::decode(bytes).map_err(|_| FrameError::Metadata("not such a message"))
}

impl Metadata {
    pub(crate) fn into_record(self, body: Body) -> Result<Record, FrameError> {
        let owner = self.owner[..].try_into().map_err(|_| FrameError::Metadata("owner"))?;
        let hash = self.fingerprint[..].try_into().map_err(|_| FrameError::Metadata("fingerprint"))?;
        let scheme = u8::try_from(self.scheme).map_err(|_| FrameError::Metadata("scheme"))?;
        let kept = matches!(body, Body::Kept(_));
        let state = match self.state.ok_or(FrameError::Metadata("state"))? {
            Settled::Completed(digest) => {
                let digest = digest[..].try_into().map_err(|_| FrameError::Metadata("digest"))?;
                State::Completed(StoredResponse::from_parts(Digest::from_bytes(digest), body))
            }
            _ if kept => return Err(FrameError::Metadata("a body without a response")),
            Settled::Processing(lease_until) => State::Processing { lease_until: lease_until.read()? },
            Settled::Halted(number) => {
                let known = REASONS.iter().find(|(known, _)| *known == number).map(|(_, reason)| *reason);
                // One that a later version knows. That it halted is what counts.
                State::Halted(known.unwrap_or(HaltReason::Unknown))
            }
        };
        let instant = |instant: Option<Instant>| instant.ok_or(FrameError::Metadata("time"))?.read();
        Ok(Record::new(
            Owner::from_bytes(owner),
            Fingerprint::from_parts(Scheme(scheme), hash),
            instant(self.claimed_at)?,
            instant(self.expires_at)?,
            Meta::new(self.meta).map_err(|_| FrameError::Metadata("meta"))?,
            state,
        ))
    }
}

impl From<OffsetDateTime> for Instant {
    fn from(instant: OffsetDateTime) -> Self {
        Self { seconds: instant.unix_timestamp(), nanoseconds: instant.nanosecond() }
    }
}

impl Instant {
    fn read(self) -> Result<OffsetDateTime, FrameError> {
        OffsetDateTime::from_unix_timestamp(self.seconds)
            .ok()
            .and_then(|instant| instant.replace_nanosecond(self.nanoseconds).ok())
            .ok_or(FrameError::Metadata("time"))
    }
}
