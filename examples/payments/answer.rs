use std::time::Duration;

use actix_web::{HttpResponse, http::StatusCode, http::header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::ledger::Charge;

/// What a payment was answered; what is stored and replayed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

impl Answer {
    pub(crate) fn created(charge: &Charge) -> Self {
        let location = Some(format!("/payments/{}", charge.id));
        let charge = serde_json::to_string(charge).expect("strings and a number can be written as JSON");
        Self { status: 201, location, body: format!("{charge}\n") }
    }

    pub(crate) fn error(status: u16, code: &str, detail: &str) -> Self {
        Self { status, location: None, body: format!("{}\n", json!({ "code": code, "detail": detail })) }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and a number can be written as JSON")
    }

    pub(crate) fn from_bytes(bytes: impl AsRef<[u8]>) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes.as_ref())
    }

    pub(crate) fn into_response(self, replayed: bool) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        response.content_type("application/json");
        if let Some(location) = self.location {
            response.insert_header((header::LOCATION, location));
        }
        if replayed {
            response.insert_header(("idempotency-replayed", "true"));
        }
        response.body(self.body)
    }
}

/// An answer that is not a payment's: RFC 9457. Nothing internal is ever shown.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    retryable: bool,
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, title, detail: detail.into(), retryable: false, retry_after: None }
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(after);
        self
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "payment_invalid", "The payment makes no sense", detail)
    }

    pub(crate) fn key_missing() -> Self {
        let detail = "send a header Idempotency-Key with a value of your own for each payment";
        Self::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", "Idempotency-Key is missing", detail)
    }

    pub(crate) fn key_invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "idempotency_key_invalid", "Idempotency-Key is not valid", detail)
    }

    pub(crate) fn key_reused() -> Self {
        let detail = "this key was sent with another payload before";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "Idempotency-Key is used again",
            detail,
        )
    }

    pub(crate) fn in_progress(retry_after: Duration) -> Self {
        let detail = "the first request with this key is still being worked on";
        Self::new(StatusCode::CONFLICT, "idempotency_in_progress", "The payment is in progress", detail)
            .retry_after(retry_after)
    }

    pub(crate) fn outcome_unknown() -> Self {
        let detail = "the first request with this key died; whether it was charged is not known. \
                      Do not try again with a new key: look into GET /payments";
        Self::new(StatusCode::CONFLICT, "idempotency_outcome_unknown", "The outcome is unknown", detail)
    }

    pub(crate) fn response_unavailable() -> Self {
        let detail = "the payment was completed; its answer was too large to keep";
        Self::new(StatusCode::CONFLICT, "idempotency_response_unavailable", "The answer is gone", detail)
    }

    pub(crate) fn unavailable(retry_after: Option<Duration>) -> Self {
        let detail = "this request was not started; try again with the same key";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "idempotency_unavailable", "Try again later", detail)
            .retry_after(retry_after.unwrap_or(Duration::from_secs(1)))
    }

    pub(crate) fn internal() -> Self {
        let detail = "something broke on our side; whether it was charged is not known";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    pub(crate) fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.content_type("application/problem+json");
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: never too early.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        let body = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
        });
        response.body(format!("{body}\n"))
    }
}
