use bytes::{Buf, BufMut, Bytes};
use idempotency_core::{Body, Record, State};

use crate::{
    FrameError,
    metadata::{self, Metadata},
};

/// The version that [`encode`] writes.
pub const VERSION: u8 = 1;

const MAGIC: &[u8; 4] = b"IDRC";
const HEAD: usize = 12;
const CHECKSUM: usize = 4;
const BODY_KEPT: u8 = 1;

/// Writes a record.
///
/// ```
/// # use idempotency_core::{Fingerprint, HaltReason, Meta, Owner, Record, State};
/// # use time::OffsetDateTime;
/// # let now = OffsetDateTime::UNIX_EPOCH;
/// # let fingerprint = Fingerprint::derive(None, []);
/// let state = State::Halted(HaltReason::Panicked);
/// let record = Record::new(Owner::from_u128(1), fingerprint, now, now, Meta::default(), state);
/// assert!(idempotency_frame::encode(&record).unwrap().starts_with(b"IDRC"));
/// ```
///
/// # Errors
///
/// [`FrameError::BodyTooLarge`].
pub fn encode(record: &Record) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::new();
    encode_to(record, &mut frame)?;
    Ok(frame)
}

/// Writes a record behind what is there already.
///
/// ```
/// # use idempotency_core::{Fingerprint, HaltReason, Meta, Owner, Record, State};
/// # use time::OffsetDateTime;
/// # let now = OffsetDateTime::UNIX_EPOCH;
/// # let fingerprint = Fingerprint::derive(None, []);
/// # let state = State::Halted(HaltReason::Panicked);
/// # let record = Record::new(Owner::from_u128(1), fingerprint, now, now, Meta::default(), state);
/// let mut value = b"before".to_vec();
/// idempotency_frame::encode_to(&record, &mut value).unwrap();
/// assert_eq!(idempotency_frame::decode(value.split_off(6)).unwrap(), record);
/// ```
///
/// # Errors
///
/// [`FrameError::BodyTooLarge`]; then nothing was written.
pub fn encode_to(record: &Record, frame: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = match &record.state {
        State::Completed(response) => response.body(),
        State::Processing { .. } | State::Halted(_) => &Body::NotKept,
    };
    let (flags, body) = match body {
        Body::Kept(body) => (BODY_KEPT, &body[..]),
        Body::NotKept => (0, &[][..]),
    };
    let body_len = u32::try_from(body.len()).map_err(|_| FrameError::BodyTooLarge)?;
    // Well below 64 KiB: 1 KiB of meta is the only part that is not fixed.
    let metadata = metadata::write(record);
    let start = frame.len();
    frame.reserve(HEAD + metadata.len() + body.len() + CHECKSUM);
    frame.put_slice(MAGIC);
    frame.put_u8(VERSION);
    frame.put_u8(flags);
    frame.put_u16_le(metadata.len() as u16);
    frame.put_u32_le(body_len);
    frame.put_slice(&metadata);
    frame.put_slice(body);
    frame.put_u32_le(crc32c::crc32c(&frame[start..]));
    Ok(())
}

/// Reads a record. Its body is a slice of the bytes, not a copy.
///
/// ```
/// use idempotency_frame::{FrameError, decode};
///
/// assert_eq!(decode("something else"), Err(FrameError::Magic));
/// ```
///
/// # Errors
///
/// [`FrameError`], for all bytes that [`encode`] has not written.
pub fn decode(frame: impl Into<Bytes>) -> Result<Record, FrameError> {
    let frame = frame.into();
    let mut rest = frame.clone();
    if !frame.starts_with(&MAGIC[..frame.len().min(MAGIC.len())]) {
        return Err(FrameError::Magic);
    }
    if frame.len() < HEAD + CHECKSUM {
        return Err(FrameError::Truncated);
    }
    rest.advance(MAGIC.len());
    let (version, flags) = (rest.get_u8(), rest.get_u8());
    if version == 0 || version > VERSION + 1 {
        return Err(FrameError::Version(version));
    }
    let (metadata_len, body_len) = (usize::from(rest.get_u16_le()), rest.get_u32_le() as usize);
    let announced = metadata_len.saturating_add(body_len).saturating_add(CHECKSUM);
    if rest.len() < announced {
        return Err(FrameError::Truncated);
    }
    if rest.len() > announced {
        return Err(FrameError::TooLong);
    }
    let (content, mut checksum) = (&frame[..frame.len() - CHECKSUM], &frame[frame.len() - CHECKSUM..]);
    if crc32c::crc32c(content) != checksum.get_u32_le() {
        return Err(FrameError::Checksum);
    }
    let metadata: Metadata = metadata::read(rest.split_to(metadata_len))?;
    let body = match flags & BODY_KEPT {
        0 if body_len > 0 => return Err(FrameError::Metadata("a body that was not kept")),
        0 => Body::NotKept,
        _ => Body::Kept(rest.split_to(body_len)),
    };
    metadata.into_record(body)
}
