//! The layer for axum, whose services speak of one type of body: what is not tracked passes without being touched.
//!
//! ```
//! use axum::{Router, routing::post};
//! use idempotency_core::Scope;
//! use idempotency_store_memory::MemoryStore;
//! use idempotency_tower::axum::{IdempotencyLayer, Policy};
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
//! Between layers that change bodies, such as compression, take the [`IdempotencyLayer`](crate::IdempotencyLayer) of the crate,
//! which takes any.

use axum::body::Body;
use http::{Request, Response, request::Parts};
use idempotency_tracker::{Track, TrackerHandle};
use tower_layer::Layer;

use crate::kind::{RequestKind, ResponseKind};
pub use crate::{
    Budget, Code, Disposition, Fate, IdempotentRequest, InvalidPolicy, KeyRule, Policy, Problem, ReplayOf,
    RequestMeta, StoredHeaders, TraceParent, bytes, http,
};

/// Does the work of a request once, however often it is sent. Made by [`IdempotencyLayer`].
pub type Idempotency<S> = crate::Idempotency<S, Erased>;

/// Wraps routers, routes and other services over [`axum::body::Body`] with [`Idempotency`]. Cheap to clone.
///
/// See the [module](self) for an example.
#[derive(Debug, Clone)]
pub struct IdempotencyLayer(crate::IdempotencyLayer);

impl IdempotencyLayer {
    /// As [`new`](crate::IdempotencyLayer::new) of the layer for any service.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`], so that a mistake is heard at start and not at the first request.
    pub fn new(tracker: TrackerHandle, policy: Policy) -> Result<Self, InvalidPolicy> {
        crate::IdempotencyLayer::new(tracker, policy).map(Self)
    }

    /// As [`tracking`](crate::IdempotencyLayer::tracking) of the layer for any service.
    #[must_use]
    pub fn tracking(self, tracking: impl Fn(&Parts, Track) -> Track + Send + Sync + 'static) -> Self {
        Self(self.0.tracking(tracking))
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        self.0.wrap(inner)
    }
}

/// Services of axum: a [`Body`] can be any, also one that was gathered.
#[derive(Debug, Clone, Copy)]
pub enum Erased {}

impl RequestKind<Body> for Erased {
    type Body = Body;

    fn pass(request: Request<Body>) -> Request<Body> {
        request
    }

    fn gathered(body: crate::RequestBody<Body>) -> Body {
        Body::new(body)
    }
}

impl ResponseKind<Body> for Erased {
    type Body = Body;

    fn pass(response: Response<Body>) -> Response<Body> {
        response
    }

    fn gathered(body: crate::ResponseBody<Body>) -> Body {
        match body.into_untouched() {
            Ok(body) => body,
            Err(body) => Body::new(body),
        }
    }
}
