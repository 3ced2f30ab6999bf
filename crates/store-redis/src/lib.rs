//! The store of the idempotency request tracker that many nodes share: Redis or Valkey, a single server, a primary with
//! replicas, or a cluster.
//!
//! ```no_run
//! use idempotency_core::{Durability, Survives};
//! use idempotency_store_redis::{RedisConfig, RedisStore};
//!
//! # async fn open() {
//! let config = RedisConfig::new("redis://127.0.0.1").durability(Durability::new(Survives::PowerLoss, 0));
//! let store = RedisStore::open(config).unwrap();
//! // let tracker = Tracker::builder(store).spawn().await?;
//! # }
//! ```
//!
//! One key a record, one round trip a claim and one a result. A single server takes a claim in a command of its own; what must be
//! compared before it is written is a script: a result, a takeover, one's own claim once more (a second round trip). All times
//! are the server's: nodes whose clocks disagree share it. Redis 7 or Valkey is needed, with `maxmemory-policy noeviction`: a
//! store that evicts claims when the memory is full would let work happen twice.
//!
//! A user of its own needs, for keys that begin with the prefix and the channel `PREFIXsettled`: `+@scripting -script +info +get
//! +set +getrange +setrange +pttl +pexpire +pexpireat +pexpiretime +del +publish +hsetnx +hset +hmget +scan +subscribe +ping`,
//! `+config|get` where a durability is declared, `+wait` where replicas are.
//!
//! A full server refuses claims; it still takes results. What it declares to survive (`RedisConfig::durability`) is verified
//! when the tracker starts.

#![deny(missing_docs)]

mod at_once;
mod config;
mod error;
mod line;
mod link;
mod push;
mod scripts;
mod setup;
mod slots;
mod store;
mod updates;
mod value;
mod waits;

pub use config::RedisConfig;
pub use store::RedisStore;
