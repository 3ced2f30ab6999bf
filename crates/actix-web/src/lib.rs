//! actix-web middleware of the idempotency request tracker.
//!
//! ```
//! use actix_web::{App, web};
//! use idempotency_actix_web::{Idempotency, Policy};
//! use idempotency_core::Scope;
//! use idempotency_store_memory::MemoryStore;
//! use idempotency_tracker::Tracker;
//!
//! # #[actix_web::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
//! let idempotency = Idempotency::new(tracker, Policy::new(Scope::global()))?;
//!
//! // Made once, outside the closure that builds an `App` for each worker.
//! let app = move || {
//!     App::new().wrap(idempotency.clone()).route("/payments", web::post().to(|| async { "paid" }))
//! };
//! # let _ = app();
//! # Ok(())
//! # }
//! ```
//!
//! It may wrap an `App`, a `Scope` or a `Resource`. Customised, for an application whose authenticating middleware
//! leaves the principal in the extensions of the request:
//!
//! ```
//! use actix_web::HttpMessage;
//! use idempotency_actix_web::Policy;
//! use idempotency_core::Scope;
//!
//! struct Principal(String);
//!
//! let policy = Policy::scoped_by(|request| {
//!     let extensions = request.extensions();
//!     let principal = extensions.get::<Principal>()?;
//!     Some(Scope::principal([&principal.0]))
//! })
//! .request_limit(64 * 1024)
//! .expires_header();
//! ```
//!
//! A `Policy` speaks in the types of `http` 1, which actix-web does not use itself; they are at hand here:
//!
//! ```
//! use idempotency_actix_web::{Code, Policy, http::{Method, StatusCode}};
//! use idempotency_core::Scope;
//!
//! let policy = Policy::new(Scope::global())
//!     .methods([Method::POST, Method::PUT])
//!     .status_of(Code::OutcomeUnknown, StatusCode::INTERNAL_SERVER_ERROR);
//! ```
//!
//! The handler of a first request runs in a task of its own on its worker: a client that hangs up does not stop it. A
//! worker that ends does. So at a shutdown end the tracker first, which waits for what runs, and then the server:
//!
//! ```
//! # use actix_web::dev::ServerHandle;
//! # use idempotency_tracker::TrackerHandle;
//! # use std::time::Duration;
//! async fn shut_down(tracker: TrackerHandle, server: ServerHandle) {
//!     let _ = tracker.shutdown(Duration::from_secs(30)).await;
//!     server.stop(true).await;
//! }
//! ```

#![deny(missing_docs)]

mod body;
mod future;
mod middleware;
mod request;
mod response;
mod transform;

pub use body::ResponseBody;
pub use future::ResponseFuture;
pub use idempotency_http::{
    Budget, Code, Disposition, Fate, IdempotentRequest, InvalidPolicy, KeyRule, Problem, ReplayOf,
    RequestMeta, StoredHeaders, TraceParent, bytes, http,
};
pub use middleware::IdempotencyMiddleware;
pub use transform::Idempotency;

/// How a route treats its requests; its functions read the [`HttpRequest`](actix_web::HttpRequest).
///
/// They must not keep a clone of it: actix-web changes it on its way to the handler.
pub type Policy = idempotency_http::Policy<actix_web::HttpRequest>;
