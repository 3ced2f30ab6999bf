//! The durable store of the idempotency request tracker: one file, no server, pure Rust.
//!
//! ```
//! use idempotency_core::{Store, Survives};
//! use idempotency_store_redb::RedbStore;
//!
//! # let folder = std::env::temp_dir().join(format!("idempotency-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder).unwrap();
//! # let path = folder.join("records.redb");
//! let store = RedbStore::open(&path).unwrap();
//! assert_eq!(store.capabilities().durability.local, Survives::PowerLoss);
//! // let tracker = Tracker::builder(store).spawn().await?;
//! # drop(store);
//! # std::fs::remove_dir_all(&folder).unwrap();
//! ```
//!
//! An acknowledged write is on the disk: it survives the end of the process and of the power. One thread writes.
//! Everything that waits for it goes into one transaction and one `fsync` (group commit), so that it is the faster the
//! more there is to do. Reads run beside it on a thread of their own. Renewals and prunes need no `fsync`: after a
//! crash nobody is left whose lease they would have extended, and an expired record is not served.
//!
//! The file belongs to one process; another one that opens it hears so.

#![deny(missing_docs)]

mod config;
mod disk;
mod error;
mod reader;
mod records;
mod store;
mod tables;
mod writer;

pub use config::RedbConfig;
pub use store::RedbStore;

#[cfg(test)]
mod tests;
