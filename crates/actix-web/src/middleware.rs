use std::{cell::Cell, fmt, rc::Rc, sync::Arc};

use actix_web::{
    Error, HttpMessage,
    body::MessageBody,
    dev::{Payload, Service, ServiceRequest, ServiceResponse, forward_ready},
};
use idempotency_http::{Admission, Admitted, IdempotentRequest, ReplayOf};
use idempotency_tracker::{Lease, Once, Track};
use tokio::sync::oneshot;
use tracing::{Instrument, Span, field};

use crate::{
    ResponseBody, ResponseFuture,
    request::{self, IsTracked},
    response,
    transform::Shared,
};

/// Does the work of a request once, however often it is sent. Made by [`Idempotency`](crate::Idempotency).
///
/// Requests whose method is not tracked pass to the inner service as they are: nothing is boxed, buffered or asked. So do
/// those that an outer one tracks already. The inner service is called in a task of its own, without the task-locals of
/// whoever called this one.
pub struct IdempotencyMiddleware<S> {
    service: Rc<S>,
    shared: Arc<Shared>,
}

impl<S> IdempotencyMiddleware<S> {
    pub(crate) fn new(service: Rc<S>, shared: Arc<Shared>) -> Self {
        Self { service, shared }
    }
}

impl<S, B> Service<ServiceRequest> for IdempotencyMiddleware<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<ResponseBody<B>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future, B>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let policy = &self.shared.policy;
        let tracks = policy.tracks(request.method().as_str());
        if !tracks || request.extensions().contains::<IsTracked>() {
            return ResponseFuture::untracked(self.service.call(request));
        }
        match request::admit(policy, request.request()) {
            Admission::Untracked => ResponseFuture::untracked(self.service.call(request)),
            Admission::Refused(problem) => {
                let response = response::from_bytes(policy.answer(problem));
                ResponseFuture::answered(request.into_response(response))
            }
            Admission::Tracked(admitted) => {
                let span = span();
                let tracked =
                    track(self.shared.clone(), self.service.clone(), request, admitted, span.clone());
                ResponseFuture::tracked(tracked.instrument(span))
            }
        }
    }
}

/// Of a tracked request: `id` is its short id, `original` where the work of a replay was done.
fn span() -> Span {
    tracing::info_span!("idempotency", id = field::Empty, outcome = field::Empty, original = field::Empty)
}

/// One tracked request, from its payload to its answer.
async fn track<S, B>(
    shared: Arc<Shared>,
    service: Rc<S>,
    mut request: ServiceRequest,
    admitted: Admitted,
    span: Span,
) -> Result<ServiceResponse<ResponseBody<B>>, Error>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let Shared { tracker, policy, tracking } = &*shared;
    let payload = match request::read(policy, request.take_payload()).await {
        Ok(payload) => payload,
        Err(problem) => return Ok(request.into_response(response::from_bytes(policy.answer(problem)))),
    };
    let identified = request::identify(policy, &admitted, request.request(), &payload, tracker.secret());
    let identity = match identified {
        Ok(identity) => identity,
        Err(problem) => return Ok(request.into_response(response::from_bytes(policy.answer(problem)))),
    };
    span.record("id", field::display(identity.id));
    let mut track = Track::new(identity.id, identity.fingerprint).meta(identity.meta.clone());
    track.patience = admitted.wait;
    if let Some(tracking) = tracking {
        track = tracking(request.request(), track);
    }
    request.set_payload(Payload::from(payload));
    request.extensions_mut().insert(IsTracked);

    // A response of ours needs the request, and so does the handler: it takes it if it runs.
    let request = Rc::new(Cell::new(Some(request)));
    // What is stored comes back from `once`; the answer itself, with all that is not stored, comes this way.
    let (send, answered) = oneshot::channel();
    let (shared_with_work, service_of_work, request_of_work) =
        (shared.clone(), service.clone(), request.clone());
    let (key, id) = (admitted.key, track.id);
    let key_of_work = key.clone();
    let work = move |lease: Lease| async move {
        let Shared { tracker, policy, .. } = &*shared_with_work;
        let request = request_of_work.take().expect("the work runs once");
        let ours =
            IdempotentRequest::new(key_of_work, id, tracker.secret().cloned(), move || lease.is_held());
        request.extensions_mut().insert(ours.clone());
        let answer = service_of_work.call(request).await;
        let (outcome, answer) = match answer {
            Ok(response) => response::gather(policy, response, &ours).await,
            Err(error) => {
                // An error may give its response only once, so this one goes on in its place.
                let response = error.as_response_error().error_response();
                let (outcome, response) = response::gather_body(policy, response, &ours).await;
                (outcome, Err((error, response)))
            }
        };
        // If nobody is there to take it the client has hung up; what is to be stored is stored all the same.
        drop(send.send(answer));
        outcome
    };
    let once = tracker.once_local(track, work).await;
    span.record("outcome", once.as_ref().map_or_else(idempotency_tracker::Error::outcome, Once::outcome));
    // With the request, to which a response would belong.
    let handler_is_gone = || {
        let response = response::in_place_of::<B>(policy, &identity, &once);
        Err(response::into_error("the handler is gone", response))
    };
    let expires_at = match &once {
        Ok(Once::Done { expires_at, replayed: false, .. }) => *expires_at,
        Ok(Once::NotDone(()) | Once::Unknown(())) => None,
        _ => {
            let Some(request) = request.take() else { return handler_is_gone() };
            let response = match &once {
                Err(error) if policy.fails_open() && error.is_store_silent() => {
                    response::note_untracked(error);
                    let ours = IdempotentRequest::new(key, id, tracker.secret().cloned(), || false);
                    request.extensions_mut().insert(ours);
                    let response = service.call(request).await?;
                    return Ok(response.map_body(|_, body| ResponseBody::untouched(body)));
                }
                Ok(Once::Done { expires_at, response, meta, .. }) => {
                    let replay = policy.replay_to(request.request(), response, *expires_at, meta);
                    if let Some(ReplayOf(original)) = replay.extensions().get() {
                        span.record("original", field::display(original));
                    }
                    response::from_bytes(replay)
                }
                _ => response::in_place_of(policy, &identity, &once),
            };
            return Ok(request.into_response(response));
        }
    };
    let Ok(answer) = answered.await else { return handler_is_gone() };
    let expires = policy.expires(expires_at).and_then(|(name, value)| response::header(&name, &value));
    match answer {
        Ok(mut response) => {
            response::insert(response.headers_mut(), expires);
            Ok(response)
        }
        Err((error, mut response)) => {
            response::insert(response.headers_mut(), expires);
            Err(response::into_error(error, response))
        }
    }
}

impl<S> fmt::Debug for IdempotencyMiddleware<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyMiddleware").field("shared", &self.shared).finish_non_exhaustive()
    }
}
