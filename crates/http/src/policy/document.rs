//! What a policy tells those who are to follow it.

use std::time::Duration;

use http::{HeaderValue, Response, header};
use serde_json::json;

use super::Policy;
use crate::{Code, payload::Payload};

impl<R> Policy<R> {
    /// A document that an application may serve for its clients, since the draft wants the use of keys and their expiry
    /// published (§2.3, §2.6): what keys look like, how long responses are kept, what makes a request another one, and all
    /// problems. `retention` is what requests are tracked with.
    ///
    /// ```
    /// use idempotency_core::{DEFAULT_RETENTION, Scope};
    /// use idempotency_http::Policy;
    ///
    /// let policy: Policy<()> = Policy::new(Scope::global());
    /// let document = policy.document(DEFAULT_RETENTION);
    /// assert_eq!(document.headers()["content-type"], "application/json");
    /// assert!(document.body().contains(r#""retention_seconds": 86400"#));
    /// ```
    pub fn document(&self, retention: Duration) -> Response<String> {
        let settings = &self.settings;
        let mut request = vec!["principal", "method", "path", "key"];
        if settings.host {
            request.insert(2, "host");
        }
        let (covers, excluded) = match &self.hooks.payload {
            Payload::Raw => (vec!["query", "content-type", "body as its bytes are"], &[][..]),
            Payload::Content(excluded) => (
                vec!["query", "content-type", "what JSON and forms say, other bodies as their bytes are"],
                &**excluded,
            ),
            Payload::Chosen(_) => {
                (vec!["query", "content-type", "what this operation takes from the request"], &[][..])
            }
            Payload::Custom(_) => (vec!["what this operation takes from the request"], &[][..]),
        };
        let problems: Vec<_> = Code::ALL
            .into_iter()
            .map(|code| {
                let problem = self.problem(code);
                json!({
                    "code": code.as_str(),
                    "status": problem.status_code().as_u16(),
                    "retryable": code.is_retryable(),
                    "documentation": problem.documentation_url(),
                })
            })
            .collect();
        let document = json!({
            "header": settings.header.as_str(),
            "required": settings.required,
            "methods": settings.methods.iter().map(http::Method::as_str).collect::<Vec<_>>(),
            "key": format!("1 to 255 visible ASCII characters, bare or as a quoted String; {}", settings.key_rule.what()),
            "retention_seconds": retention.as_secs(),
            "request": request,
            "fingerprint": { "covers": covers, "excludes": excluded },
            "largest_request_bytes": settings.request_limit,
            "largest_kept_response_bytes": settings.response_limit,
            "problems": problems,
        });
        let mut response = Response::new(format!("{document:#}\n"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// The headers that a script of another origin must be allowed to send: `Access-Control-Allow-Headers`.
    pub fn cors_request_headers(&self) -> [&str; 2] {
        [self.header_name(), "prefer"]
    }

    /// The headers that a script of another origin must be allowed to read: `Access-Control-Expose-Headers`.
    pub fn cors_response_headers(&self) -> [&'static str; 4] {
        ["idempotency-replayed", "idempotency-expires", "retry-after", "link"]
    }
}

#[cfg(test)]
mod tests {
    use idempotency_core::Scope;
    use serde_json::Value;

    use super::*;
    use crate::KeyRule;

    #[test]
    fn the_document_says_what_the_policy_does() {
        let policy: Policy<()> = Policy::new(Scope::global())
            .key_rule(KeyRule::Ulid)
            .by_host()
            .excluding(["/sent_at"])
            .documentation("https://example.com/retries")
            .status_of(Code::OutcomeUnknown, http::StatusCode::INTERNAL_SERVER_ERROR);
        let document = policy.document(Duration::from_secs(7));
        let document: Value = serde_json::from_str(document.body()).unwrap();
        assert_eq!(document["retention_seconds"], 7);
        assert_eq!(document["request"], json!(["principal", "method", "host", "path", "key"]));
        assert_eq!(document["fingerprint"]["excludes"], json!(["/sent_at"]));
        assert_eq!(document["methods"], json!(["POST", "PATCH"]));
        assert!(document["key"].as_str().unwrap().ends_with("a ULID"));
        let problems = document["problems"].as_array().unwrap();
        assert_eq!(problems.len(), Code::ALL.len());
        let unknown =
            problems.iter().find(|problem| problem["code"] == "idempotency_outcome_unknown").unwrap();
        assert_eq!(unknown["status"], 500);
        assert_eq!(unknown["documentation"], "https://example.com/retries#idempotency_outcome_unknown");
        assert_eq!(policy.cors_request_headers(), ["idempotency-key", "prefer"]);
    }
}
