//! What is stored of a response, and what is answered in place of one.

use std::{
    error::Error as _,
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use actix_web::{
    Error, HttpResponse,
    body::{BodySize, MessageBody},
    dev::ServiceResponse,
    error::InternalError,
    http::{
        StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;
use idempotency_http::{Code, Disposition, Fate, IdempotentRequest, Identity, ReplayOf};
use idempotency_tracker::{ErrorKind, Once, Outcome};
use metrics::counter;
use tokio::time::sleep;

use crate::{Policy, ResponseBody};

const REPLAYED: &str = "idempotency-replayed";

/// Judges the response of a handler and gathers it, to be stored before its first byte leaves.
pub(crate) async fn gather<B: MessageBody, E>(
    policy: &Policy,
    response: ServiceResponse<B>,
    ours: &IdempotentRequest,
) -> (Outcome<()>, Result<ServiceResponse<ResponseBody<B>>, E>) {
    let (request, response) = response.into_parts();
    let (outcome, response) = gather_body(policy, response, ours).await;
    (outcome, Ok(ServiceResponse::new(request, response)))
}

pub(crate) async fn gather_body<B: MessageBody>(
    policy: &Policy,
    response: HttpResponse<B>,
    ours: &IdempotentRequest,
) -> (Outcome<()>, HttpResponse<ResponseBody<B>>) {
    let (mut head, body) = response.into_parts();
    // Ours to say, and not true of a first response.
    head.headers_mut().remove(REPLAYED);
    let (outcome, body) = outcome_of(policy, &head, body, ours).await;
    (outcome, head.set_body(body))
}

async fn outcome_of<B: MessageBody>(
    policy: &Policy,
    head: &HttpResponse<()>,
    body: B,
    ours: &IdempotentRequest,
) -> (Outcome<()>, ResponseBody<B>) {
    let disposition = head.extensions().get::<Disposition>().copied().or_else(|| ours.said());
    let status = status(head.status());
    match policy.fate(status, disposition) {
        Fate::Kept => {}
        Fate::Released => return (Outcome::NotDone(()), ResponseBody::untouched(body)),
        Fate::Halted(reason) => return (Outcome::Halted(reason, ()), ResponseBody::untouched(body)),
    }
    let headers = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut capture = policy.capture(status.as_u16(), headers);
    let content_type = head.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    let length = match body.size() {
        BodySize::Sized(length) => length,
        BodySize::None | BodySize::Stream => 0,
    };
    if policy.streams(status, content_type, length, disposition) {
        return (Outcome::Done(capture.overflow().0), ResponseBody::untouched(body));
    }
    let mut body = Box::pin(body);
    let mut give_up = pin!(sleep(policy.response_gather_limit()));
    loop {
        let chunk = poll_fn(|cx| match body.as_mut().poll_next(cx) {
            Poll::Pending => give_up.as_mut().poll(cx).map(|()| None),
            Poll::Ready(chunk) => Poll::Ready(Some(chunk)),
        });
        let too_much = match chunk.await {
            // It stalls.
            None => Bytes::new(),
            Some(None) => break,
            Some(Some(Ok(chunk))) => {
                if capture.push(&chunk).is_ok() {
                    continue;
                }
                chunk
            }
            Some(Some(Err(error))) => {
                // Whatever was done, its response will never be whole. The client sees it break off.
                let (_, prefix) = capture.overflow();
                return (Outcome::Unknown(()), ResponseBody::broken(prefix, error));
            }
        };
        let (marker, prefix) = capture.overflow();
        return (Outcome::Done(marker), ResponseBody::flowing([prefix, too_much], body));
    }
    let (stored, bytes) = capture.finish();
    (Outcome::Done(stored), ResponseBody::gathered(bytes))
}

/// A response of the policy: a replay, or a problem. actix-web sends no trailers.
pub(crate) fn from_bytes<B: MessageBody>(response: http::Response<Bytes>) -> HttpResponse<ResponseBody<B>> {
    let (parts, bytes) = response.into_parts();
    let status =
        StatusCode::from_u16(parts.status.as_u16()).expect("both versions of `http` know the same statuses");
    let mut response = HttpResponse::with_body(status, ResponseBody::gathered(bytes));
    for (name, value) in parts.headers.iter().filter_map(|(name, value)| header(name, value)) {
        response.headers_mut().append(name, value);
    }
    if let Some(original) = parts.extensions.get::<ReplayOf>() {
        response.extensions_mut().insert(*original);
    }
    response
}

/// A header in the older types that actix-web has; what one version allows the other does too.
pub(crate) fn header(
    name: &http::HeaderName,
    value: &http::HeaderValue,
) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
}

pub(crate) fn insert(headers: &mut HeaderMap, header: Option<(HeaderName, HeaderValue)>) {
    if let Some((name, value)) = header {
        headers.insert(name, value);
    }
}

fn status(status: StatusCode) -> http::StatusCode {
    http::StatusCode::from_u16(status.as_u16()).expect("both versions of `http` know the same statuses")
}

/// A response where there is no request any more that it could belong to.
pub(crate) fn into_error<C, B>(cause: C, response: HttpResponse<ResponseBody<B>>) -> Error
where
    C: fmt::Debug + fmt::Display + 'static,
    B: MessageBody + 'static,
{
    InternalError::from_response(cause, response.map_into_boxed_body()).into()
}

/// What is answered where there is neither a response nor a replay.
pub(crate) fn in_place_of<B: MessageBody>(
    policy: &Policy,
    identity: &Identity,
    once: &Result<Once<()>, idempotency_tracker::Error>,
) -> HttpResponse<ResponseBody<B>> {
    let problem = match once {
        Ok(Once::Processing { retry_after, .. }) => {
            policy.problem(Code::InProgress).retry_after(*retry_after)
        }
        Ok(Once::Mismatch { meta, .. }) => policy.mismatch(identity, meta),
        Ok(Once::Halted { .. }) => policy.problem(Code::OutcomeUnknown),
        Ok(_) => policy.problem(Code::HandlerFailed),
        Err(error) if matches!(error.kind(), ErrorKind::Invalid(_)) => {
            tracing::error!(%error, "a request cannot be tracked");
            policy.problem(Code::Misconfigured)
        }
        Err(error) => {
            tracing::warn!(%error, source = error.source(), "a request was not started");
            let after = error.retry_after().unwrap_or(Duration::from_secs(1));
            policy.problem(Code::Unavailable).retry_after(after)
        }
    };
    from_bytes(policy.answer(problem))
}

/// A request runs untracked, by a policy that says so.
pub(crate) fn note_untracked(error: &idempotency_tracker::Error) {
    tracing::warn!(%error, source = error.source(), "a request runs untracked");
    counter!("idempotency_untracked_total").increment(1);
}
