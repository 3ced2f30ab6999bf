//! A tower layer of the idempotency request tracker, for axum and every other service over [`http::Request`].
//!
//! ```
//! use axum::{Router, routing::post};
//! use idempotency_core::Scope;
//! use idempotency_store_memory::MemoryStore;
//! use idempotency_tower::{IdempotencyLayer, Policy};
//! use idempotency_tracker::Tracker;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
//! let idempotency = IdempotencyLayer::new(tracker, Policy::new(Scope::global()))?;
//!
//! let app: Router = Router::new().route("/orders", post(|| async { "ordered" })).layer(idempotency);
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! Customised, for an application whose authenticating middleware leaves the principal in the extensions:
//!
//! ```
//! use idempotency_core::Scope;
//! use idempotency_tower::Policy;
//!
//! #[derive(Clone)]
//! struct Principal(String);
//!
//! let policy = Policy::scoped_by(|request| {
//!     let principal = request.extensions.get::<Principal>()?;
//!     Some(Scope::principal([&principal.0]))
//! })
//! .request_limit(64 * 1024)
//! .expires_header();
//! ```
//!
//! The handler of a first request runs in a task of its own: a client that hangs up does not stop it. A layer that
//! ends handlers early, such as a timeout, belongs *inside* this one, or it only ends the waiting.
//!
//! # Features
//!
//! * `axum`: the module `axum`, a layer that costs requests which are not tracked next to nothing there; and the whole path is
//!   seen in a nested `axum::Router`. Without it `/a` and `/b` that nest the same router share their keys. The facade's feature
//!   `axum` turns it on.

#![deny(missing_docs)]

#[cfg(feature = "axum")]
pub mod axum;
mod body;
mod future;
mod kind;
mod layer;
mod request;
mod response;
mod service;

pub use body::{RequestBody, ResponseBody};
pub use future::ResponseFuture;
pub use idempotency_http::{
    Budget, Code, Disposition, Fate, IdempotentRequest, InvalidPolicy, KeyRule, Problem, ReplayOf,
    RequestMeta, StoredHeaders, TraceParent, bytes, http,
};
pub use kind::{RequestKind, ResponseKind, Wrapped};
pub use layer::IdempotencyLayer;
pub use service::Idempotency;

/// How a route treats its requests; its functions read the [`http::request::Parts`].
pub type Policy = idempotency_http::Policy<http::request::Parts>;
