use std::{fmt, sync::Arc};

use http::request::Parts;
use idempotency_http::InvalidPolicy;
use idempotency_tracker::{Track, TrackerHandle};
use metrics::describe_counter;
use tower_layer::Layer;

use crate::{Idempotency, Policy};

/// Wraps services with [`Idempotency`]. Cheap to clone.
///
/// See the [crate](crate) for an example.
#[derive(Debug, Clone)]
pub struct IdempotencyLayer(Arc<Shared>);

/// What all services of a layer share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) tracker: TrackerHandle,
    pub(crate) policy: Policy,
    pub(crate) tracking: Option<Tracking>,
}

/// How a request is tracked, by what it says.
pub(crate) type Tracking = Arc<dyn Fn(&Parts, Track) -> Track + Send + Sync>;

impl IdempotencyLayer {
    /// Tracks requests with this tracker, as the policy says.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`], so that a mistake is heard at start and not at the first request.
    pub fn new(tracker: TrackerHandle, policy: Policy) -> Result<Self, InvalidPolicy> {
        policy.validate_with(tracker.secret())?;
        describe_counter!(
            "idempotency_untracked_total",
            "Requests that ran untracked, by a policy that fails open, since the store was away"
        );
        Ok(Self(Arc::new(Shared { tracker, policy, tracking: None })))
    }

    /// Says more of how a request is tracked: lease, retention, work limit, what to do where an earlier caller is gone or still at
    /// work, whose limits it counts against.
    ///
    /// ```
    /// use idempotency_tower::{IdempotencyLayer, Policy};
    /// use idempotency_tracker::{OnConcurrent, OnOrphan, TrackerHandle};
    /// use std::time::Duration;
    ///
    /// # fn of(tracker: TrackerHandle, policy: Policy) -> Result<(), Box<dyn std::error::Error>> {
    /// let idempotency = IdempotencyLayer::new(tracker, policy)?.tracking(|_request, track| {
    ///     track
    ///         .retention(Duration::from_secs(7 * 24 * 60 * 60))
    ///         .on_orphan(OnOrphan::Rerun)
    ///         // A client may wait for less: `Prefer: wait=5`.
    ///         .on_concurrent(OnConcurrent::Wait { at_most: Duration::from_secs(20) })
    /// });
    /// # let _ = idempotency;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tracking(self, tracking: impl Fn(&Parts, Track) -> Track + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { tracking: Some(Arc::new(tracking)), ..(*self.0).clone() }))
    }
}

impl IdempotencyLayer {
    pub(crate) fn wrap<S, K>(&self, inner: S) -> Idempotency<S, K> {
        Idempotency::new(inner, self.0.clone())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("tracker", &self.tracker)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        self.wrap(inner)
    }
}
