use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use idempotency_http::{Admission, Admitted, IdempotentRequest, ReplayOf};
use idempotency_tracker::{Error, Lease, Once, Outcome, Track};
use tokio::sync::oneshot;
use tower_service::Service;
use tracing::{Instrument, Span, field};

use crate::{
    ResponseBody, ResponseFuture,
    kind::{RequestKind, ResponseKind, Wrapped},
    layer::Shared,
    request::{self, IsTracked},
    response,
};

/// Does the work of a request once, however often it is sent. Made by [`IdempotencyLayer`](crate::IdempotencyLayer).
///
/// Requests whose method is not tracked pass to the inner service as they are: nothing is boxed, buffered or asked. So do
/// those that an outer one tracks already. The inner service is called in a task of its own, without the task-locals of
/// whoever called this one. The runtime needs its timers.
pub struct Idempotency<S, K = Wrapped> {
    inner: S,
    shared: Arc<Shared>,
    kind: PhantomData<fn() -> K>,
}

impl<S, K> Idempotency<S, K> {
    pub(crate) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared, kind: PhantomData }
    }
}

impl<S: Clone, K> Clone for Idempotency<S, K> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<S: fmt::Debug, K> fmt::Debug for Idempotency<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("inner", &self.inner).field("shared", &self.shared).finish()
    }
}

impl<S, K, ReqBody, ResBody> Service<Request<ReqBody>> for Idempotency<S, K>
where
    K: RequestKind<ReqBody> + ResponseKind<ResBody> + 'static,
    S: Service<Request<<K as RequestKind<ReqBody>>::Body>, Response = Response<ResBody>>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    ReqBody: Body + Send + 'static,
    ResBody: Body + Send + 'static,
    ResBody::Error: Send,
{
    type Response = Response<<K as ResponseKind<ResBody>>::Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody, S::Error, K>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let tracks = self.shared.policy.tracks(request.method().as_str());
        if !tracks || request.extensions().get::<IsTracked>().is_some() {
            return ResponseFuture::untracked(self.inner.call(<K as RequestKind<_>>::pass(request)));
        }
        let (parts, body) = request.into_parts();
        match request::admit(&self.shared.policy, &parts) {
            Admission::Untracked => {
                let request = <K as RequestKind<_>>::pass(Request::from_parts(parts, body));
                ResponseFuture::untracked(self.inner.call(request))
            }
            Admission::Refused(problem) => {
                ResponseFuture::answered(response::from_bytes(self.shared.policy.answer(problem)))
            }
            Admission::Tracked(admitted) => {
                // The one that was polled to be ready is the one to call.
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                let span = span();
                let tracked =
                    track::<K, _, _, _>(self.shared.clone(), ready, parts, body, admitted, span.clone());
                ResponseFuture::tracked(tracked.instrument(span))
            }
        }
    }
}

/// What a tracked request is answered, by the handler now or before, or by the policy.
type Answer<B, E> = Result<Response<ResponseBody<B>>, E>;

/// Of a tracked request: `id` is its short id, `original` where the work of a replay was done.
fn span() -> Span {
    tracing::info_span!("idempotency", id = field::Empty, outcome = field::Empty, original = field::Empty)
}

/// One tracked request, from its payload to its answer.
async fn track<K, S, ReqBody, ResBody>(
    shared: Arc<Shared>,
    ready: S,
    mut parts: Parts,
    body: ReqBody,
    admitted: Admitted,
    span: Span,
) -> Answer<ResBody, S::Error>
where
    K: RequestKind<ReqBody> + 'static,
    S: Service<Request<K::Body>, Response = Response<ResBody>> + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Body + Send + 'static,
    ResBody: Body + Send + 'static,
    ResBody::Error: Send,
{
    let Shared { tracker, policy, tracking } = &*shared;
    let payload = match request::read(policy, body).await {
        Ok(payload) => payload,
        Err(problem) => return Ok(response::from_bytes(policy.answer(problem))),
    };
    let identity = match request::identify(policy, &admitted, &parts, &payload, tracker.secret()) {
        Ok(identity) => identity,
        Err(problem) => return Ok(response::from_bytes(policy.answer(problem))),
    };
    span.record("id", field::display(identity.id));
    let mut track = Track::new(identity.id, identity.fingerprint).meta(identity.meta.clone());
    track.patience = admitted.wait;
    if let Some(tracking) = tracking {
        track = tracking(&parts, track);
    }
    parts.extensions.insert(IsTracked);

    // The handler takes the request if it runs. Otherwise it is still there.
    let unused = Arc::new(Mutex::new(Some((ready, parts, payload))));
    // What is stored comes back from `once`; the answer itself, with all that is not stored, comes this way.
    let (send, answered) = oneshot::channel();
    let (shared_with_work, unused_by_work) = (shared.clone(), unused.clone());
    let (key, id) = (admitted.key, track.id);
    let key_of_work = key.clone();
    let work = move |lease: Lease| async move {
        let Shared { tracker, policy, .. } = &*shared_with_work;
        let (mut ready, mut parts, payload) = take(&unused_by_work).expect("the work runs once");
        let ours =
            IdempotentRequest::new(key_of_work, id, tracker.secret().cloned(), move || lease.is_held());
        parts.extensions.insert(ours.clone());
        let answer = ready.call(Request::from_parts(parts, K::gathered(payload))).await;
        let (outcome, answer) = match answer {
            Ok(response) => response::gather(policy, response, &ours).await,
            // A service that fails says nothing of what it did before.
            Err(error) => (Outcome::Unknown(()), Err(error)),
        };
        // If nobody is there to take it the client has hung up; what is to be stored is stored all the same.
        drop(send.send(answer));
        outcome
    };
    let once = tracker.once_with(track, work).await;
    span.record("outcome", once.as_ref().map_or_else(Error::outcome, Once::outcome));
    let expires_at = match &once {
        Ok(Once::Done { expires_at, replayed: false, .. }) => *expires_at,
        Ok(Once::NotDone(()) | Once::Unknown(())) => None,
        _ => {
            return Ok(match (&once, take(&unused)) {
                (Err(error), Some((mut ready, mut parts, payload)))
                    if policy.fails_open() && error.is_store_silent() =>
                {
                    response::note_untracked(error);
                    parts.extensions.insert(IdempotentRequest::new(
                        key,
                        id,
                        tracker.secret().cloned(),
                        || false,
                    ));
                    // To its end, also if the client hangs up.
                    let run =
                        async move { ready.call(Request::from_parts(parts, K::gathered(payload))).await };
                    match tokio::spawn(run.in_current_span()).await {
                        Ok(answer) => answer?.map(ResponseBody::untouched),
                        Err(_) => response::in_place_of(policy, &identity, &Ok(Once::Panicked)),
                    }
                }
                (Ok(Once::Done { expires_at, response, meta, .. }), Some((_, parts, _))) => {
                    let replay = policy.replay_to(&parts, response, *expires_at, meta);
                    if let Some(ReplayOf(original)) = replay.extensions().get() {
                        span.record("original", field::display(original));
                    }
                    response::from_bytes(replay)
                }
                _ => response::in_place_of(policy, &identity, &once),
            });
        }
    };
    let Ok(answer) = answered.await else { return Ok(response::in_place_of(policy, &identity, &once)) };
    answer.map(|mut response| {
        if let Some((name, value)) = policy.expires(expires_at) {
            response.headers_mut().insert(name, value);
        }
        response
    })
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
