//! The actors of the request tracker.
//!
//! A client that got no answer retries, and the work must not happen twice. The tracker is asked before the work
//! ([`Track`]), told the result after it ([`PutResponse`]), and answers every retry with what it knows.
//!
//! ```
//! use idempotency_core::Scope;
//! use idempotency_store_memory::MemoryStore;
//! use idempotency_tracker::{PutResponse, Track, Tracked, Tracker};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
//! let id = tracker.request_id(&Scope::global(), [&b"POST"[..], b"/payments", b"key-1"]);
//! let payload = tracker.fingerprint([&br#"{"amount":10}"#[..]]);
//!
//! // The first request works under a permit.
//! let Tracked::Init(permit) = tracker.send(Track::new(id, payload)).await.unwrap() else { panic!() };
//! // One that comes meanwhile hears so.
//! let meanwhile = tracker.send(Track::new(id, payload)).await.unwrap();
//! assert!(matches!(meanwhile, Tracked::Processing { .. }));
//! tracker.send(PutResponse::new(permit, "201 Created")).await.unwrap();
//! // The retry gets the response of the first.
//! let retry = tracker.send(Track::new(id, payload)).await.unwrap();
//! assert!(matches!(retry, Tracked::Cached { .. }));
//! // The key with another payload is a mistake.
//! let reused = tracker.send(Track::new(id, tracker.fingerprint([]))).await.unwrap();
//! assert!(matches!(reused, Tracked::Mismatch { .. }));
//! # });
//! ```
//!
//! [`TrackerHandle::once`] does all of it around a piece of work.
//!
//! In reading order: a [`Track`] goes from the [`TrackerHandle`] through the `inbox` to the [`RequestTracker`], whose
//! engine decides; what it wants of the store goes in a [`StoreBatch`] to the backend actor.

#![deny(missing_docs)]

mod builder;
mod handle;
mod once;
mod operators;

mod ask;
mod messages;
mod orphans;
mod track;

mod lease;
mod permit;

mod estate;
mod inbox;
mod request_tracker;

mod actor_store;
mod backend;
mod cache;
mod gate;
mod hints;
mod meters;
mod read_through;
mod store_actor;
mod swap;

mod error;
mod host;

pub use builder::{Builder, TenantLimits};
pub use handle::{TrackerHandle, Tracking};
pub use once::{Once, Outcome};

pub use ask::TrackerMessage;
pub use idempotency_engine::{Forgotten, Happened, OnConcurrent, Settled};
pub use messages::{
    Forget, Halt, Lookup, Prune, PutResponse, Release, ShutdownReport, Status, StatusReport, Swap,
};
pub use operators::{Filter, RecordState, Records, Resolved};
pub use orphans::{OnOrphan, Orphan, Resolution, Resolver};
pub use track::{Track, Tracked};

pub use lease::Lease;
pub use permit::{Permit, Settling};

pub use actor_store::ActorStore;
pub use read_through::ReadThrough;
pub use request_tracker::RequestTracker;
pub use store_actor::{StoreBatch, StoreReplies};
pub use swap::{SwapPolicy, SwapReport};

pub use error::{Error, ErrorKind};
pub use host::Placement;

use idempotency_core::Store;

/// Where it begins: [`Tracker::builder`].
#[derive(Debug)]
pub enum Tracker {}

impl Tracker {
    /// A tracker on this store, with the defaults that most applications keep.
    ///
    /// ```
    /// use idempotency_store_memory::MemoryStore;
    /// use idempotency_tracker::Tracker;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
    /// assert!(tracker.status().await.unwrap().backend_up);
    /// # });
    /// ```
    pub fn builder<S: Store>(store: S) -> Builder<S> {
        Builder::new(store)
    }
}
