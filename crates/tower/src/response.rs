//! What is stored of a response, and what is answered in place of one.

use std::{
    error::Error as _,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Response, header, response::Parts};
use http_body::Body;
use idempotency_http::{Code, Disposition, Fate, IdempotentRequest, Identity};
use idempotency_tracker::{Error, ErrorKind, Once, Outcome};
use metrics::counter;
use tokio::time::sleep;

use crate::{Policy, ResponseBody};

const REPLAYED: &str = "idempotency-replayed";

/// Judges the response of a handler and gathers it, to be stored before its first byte leaves.
pub(crate) async fn gather<B: Body, E>(
    policy: &Policy,
    response: Response<B>,
    ours: &IdempotentRequest,
) -> (Outcome<()>, Result<Response<ResponseBody<B>>, E>) {
    let (mut parts, body) = response.into_parts();
    // Ours to say, and not true of a first response.
    parts.headers.remove(REPLAYED);
    let (outcome, body) = gather_body(policy, &parts, body, ours).await;
    (outcome, Ok(Response::from_parts(parts, body)))
}

async fn gather_body<B: Body>(
    policy: &Policy,
    parts: &Parts,
    body: B,
    ours: &IdempotentRequest,
) -> (Outcome<()>, ResponseBody<B>) {
    let disposition = parts.extensions.get::<Disposition>().copied().or_else(|| ours.said());
    match policy.fate(parts.status, disposition) {
        Fate::Kept => {}
        Fate::Released => return (Outcome::NotDone(()), ResponseBody::untouched(body)),
        Fate::Halted(reason) => return (Outcome::Halted(reason, ()), ResponseBody::untouched(body)),
    }
    let headers = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut capture = policy.capture(parts.status.as_u16(), headers);
    let content_type = parts.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if policy.streams(parts.status, content_type, body.size_hint().lower(), disposition) {
        return (Outcome::Done(capture.overflow().0), ResponseBody::untouched(body));
    }
    let (mut body, mut trailers) = (Box::pin(body), None);
    let mut give_up = pin!(sleep(policy.response_gather_limit()));
    loop {
        let frame = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Pending => give_up.as_mut().poll(cx).map(|()| None),
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
        });
        let too_much = match frame.await {
            // It stalls.
            None => Bytes::new(),
            Some(None) => break,
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(mut data) => {
                    let data = data.copy_to_bytes(data.remaining());
                    if capture.push(&data).is_ok() {
                        continue;
                    }
                    data
                }
                Err(frame) => {
                    trailers = frame.into_trailers().ok();
                    continue;
                }
            },
            Some(Some(Err(error))) => {
                // Whatever was done, its response will never be whole. The client sees it break off.
                let (_, prefix) = capture.overflow();
                return (Outcome::Unknown(()), ResponseBody::broken(prefix, error));
            }
        };
        let (marker, prefix) = capture.overflow();
        return (Outcome::Done(marker), ResponseBody::flowing([prefix, too_much], body));
    }
    if let Some(trailers) = &trailers {
        capture.trailers(trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    }
    let (stored, bytes) = capture.finish();
    (Outcome::Done(stored), ResponseBody::gathered(bytes, trailers))
}

/// A response of the policy: a replay, or a problem.
pub(crate) fn from_bytes<B: Body>(response: Response<Bytes>) -> Response<ResponseBody<B>> {
    let (mut parts, bytes) = response.into_parts();
    let trailers = parts.extensions.remove::<HeaderMap>();
    Response::from_parts(parts, ResponseBody::gathered(bytes, trailers))
}

/// What is answered where there is neither a response nor a replay.
pub(crate) fn in_place_of<B: Body>(
    policy: &Policy,
    identity: &Identity,
    once: &Result<Once<()>, Error>,
) -> Response<ResponseBody<B>> {
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
pub(crate) fn note_untracked(error: &Error) {
    tracing::warn!(%error, source = error.source(), "a request runs untracked");
    counter!("idempotency_untracked_total").increment(1);
}
