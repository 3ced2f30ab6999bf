//! The stored bytes of a record.
//!
//! ```
//! use idempotency_core::{Claim, Fingerprint, Owner, Record, RequestId, Scope, Write};
//! use time::OffsetDateTime;
//!
//! let id = RequestId::derive(None, &Scope::global(), [&b"key-1"[..]]);
//! let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, [&b"payload"[..]]));
//! let Write::Put(record) = Record::on_insert(None, &claim, OffsetDateTime::UNIX_EPOCH).write else { panic!() };
//!
//! let bytes = idempotency_frame::encode(&record).unwrap();
//! assert_eq!(idempotency_frame::decode(bytes).unwrap(), record);
//! ```
//!
//! # Format
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 4 | `IDRC` |
//! | 4 | 1 | the version that wrote it: 1 |
//! | 5 | 1 | flags; bit 0: a body was kept |
//! | 6 | 2 | length of the metadata, little endian |
//! | 8 | 4 | length of the body, little endian |
//! | 12 | | metadata: a protobuf message |
//! | | | body |
//! | | 4 | CRC-32C (Castagnoli, RFC 3720 §B.4) of all before, little endian |
//!
//! Version n is read by n-1 and by n+1: a new version only adds metadata that the one before may skip, and any other
//! change takes two. While nodes are replaced one by one, old and new read each other's records.
//!
//! The parser is total: whatever the bytes are, it is a record or an error, and nothing is allocated by a length that
//! the input does not have.

#![deny(missing_docs)]

mod error;
mod layout;
mod metadata;

pub use error::FrameError;
pub use layout::{VERSION, decode, encode, encode_to};

#[cfg(test)]
mod tests;
