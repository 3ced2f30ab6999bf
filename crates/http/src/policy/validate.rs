use http::{HeaderValue, Method};
use idempotency_core::Secret;

use super::Policy;
use crate::{KeyRule, payload::Payload};

/// Why a [`Policy`] makes no sense.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::Policy;
///
/// let policy: Policy<()> = Policy::new(Scope::global()).request_limit(0);
/// assert_eq!(policy.validate().unwrap_err().to_string(), "a request limit of 0 bytes takes no payload at all");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPolicy(String);

impl<R> Policy<R> {
    /// [`validate`](Self::validate), with the secret of the tracker.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`], which says what makes no sense.
    pub fn validate_with(&self, secret: Option<&Secret>) -> Result<(), InvalidPolicy> {
        if self.settings.tells_differences && secret.is_none() {
            return Err(InvalidPolicy("telling differences needs a tracker with a secret".to_owned()));
        }
        self.validate()
    }

    /// Checks that all of it makes sense.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`], which says what does not.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let invalid = |reason: String| Err(InvalidPolicy(reason));
        if self.settings.methods.is_empty() {
            return invalid("no method is tracked".to_owned());
        }
        if let Some(safe) = self.settings.methods.iter().find(|method| method.is_safe()) {
            return invalid(format!("{safe} is a safe method, which is never tracked"));
        }
        if self.settings.methods.contains(&Method::CONNECT) {
            return invalid("CONNECT opens a tunnel and cannot be tracked".to_owned());
        }
        if self.settings.request_limit == 0 {
            return invalid("a request limit of 0 bytes takes no payload at all".to_owned());
        }
        if self.settings.gather_limit.is_zero() {
            return invalid("a gather limit of nothing keeps no response at all".to_owned());
        }
        if self.settings.read_limit.is_zero() {
            return invalid("a read limit of nothing takes no payload at all".to_owned());
        }
        let (limit, room) = (
            self.settings.request_limit.max(self.settings.response_limit),
            self.settings.budget.limit() / 4 * 3,
        );
        if limit > room {
            return invalid(format!(
                "one body may have {limit} bytes, and the budget has room for {room} bytes of requests"
            ));
        }
        if let KeyRule::MinLen(len) = self.settings.key_rule
            && len > idempotency_core::IdempotencyKey::MAX_LEN
        {
            return invalid(format!("no key has {len} characters"));
        }
        if let Payload::Content(excluded) = &self.hooks.payload
            && let Some(pointer) = excluded.iter().find(|pointer| !pointer.starts_with('/'))
        {
            return invalid(format!("{pointer:?} names no part of a document"));
        }
        for (code, status) in &self.settings.statuses {
            if !(status.is_client_error() || status.is_server_error()) {
                return invalid(format!("{status} is no status for {}", code.as_str()));
            }
        }
        if let Some(url) = &self.settings.documentation
            && (url.contains(['<', '>', '"']) || HeaderValue::from_str(url).is_err())
        {
            return invalid(format!("{url:?} cannot be the address of a documentation"));
        }
        Ok(())
    }
}
