use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// What an idempotent request was refused for: the `code` of a problem document.
///
/// ```
/// use idempotency_http::Code;
///
/// assert_eq!(Code::InProgress.as_str(), "idempotency_in_progress");
/// assert_eq!(Code::KeyReused.status().as_u16(), 422);
/// ```
///
/// Clients decide by `code` and `retryable`, not by the status, which an application may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// 400 `idempotency_key_missing`: send an idempotency key.
    KeyMissing,
    /// 400 `idempotency_key_invalid`: several headers, a malformed one, or a key that is not allowed.
    KeyInvalid,
    /// 401 `idempotency_principal_missing`: nobody is known who could own the record.
    PrincipalMissing,
    /// 408 `idempotency_payload_timeout`: the payload did not arrive in time. Nothing was done.
    PayloadTimeout,
    /// 400 `idempotency_payload_unreadable`: the payload broke off or is malformed. Nothing was done.
    PayloadUnreadable,
    /// 413 `idempotency_payload_too_large`: the payload is larger than the route allows.
    PayloadTooLarge,
    /// 400 `idempotency_payload_invalid`: the payload is not what its content type says, so it cannot be told from others.
    PayloadInvalid,
    /// 403 `idempotency_replay_forbidden`: the work was done; its response is not shown to whoever asks now.
    ReplayForbidden,
    /// 409 `idempotency_in_progress`: the first request still runs. Try again, with the same key.
    InProgress,
    /// 409 `idempotency_outcome_unknown`: the first request died; whether its work was done is not known. A client
    /// must not pick a new key and try again, but look what became of the work.
    OutcomeUnknown,
    /// 422 `idempotency_key_reused`: the key stands for another payload.
    KeyReused,
    /// 409 `idempotency_response_unavailable`: the work was done; its response was not kept.
    ResponseUnavailable,
    /// 503 `idempotency_unavailable`: nothing was done. Try again, with the same key.
    Unavailable,
    /// 500 `idempotency_handler_failed`: the handler broke just now; whether its work was done is not known.
    HandlerFailed,
    /// 500 `idempotency_misconfigured`: the server cannot track this request. Nothing was done.
    Misconfigured,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::PrincipalMissing,
        Self::PayloadTimeout,
        Self::PayloadUnreadable,
        Self::PayloadTooLarge,
        Self::PayloadInvalid,
        Self::ReplayForbidden,
        Self::InProgress,
        Self::OutcomeUnknown,
        Self::KeyReused,
        Self::ResponseUnavailable,
        Self::Unavailable,
        Self::HandlerFailed,
        Self::Misconfigured,
    ];

    /// As it stands in a problem document.
    pub fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// The status it has unless the policy says another one.
    pub fn status(self) -> StatusCode {
        match self {
            Self::KeyMissing | Self::KeyInvalid | Self::PayloadUnreadable | Self::PayloadInvalid => {
                StatusCode::BAD_REQUEST
            }
            Self::ReplayForbidden => StatusCode::FORBIDDEN,
            Self::PrincipalMissing => StatusCode::UNAUTHORIZED,
            Self::PayloadTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InProgress | Self::OutcomeUnknown | Self::ResponseUnavailable => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::HandlerFailed | Self::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the same request may succeed later as it is.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::PayloadTimeout | Self::PayloadUnreadable | Self::InProgress | Self::Unavailable)
    }

    /// Code, title and detail. Fixed texts: nothing internal can get into them.
    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::KeyMissing => (
                "idempotency_key_missing",
                "The idempotency key is missing",
                "this operation needs an idempotency key: a value that the client makes up for each operation and \
                 sends again with each retry",
            ),
            Self::KeyInvalid => (
                "idempotency_key_invalid",
                "The idempotency key is not valid",
                "the key must be 1 to 255 visible ASCII characters, bare or as a quoted String",
            ),
            Self::PrincipalMissing => (
                "idempotency_principal_missing",
                "Nobody is known to own the request",
                "an idempotent request must be authenticated",
            ),
            Self::PayloadTimeout => (
                "idempotency_payload_timeout",
                "The payload did not arrive in time",
                "nothing was done; try again with the same key",
            ),
            Self::PayloadUnreadable => (
                "idempotency_payload_unreadable",
                "The payload cannot be read",
                "it broke off or is malformed; nothing was done",
            ),
            Self::PayloadTooLarge => (
                "idempotency_payload_too_large",
                "The payload is too large",
                "it is larger than this operation takes; nothing was done",
            ),
            Self::PayloadInvalid => (
                "idempotency_payload_invalid",
                "The payload is not valid",
                "it is not what its content type says; nothing was done",
            ),
            Self::ReplayForbidden => (
                "idempotency_replay_forbidden",
                "The response is not for you",
                "the request was completed, and you may not see its response any more",
            ),
            Self::InProgress => (
                "idempotency_in_progress",
                "The request is in progress",
                "the first request with this key is still being worked on; try again with the same key",
            ),
            Self::OutcomeUnknown => (
                "idempotency_outcome_unknown",
                "The outcome of the request is unknown",
                "the first request with this key died, and whether its work was done is not known; do not try again \
                 with a new key before you have looked",
            ),
            Self::KeyReused => (
                "idempotency_key_reused",
                "The idempotency key is used again",
                "this key was sent with another payload before; a new operation needs a new key",
            ),
            Self::ResponseUnavailable => (
                "idempotency_response_unavailable",
                "The response is no longer there",
                "the request was completed; its response was too large to be kept, or was streamed",
            ),
            Self::Unavailable => (
                "idempotency_unavailable",
                "Try again later",
                "nothing was done; try again with the same key",
            ),
            Self::HandlerFailed => (
                "idempotency_handler_failed",
                "The request failed",
                "something broke on our side, and whether the work was done is not known; do not try again with a \
                 new key before you have looked",
            ),
            Self::Misconfigured => (
                "idempotency_misconfigured",
                "The request cannot be tracked",
                "something is set up wrongly on our side; nothing was done",
            ),
        }
    }
}

