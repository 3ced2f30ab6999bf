//! What is read of a request, in the types of `http`.

use std::{future::poll_fn, pin::pin};

use bytes::Buf;
use http::{header, request::Parts};
use http_body::Body;
use idempotency_core::Secret;
use idempotency_http::{Admission, Admitted, Code, Identity, Problem, RequestHead};
use tokio::time::timeout;

use crate::{Policy, RequestBody};

pub(crate) fn admit(policy: &Policy, parts: &Parts) -> Admission {
    let keys: Vec<&[u8]> =
        parts.headers.get_all(policy.header_name()).iter().map(|value| value.as_bytes()).collect();
    let prefer: Vec<&[u8]> = parts.headers.get_all("prefer").iter().map(|value| value.as_bytes()).collect();
    policy.admit(&RequestHead { keys: &keys, prefer: &prefer, ..head(parts) }, parts)
}

pub(crate) fn identify<B>(
    policy: &Policy,
    admitted: &Admitted,
    parts: &Parts,
    payload: &RequestBody<B>,
    secret: Option<&Secret>,
) -> Result<Identity, Problem> {
    policy.identify(admitted, &head(parts), parts, payload.bytes(), secret)
}

/// All but the keys and preferences.
fn head(parts: &Parts) -> RequestHead<'_> {
    let header = |name| parts.headers.get(name).map(|value: &http::HeaderValue| value.as_bytes());
    let content_length = header(header::CONTENT_LENGTH)
        .and_then(|length| std::str::from_utf8(length).ok())
        .and_then(|length| length.trim().parse().ok());
    let host = parts.uri.authority().map(|authority| authority.as_str());
    RequestHead {
        method: parts.method.as_str(),
        host: host.or_else(|| header(header::HOST).and_then(|host| std::str::from_utf8(host).ok())),
        path: whole_path(parts),
        query: parts.uri.query(),
        content_type: header(header::CONTENT_TYPE),
        content_encoding: header(header::CONTENT_ENCODING),
        content_length,
        keys: &[],
        prefer: &[],
        traceparent: parts.headers.get("traceparent").map(http::HeaderValue::as_bytes),
    }
}

/// Marks a request that is tracked already: an inner layer lets it pass, or it would find the claim of the outer one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IsTracked;

/// A nested router sees what is left of the path; the router that nests it leaves the whole.
fn whole_path(parts: &Parts) -> &str {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(whole)) = parts.extensions.get() {
        return whole.path();
    }
    parts.uri.path()
}

/// The payload within its limits of bytes and time; nothing was asked of the store before.
pub(crate) async fn read<B: Body>(policy: &Policy, body: B) -> Result<RequestBody<B>, Problem> {
    let gather = async {
        let mut body = pin!(body);
        let (mut buffer, mut trailers) = (policy.buffer_request(), None);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            // Of an error of the connection nothing is to be said to whoever is at its other end.
            let frame = frame.map_err(|_| policy.problem(Code::PayloadUnreadable))?;
            match frame.into_data() {
                Ok(mut data) => {
                    let data = data.copy_to_bytes(data.remaining());
                    buffer.push(&data).map_err(|full| policy.full(full))?;
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(RequestBody::gathered(buffer.finish(), trailers))
    };
    match timeout(policy.payload_read_limit(), gather).await {
        Ok(read) => read,
        Err(_) => Err(policy.problem(Code::PayloadTimeout)),
    }
}
