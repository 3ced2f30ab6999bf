//! A client that got no answer retries, and the work must not happen twice: one charge, one order, one e-mail.
//!
//! The **request tracker** is asked before the work, told the result after it, and answers every retry with what it
//! knows. An application spawns it and calls [`once`](TrackerHandle::once):
//!
//! ```
//! use idempotency::{MemoryStore, Once, Outcome, Scope, Tracker};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), idempotency::Error> {
//! let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
//!
//! // Which request is it, and what does it ask for?
//! let id = tracker.request_id(&Scope::global(), [&b"POST"[..], b"/payments", b"key-1"]);
//! let payload = tracker.fingerprint([&br#"{"amount":1000}"#[..]]);
//!
//! let charge = || async { Outcome::<()>::done("201 Created") };
//! let first = tracker.once(id, payload, charge).await?;
//! let retry = tracker.once(id, payload, charge).await?;
//! assert!(matches!(first, Once::Done { replayed: false, .. }));
//! assert!(matches!(retry, Once::Done { replayed: true, .. }));
//! # Ok(())
//! # }
//! ```
//!
//! Or it sends the typed messages of the actor: [`Track`], [`PutResponse`], [`Halt`], [`Release`].
//!
//! # What it promises
//!
//! At most one caller at a time works on a request, on any number of threads; every retry gets the response of the
//! one that was stored, byte for byte; another payload under the same key is told apart; a caller that dies blocks
//! its key for no longer than a lease; and no error of the store is ever an answer. What happens to a request whose
//! caller died half way is a policy: [`OnOrphan::Halt`] (at most once, the default) or [`OnOrphan::Rerun`] (at least
//! once). Exactly once does not exist across two systems.
//!
//! # Features
//!
//! * `memory` (default): `MemoryStore`, which is gone with the process.
//! * `redb` (default): `RedbStore`, one durable file and no server.
//! * `postgres`: `PostgresStore`, which many nodes share, and `transact`, which commits effect and record together;
//!   `postgres-tls` for `sslmode=require`.
//! * `redis`: `RedisStore`, which many nodes share: Redis or Valkey, one server or a cluster; `redis-tls` for `rediss://`.
//! * `actix-web`: the module `actix_web`, middleware for `wrap`.
//! * `tower`: the module `tower`, a layer for every service over `http::Request`.
//! * `axum`: the module `axum`, a layer for its routers; the whole path is seen in nested ones.
//!
//! A store of one's own implements [`store::Store`].

#![deny(missing_docs)]

pub use idempotency_core::{
    Body, ChildKey, Clock, Digest, Durability, Fingerprint, HaltReason, IdempotencyKey,
    InvalidIdempotencyKey, ManualClock, Meta, MetaTooLarge, Owner, Record, RequestId, Scheme, Scope, Secret,
    State, StoredResponse, Survives, SystemClock, Tenant, TokioClock,
};
pub use idempotency_tracker::{
    Builder, Error, ErrorKind, Filter, Forget, Forgotten, Halt, Happened, Lease, Lookup, OnConcurrent,
    OnOrphan, Once, Orphan, Outcome, Permit, Placement, Prune, PutResponse, ReadThrough, RecordState,
    Records, Release, RequestTracker, Resolution, Resolved, Resolver, Settled, Settling, ShutdownReport,
    Status, StatusReport, Swap, SwapPolicy, SwapReport, TenantLimits, Track, Tracked, Tracker, TrackerHandle,
    TrackerMessage, Tracking,
};

#[cfg(feature = "memory")]
pub use idempotency_store_memory::{MemoryConfig, MemoryStore};
/// Effect and record in one transaction, the outbox, and the driver.
#[cfg(feature = "postgres")]
pub use idempotency_store_postgres as postgres;
#[cfg(feature = "postgres")]
pub use idempotency_store_postgres::{PostgresConfig, PostgresStore};
#[cfg(feature = "redb")]
pub use idempotency_store_redb::{RedbConfig, RedbStore};
#[cfg(feature = "redis")]
pub use idempotency_store_redis::{RedisConfig, RedisStore};

/// Middleware for actix-web: `App::new().wrap(idempotency)`.
#[cfg(feature = "actix-web")]
pub use idempotency_actix_web as actix_web;

/// A tower layer, for every service over `http::Request`.
#[cfg(feature = "tower")]
pub use idempotency_tower as tower;

/// A layer for axum: `Router::new().layer(idempotency)`. It sees the whole path in a nested `axum::Router`.
#[cfg(feature = "axum")]
pub use idempotency_tower::axum;

/// For those who write a store: the trait, what travels through it, and the table of transitions.
///
/// The example `custom_store` is a whole store in under 80 lines.
pub mod store {
    pub use idempotency_core::{
        Capabilities, Change, Claim, Cursor, Inserted, Page, Pruned, Record, Restored, SecretCheck, Setup,
        Store, StoreCommand, StoreError, StoreErrorKind, StoreReply, Transition, Update, Updated, Write,
    };
    pub use idempotency_tracker::{ActorStore, StoreBatch, StoreReplies};
}