/// An answer that is not the handler's: a problem document (RFC 9457).
///
/// ```
/// use idempotency_http::{Code, Problem};
/// use std::time::Duration;
///
/// let problem = Problem::new(Code::InProgress).retry_after(Duration::from_millis(1200));
/// let response = problem.to_response();
/// assert_eq!(response.status(), 409);
/// // Whole seconds, rounded up: never too early.
/// assert_eq!(response.headers()["retry-after"], "2");
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
///
/// Nothing internal is ever in it: no name or message of a store, and no id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// The `type`, which is the address of its documentation.
    documentation: Cow<'static, str>,
    challenge: Option<Box<HeaderValue>>,
    differences: Option<Vec<String>>,
}

impl Problem {
    /// With the status and the texts of its code.
    pub fn new(code: Code) -> Self {
        Self {
            code,
            status: code.status(),
            detail: code.texts().2.into(),
            retry_after: None,
            documentation: format!(
                "https://docs.rs/idempotency-http/latest/idempotency_http/enum.Code.html#variant.{code:?}"
            )
            .into(),
            challenge: None,
            differences: None,
        }
    }

    /// When it is worth asking again; sent in whole seconds, rounded up, at least one.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Where the payload differs from that of the first request; see
    /// [`Policy::tell_differences`](crate::Policy::tell_differences).
    pub fn differences(&self) -> Option<&[String]> {
        self.differences.as_deref()
    }

    pub(crate) fn differs(mut self, differences: Option<Vec<String>>) -> Self {
        self.differences = differences;
        self
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn detail(mut self, detail: Cow<'static, str>) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn challenge(mut self, challenge: Option<HeaderValue>) -> Self {
        self.challenge = challenge.map(Box::new);
        self
    }

    pub(crate) fn documentation(mut self, url: String) -> Self {
        self.documentation = url.into();
        self
    }

    /// What the request was refused for.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The status that it is answered with.
    pub fn status_code(&self) -> StatusCode {
        self.status
    }

    /// The address of its documentation, the `type` of the document.
    pub fn documentation_url(&self) -> &str {
        &self.documentation
    }

    /// The value of `Retry-After`, in seconds.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let seconds = |after: Duration| after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.retry_after.map(|after| seconds(after).max(1))
    }

    /// The document with its headers.
    pub fn to_response(&self) -> Response<Bytes> {
        let (code, title, _) = self.code.texts();
        let mut document = json!({
            "type": self.documentation,
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": code,
            "retryable": self.code.is_retryable(),
        });
        if let Some(differences) = &self.differences {
            document["differences"] = json!(differences);
        }
        let mut response = Response::new(Bytes::from(format!("{document}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // A problem is of this moment.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(link) = HeaderValue::try_from(format!("<{}>; rel=\"describedby\"", self.documentation)) {
            headers.insert(header::LINK, link);
        }
        if let Some(challenge) = &self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, (**challenge).clone());
        }
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_code_is_a_problem_document_of_its_own() {
        let mut codes = HashSet::new();
        for code in Code::ALL {
            let response = Problem::new(code).to_response();
            let document: Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(document["code"], code.as_str());
            assert_eq!(document["status"], response.status().as_u16());
            assert_eq!(document["retryable"], code.is_retryable());
            let url = document["type"].as_str().unwrap();
            assert_eq!(response.headers()["link"], format!("<{url}>; rel=\"describedby\""));
            assert!(code.as_str().starts_with("idempotency_"));
            assert!(codes.insert(code.as_str()), "{code:?}");
        }
    }

    #[test]
    fn retry_after_is_never_too_early() {
        let seconds = |millis| {
            Problem::new(Code::InProgress).retry_after(Duration::from_millis(millis)).retry_after_seconds()
        };
        assert_eq!([0, 1, 1000, 1001].map(seconds), [Some(1), Some(1), Some(1), Some(2)]);
        assert_eq!(Problem::new(Code::OutcomeUnknown).retry_after_seconds(), None);
    }
}
