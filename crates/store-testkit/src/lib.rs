//! Tells whether a store keeps the promises: a conformance suite for any [`Store`](idempotency_core::Store).
//!
//! A store on the tracker's clock needs these lines in its tests:
//!
//! ```
//! use idempotency_store_memory::MemoryStore;
//! use idempotency_store_testkit::{OnManualClock, conformance};
//!
//! conformance!(OnManualClock::new(MemoryStore::new));
//! # fn main() {}
//! ```
//!
//! One `#[test]` a case, three times: on the type itself, behind `Box<dyn Store>` and behind `Arc<dyn Store>`. A case is
//! named by the promise that it checks (`i1` to `i12`) or by the trap that others fell into. One with a clock of
//! its own takes [`OnRealTime`]; one with more to it implements [`StoreFactory`].
//!
//! [`FaultyStore`] wraps a store and fails by a seeded plan, before a write and after it.
//!
//! [`history`] notes down what callers saw of a store, in one process or in many, and tells whether a store that keeps the
//! promises could have shown them that.
//!
//! A case panics where a store breaks a promise; that is what a test does.

#![deny(missing_docs)]

pub mod cases;
mod conformance;
mod factory;
mod faulty;
pub mod history;
mod model;
#[doc(hidden)]
pub mod samples;
#[cfg(feature = "servers")]
pub mod servers;
mod world;

#[doc(hidden)]
pub use conformance::Waiting;
pub use conformance::{run, run_case};
pub use factory::{Boxed, OnManualClock, OnRealTime, Shared, StoreFactory};
pub use faulty::{Fault, FaultPlan, FaultyStore};
