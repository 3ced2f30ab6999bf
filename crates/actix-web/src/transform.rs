use std::{
    future::{Ready, ready},
    rc::Rc,
    sync::Arc,
};

use actix_web::{
    Error,
    body::MessageBody,
    dev::{Service, ServiceRequest, ServiceResponse, Transform},
};
use idempotency_http::InvalidPolicy;
use idempotency_tracker::TrackerHandle;

use crate::{IdempotencyMiddleware, Policy, ResponseBody};

/// The middleware for `wrap`. Cheap to clone.
///
/// See the [crate](crate) for an example.
#[derive(Debug, Clone)]
pub struct Idempotency(Arc<Shared>);

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tracker: TrackerHandle,
    pub(crate) policy: Policy,
}

impl Idempotency {
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

impl<S, B> Transform<S, ServiceRequest> for Idempotency
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<ResponseBody<B>>;
    type Error = Error;
    type Transform = IdempotencyMiddleware<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(IdempotencyMiddleware::new(Rc::new(service), self.0.clone())))
    }
}
