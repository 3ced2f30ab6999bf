//! The words, the rules and the store contract of the idempotency request tracker.
//!
//! This is the crate that the author of a store reads. It has no runtime and no actor: types, one pure table
//! of transitions, and the [`Store`] trait. A local store reads a record, asks the table, and writes what the
//! table says, inside its own lock or transaction:
//!
//! ```
//! use idempotency_core::{Claim, Fingerprint, Inserted, Owner, Record, RequestId, Scope, Write};
//! use std::{collections::HashMap, time::Duration};
//! use time::OffsetDateTime;
//!
//! let id = RequestId::derive(None, &Scope::global(), [&b"POST"[..], b"/payments", b"key-1"]);
//! let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, [&b"amount=10"[..]]));
//! let mut records: HashMap<RequestId, Record> = HashMap::new();
//!
//! let now = OffsetDateTime::UNIX_EPOCH;
//! let step = Record::on_insert(records.get(&id), &claim, now);
//! assert_eq!(step.answer, Inserted::Claimed);
//! if let Write::Put(record) = step.write {
//!     records.insert(id, record);
//! }
//!
//! // Another caller of the same id learns what is there.
//! let late = Claim::new(id, Owner::from_u128(2), claim.fingerprint);
//! let step = Record::on_insert(records.get(&id), &late, now + Duration::from_secs(1));
//! assert!(matches!(step.answer, Inserted::Exists(_)));
//! ```
//!
//! In reading order:
//!
//! 1. what identifies a request: [`IdempotencyKey`], [`Scope`], [`Secret`], [`RequestId`], [`Fingerprint`],
//!    [`ChildKey`];
//! 2. what is kept of it: [`Record`], [`State`], [`StoredResponse`], [`Owner`], [`Meta`];
//! 3. how it changes: [`Claim`], [`Update`], [`Change`] and the table, [`Record::on_insert`],
//!    [`Record::on_update`], [`Record::on_restore`];
//! 4. who keeps it: [`Store`], [`Capabilities`], [`StoreError`], [`StoreCommand`];
//! 5. what time it is: [`Clock`].

#![deny(missing_docs)]

mod hash;
mod idempotency_key;
mod scope;
mod secret;

mod child_key;
mod fingerprint;
mod request_id;

mod meta;
mod owner;
mod record;
mod response;
mod state;

mod change;
mod claim;
mod transition;

mod capabilities;
mod command;
mod store;
mod store_error;
mod tenant;

mod clock;

pub use idempotency_key::{IdempotencyKey, InvalidIdempotencyKey};
pub use scope::Scope;
pub use secret::{Secret, SecretCheck};

pub use child_key::ChildKey;
pub use fingerprint::{Fingerprint, Scheme};
pub use request_id::RequestId;

pub use meta::{Meta, MetaTooLarge};
pub use owner::Owner;
pub use record::Record;
pub use response::{Body, Digest, StoredResponse};
pub use state::{HaltReason, State};

pub use change::{Change, Update, Updated};
pub use claim::{Claim, DEFAULT_LEASE, DEFAULT_RETENTION, Inserted};
pub use transition::{Restored, Transition, Write};

pub use capabilities::{Capabilities, Durability, Survives};
pub use command::{StoreCommand, StoreReply};
pub use store::{Cursor, Page, Pruned, Setup, Store};
pub use store_error::{StoreError, StoreErrorKind};
pub use tenant::Tenant;

#[cfg(feature = "tokio-clock")]
pub use clock::TokioClock;
pub use clock::{CallersClock, Clock, ManualClock, SystemClock};

#[cfg(test)]
mod tests;
