//! What is read of a request, in the types of actix-web.

use std::{future::poll_fn, pin::pin};

use actix_web::{HttpRequest, dev::Payload, http::header};
use bytes::Bytes;
use futures_core::Stream;
use idempotency_core::Secret;
use idempotency_http::{Admission, Admitted, Code, Identity, Problem, RequestHead};
use tokio::time::timeout;

use crate::Policy;

pub(crate) fn admit(policy: &Policy, request: &HttpRequest) -> Admission {
    let keys: Vec<&[u8]> =
        request.headers().get_all(policy.header_name()).map(|value| value.as_bytes()).collect();
    let prefer: Vec<&[u8]> = request.headers().get_all("prefer").map(|value| value.as_bytes()).collect();
    policy.admit(&RequestHead { keys: &keys, prefer: &prefer, ..head(request) }, request)
}

pub(crate) fn identify(
    policy: &Policy,
    admitted: &Admitted,
    request: &HttpRequest,
    payload: &[u8],
    secret: Option<&Secret>,
) -> Result<Identity, Problem> {
    policy.identify(admitted, &head(request), request, payload, secret)
}

/// All but the keys and preferences.
fn head(request: &HttpRequest) -> RequestHead<'_> {
    let header = |name| request.headers().get(name).map(|value: &header::HeaderValue| value.as_bytes());
    let content_length = header(header::CONTENT_LENGTH)
        .and_then(|length| std::str::from_utf8(length).ok())
        .and_then(|length| length.trim().parse().ok());
    let host = request.uri().authority().map(|authority| authority.as_str());
    RequestHead {
        method: request.method().as_str(),
        host: host.or_else(|| header(header::HOST).and_then(|host| std::str::from_utf8(host).ok())),
        path: request.uri().path(),
        query: request.uri().query(),
        content_type: header(header::CONTENT_TYPE),
        content_encoding: header(header::CONTENT_ENCODING),
        content_length,
        keys: &[],
        prefer: &[],
        traceparent: request.headers().get("traceparent").map(header::HeaderValue::as_bytes),
    }
}

/// Marks a request that is tracked already: an inner middleware lets it pass, or it would find the claim of the outer
/// one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IsTracked;

/// The payload within its limits of bytes and time; nothing was asked of the store before.
pub(crate) async fn read(policy: &Policy, payload: Payload) -> Result<Bytes, Problem> {
    let gather = async {
        let mut payload = pin!(payload);
        let mut buffer = policy.buffer_request();
        while let Some(chunk) = poll_fn(|cx| payload.as_mut().poll_next(cx)).await {
            // Of an error of the connection nothing is to be said to whoever is at its other end.
            let chunk = chunk.map_err(|_| policy.problem(Code::PayloadUnreadable))?;
            buffer.push(&chunk).map_err(|full| policy.full(full))?;
        }
        Ok(buffer.finish())
    };
    match timeout(policy.payload_read_limit(), gather).await {
        Ok(read) => read,
        Err(_) => Err(policy.problem(Code::PayloadTimeout)),
    }
}
