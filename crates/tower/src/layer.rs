use std::sync::Arc;

use idempotency_http::InvalidPolicy;
use idempotency_tracker::TrackerHandle;
use tower_layer::Layer;

use crate::{Idempotency, Policy};

/// Wraps services with [`Idempotency`]. Cheap to clone.
///
/// See the [crate](crate) for an example.
#[derive(Debug, Clone)]
pub struct IdempotencyLayer(Arc<Shared>);

/// What all services of a layer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tracker: TrackerHandle,
    pub(crate) policy: Policy,
}

impl IdempotencyLayer {
    /// Tracks requests with this tracker, as the policy says.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`], so that a mistake is heard at start and not at the first request.
    pub fn new(tracker: TrackerHandle, policy: Policy) -> Result<Self, InvalidPolicy> {
        policy.validate()?;
        Ok(Self(Arc::new(Shared { tracker, policy })))
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency::new(inner, self.0.clone())
    }
}
