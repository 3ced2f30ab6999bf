//! The store of the idempotency request tracker in PostgreSQL, and the only exactly-once there is: effect and record in one
//! transaction.
//!
//! ```no_run
//! use idempotency_store_postgres::PostgresStore;
//!
//! # async fn open() {
//! let store = PostgresStore::open("postgres://payments@127.0.0.1/payments").unwrap();
//! // let tracker = Tracker::builder(store).spawn().await?;
//! # }
//! ```
//!
//! One statement claims, or reads what is there; one settles; and calls that wait go together, a statement for all of them.
//! All times are the server's (`clock_timestamp()`): nodes whose clocks disagree share it. What the store declares to survive
//! is verified on each connection.
//!
//! Where the work itself is done in PostgreSQL, [`PostgresStore::transact`] commits it together with its record: there is no
//! moment at which one is there without the other, whoever dies. [`Outbox`] tells others of it, at least once.

#![deny(missing_docs)]

mod batch;
mod claims;
mod config;
mod error;
mod haste;
mod outbox;
mod pool;
mod push;
mod quiet;
mod rows;
mod schema;
mod sends;
mod setup;
mod statements;
mod store;
#[cfg(feature = "tls")]
mod tls;
mod transact;
mod updates;

pub use config::PostgresConfig;
pub use outbox::{Message, Outbox, Relayed};
pub use store::PostgresStore;
pub use transact::{TransactError, Transacted, WorkError};

/// The driver, whose transactions the work of [`PostgresStore::transact`] gets.
pub use tokio_postgres;
