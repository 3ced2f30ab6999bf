//! Records in memory, bounded in bytes.
//!
//! ```
//! use idempotency_core::{Claim, Fingerprint, Inserted, Owner, RequestId, Store};
//! use idempotency_store_memory::MemoryStore;
//! use time::OffsetDateTime;
//!
//! # futures_util::future::FutureExt::now_or_never(async {
//! let store = MemoryStore::new();
//! let claim = Claim::new(RequestId::from_bytes([1; 32]), Owner::from_u128(1), Fingerprint::derive(None, []));
//! assert_eq!(store.insert(&claim, OffsetDateTime::UNIX_EPOCH).await.unwrap(), Inserted::Claimed);
//! # }).unwrap();
//! ```
//!
//! What it keeps is gone with the process ([`Survives::Memory`](idempotency_core::Survives::Memory)), so it suits
//! tests, caches of cheap work, and nothing else that must not happen twice.
//!
//! It refuses new claims when its budget is used up, and drops nothing that has not expired: evicting a record
//! would run its work again (I12).

#![deny(missing_docs)]

mod config;
mod expiry;
mod records;
mod store;
mod table;

#[cfg(test)]
mod tests;

pub use config::MemoryConfig;
pub use store::MemoryStore;
