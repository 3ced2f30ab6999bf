use actix_web::{HttpResponse, http::StatusCode};
use idempotency::actix_web::Disposition;
use serde_json::json;

/// An answer that is not a payment: RFC 9457. What the tracker refuses it answers by itself.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    disposition: Disposition,
}

impl Problem {
    /// Nothing was done, so the key is not used up.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "payment_invalid",
            title: "The payment makes no sense",
            detail: detail.into(),
            disposition: Disposition::Release,
        }
    }

    /// A refusal is a result like any other: the retry hears it again.
    pub(crate) fn declined() -> Self {
        Self {
            status: StatusCode::PAYMENT_REQUIRED,
            code: "declined",
            title: "The card was declined",
            detail: "nothing was charged".to_owned(),
            disposition: Disposition::Keep,
        }
    }

    pub(crate) fn provider_down() -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            code: "provider_down",
            title: "The payment provider is down",
            detail: "nothing was charged".to_owned(),
            disposition: Disposition::Keep,
        }
    }

    /// Nobody knows, so nobody is to charge again.
    pub(crate) fn unknown() -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "internal",
            title: "Internal error",
            detail: "something broke on our side; whether it was charged is not known".to_owned(),
            disposition: Disposition::Halt,
        }
    }

    pub(crate) fn into_response(self) -> HttpResponse {
        let document = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        let mut response = HttpResponse::build(self.status)
            .content_type("application/problem+json")
            .body(format!("{document}\n"));
        response.extensions_mut().insert(self.disposition);
        response
    }
}
