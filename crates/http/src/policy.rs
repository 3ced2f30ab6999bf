mod questions;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use idempotency_core::{Fingerprint, Scope};

use crate::{Budget, Code, Fate, KeyRule, Problem, StoredHeaders, TraceParent, payload::Payload};

/// How a route treats its requests: plain data with safe defaults.
///
/// The default, for an application that has no principals:
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::Policy;
///
/// let policy: Policy<()> = Policy::new(Scope::global());
/// ```
///
/// Customised, for one that has. `R` is the request of the framework, which the functions of an application read:
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{KeyRule, Policy};
/// use std::time::Duration;
///
/// struct Principal(String);
///
/// // An authenticating middleware put the principal where the function finds it.
/// let policy: Policy<http::request::Parts> =
///     Policy::scoped_by(|request: &http::request::Parts| {
///         let principal = request.extensions.get::<Principal>()?;
///         Some(Scope::principal([&principal.0]))
///     })
///     .key_rule(KeyRule::Uuid)
///     .request_limit(64 * 1024)
///     .read_limit(Duration::from_secs(5));
/// policy.validate().unwrap();
/// ```
///
/// Cheap enough to clone; clones share the [`Budget`].
pub struct Policy<R> {
    scope: ScopeBy<R>,
    methods: Vec<Method>,
    header: HeaderName,
    required: bool,
    key_rule: KeyRule,
    host: bool,
    payload: Payload<R>,
    request_limit: usize,
    read_limit: Duration,
    response_limit: usize,
    gather_limit: Duration,
    budget: Budget,
    stored_headers: StoredHeaders,
    fate: FateOf,
    expires_header: bool,
    statuses: Vec<(Code, StatusCode)>,
    documentation: Option<String>,
    render: Option<Render>,
    challenge: Option<HeaderValue>,
    trace: Option<TraceOf<R>>,
    note: Option<NoteOf<R>>,
}

type Find<R> = Arc<dyn Fn(&R) -> Option<Scope> + Send + Sync>;
type FateOf = Arc<dyn Fn(StatusCode) -> Fate + Send + Sync>;
type TraceOf<R> = Arc<dyn Fn(&R) -> Option<TraceParent> + Send + Sync>;
type NoteOf<R> = Arc<dyn Fn(&R, &[u8]) -> Vec<u8> + Send + Sync>;
type Render = Arc<dyn Fn(&Problem) -> Response<Bytes> + Send + Sync>;

enum ScopeBy<R> {
    Fixed(Scope),
    Found(Find<R>),
}

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
    /// The header of the draft.
    pub const HEADER: &'static str = "idempotency-key";

    /// All requests in one scope: [`Scope::global`], or that of the one principal whom the route serves.
    pub fn new(scope: Scope) -> Self {
        Self::scoped(ScopeBy::Fixed(scope))
    }

    /// Requests in the scope of their *verified* principal, whom the function finds in the request.
    ///
    /// A request in which it finds nobody is refused (401): it is never given anybody else's record, nor a global
    /// one. Name the principal, not the credential: a refreshed token must not be a second charge.
    pub fn scoped_by(find: impl Fn(&R) -> Option<Scope> + Send + Sync + 'static) -> Self {
        Self::scoped(ScopeBy::Found(Arc::new(find)))
    }

    fn scoped(scope: ScopeBy<R>) -> Self {
        Self {
            scope,
            methods: vec![Method::POST, Method::PATCH],
            header: HeaderName::from_static(Self::HEADER),
            required: true,
            key_rule: KeyRule::Any,
            host: false,
            payload: Payload::Raw,
            request_limit: 1024 * 1024,
            read_limit: Duration::from_secs(10),
            response_limit: 1024 * 1024,
            gather_limit: Duration::from_secs(30),
            budget: Budget::new(64 * 1024 * 1024),
            stored_headers: StoredHeaders::default(),
            fate: Arc::new(Fate::of),
            expires_header: false,
            statuses: Vec::new(),
            documentation: None,
            render: None,
            challenge: None,
            trace: None,
            note: None,
        }
    }

    /// Which methods are tracked: POST and PATCH unless said otherwise. All others never touch the store.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// The header that carries the idempotency key, `Idempotency-Key` unless said otherwise.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// Lets requests without a key pass untracked. They are refused (400) by default.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// What a key must look like, beyond 1 to 255 visible ASCII characters.
    #[must_use]
    pub fn key_rule(mut self, rule: KeyRule) -> Self {
        self.key_rule = rule;
        self
    }

    /// Tells requests to different hosts apart.
    #[must_use]
    pub fn by_host(mut self) -> Self {
        self.host = true;
        self
    }

    /// Takes what the function makes of the request as its payload, in place of the raw body. Query and content type
    /// still count.
    #[must_use]
    pub fn payload(mut self, choose: impl Fn(&R, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.payload = Payload::Chosen(Arc::new(choose));
        self
    }

    /// Takes the function's fingerprint of the whole request. A scheme of 128 or more belongs to the application.
    #[must_use]
    pub fn fingerprint(mut self, hash: impl Fn(&R, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        self.payload = Payload::Custom(Arc::new(hash));
        self
    }

    /// How large a payload may be, in bytes: 1 MiB unless said otherwise, 413 past it.
    #[must_use]
    pub fn request_limit(mut self, bytes: usize) -> Self {
        self.request_limit = bytes;
        self
    }

    /// How long a payload may take to arrive: 10 s unless said otherwise, 408 past it.
    #[must_use]
    pub fn read_limit(mut self, limit: Duration) -> Self {
        self.read_limit = limit;
        self
    }

    /// How large a response body may be to be stored, in bytes: 1 MiB unless said otherwise. Past it the client gets
    /// the response, and a retry hears that it was not kept.
    #[must_use]
    pub fn response_limit(mut self, bytes: usize) -> Self {
        self.response_limit = bytes;
        self
    }

    /// How long a response body may take to be gathered, once its handler has answered: 30 s unless said otherwise.
    /// Past it the client gets what is there and then the rest as it comes, and a retry hears that the response was not
    /// kept. So a body that stalls is its client's matter again.
    #[must_use]
    pub fn gather_limit(mut self, limit: Duration) -> Self {
        self.gather_limit = limit;
        self
    }

    /// The bytes that may be buffered in all: 64 MiB a policy, unless policies share one budget.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Which headers of a response are stored.
    #[must_use]
    pub fn stored_headers(mut self, headers: StoredHeaders) -> Self {
        self.stored_headers = headers;
        self
    }

    /// What becomes of a key by the status of its response: [`Fate::of`] unless said otherwise. What the handler says
    /// ([`Disposition`](crate::Disposition)) comes first.
    #[must_use]
    pub fn fate_of(mut self, fate: impl Fn(StatusCode) -> Fate + Send + Sync + 'static) -> Self {
        self.fate = Arc::new(fate);
        self
    }

    /// Tells in `Idempotency-Expires` (RFC 9110 §5.6.7) until when the response is replayed. Off by default.
    #[must_use]
    pub fn expires_header(mut self) -> Self {
        self.expires_header = true;
        self
    }

    /// Answers a problem with another status, of 400 to 599.
    #[must_use]
    pub fn status_of(mut self, code: Code, status: StatusCode) -> Self {
        self.statuses.push((code, status));
        self
    }

    /// Where the problems are documented: an address to which `#` and the code are added.
    #[must_use]
    pub fn documentation(mut self, url: impl Into<String>) -> Self {
        self.documentation = Some(url.into());
        self
    }

    /// Answers problems with a response of the application's own.
    #[must_use]
    pub fn render(mut self, render: impl Fn(&Problem) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        self.render = Some(Arc::new(render));
        self
    }

    /// The `WWW-Authenticate` of the answer to a request in which nobody is found, which a 401 must have
    /// (RFC 9110 §15.5.2). Where an authenticating middleware comes first it answers instead.
    #[must_use]
    pub fn challenge(mut self, challenge: HeaderValue) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// Where a request stands in its trace, which is kept with it, so that a replay can be linked to the request that did
    /// the work ([`ReplayOf`](crate::ReplayOf)). By default it is what the header `traceparent` says; a program that
    /// traces by itself names its own span.
    #[must_use]
    pub fn trace(mut self, find: impl Fn(&R) -> Option<TraceParent> + Send + Sync + 'static) -> Self {
        self.trace = Some(Arc::new(find));
        self
    }

    /// What a resolver will need to know of a request: up to 256 bytes, made of it and of its body, kept with the record
    /// as they are. Keep secrets out of it.
    #[must_use]
    pub fn note(mut self, note: impl Fn(&R, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.note = Some(Arc::new(note));
        self
    }

    /// Checks that all of it makes sense; adapters call it once, at start.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`], which says what does not.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let invalid = |reason: String| Err(InvalidPolicy(reason));
        if self.methods.is_empty() {
            return invalid("no method is tracked".to_owned());
        }
        if let Some(safe) = self.methods.iter().find(|method| method.is_safe()) {
            return invalid(format!("{safe} is a safe method, which is never tracked"));
        }
        if self.methods.contains(&Method::CONNECT) {
            return invalid("CONNECT opens a tunnel and cannot be tracked".to_owned());
        }
        if self.request_limit == 0 {
            return invalid("a request limit of 0 bytes takes no payload at all".to_owned());
        }
        if self.gather_limit.is_zero() {
            return invalid("a gather limit of nothing keeps no response at all".to_owned());
        }
        if self.read_limit.is_zero() {
            return invalid("a read limit of nothing takes no payload at all".to_owned());
        }
        let (limit, room) = (self.request_limit.max(self.response_limit), self.budget.limit() / 4 * 3);
        if limit > room {
            return invalid(format!(
                "one body may have {limit} bytes, and the budget has room for {room} bytes of requests"
            ));
        }
        if let KeyRule::MinLen(len) = self.key_rule
            && len > idempotency_core::IdempotencyKey::MAX_LEN
        {
            return invalid(format!("no key has {len} characters"));
        }
        for (code, status) in &self.statuses {
            if !(status.is_client_error() || status.is_server_error()) {
                return invalid(format!("{status} is no status for {}", code.as_str()));
            }
        }
        if let Some(url) = &self.documentation
            && (url.contains(['<', '>', '"']) || HeaderValue::from_str(url).is_err())
        {
            return invalid(format!("{url:?} cannot be the address of a documentation"));
        }
        Ok(())
    }
}

impl<R> Clone for Policy<R> {
    fn clone(&self) -> Self {
        Self {
            scope: self.scope.clone(),
            methods: self.methods.clone(),
            header: self.header.clone(),
            required: self.required,
            key_rule: self.key_rule,
            host: self.host,
            payload: self.payload.clone(),
            request_limit: self.request_limit,
            read_limit: self.read_limit,
            response_limit: self.response_limit,
            gather_limit: self.gather_limit,
            budget: self.budget.clone(),
            stored_headers: self.stored_headers.clone(),
            fate: self.fate.clone(),
            expires_header: self.expires_header,
            statuses: self.statuses.clone(),
            documentation: self.documentation.clone(),
            render: self.render.clone(),
            challenge: self.challenge.clone(),
            trace: self.trace.clone(),
            note: self.note.clone(),
        }
    }
}

impl<R> Clone for ScopeBy<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Fixed(scope) => Self::Fixed(scope.clone()),
            Self::Found(find) => Self::Found(find.clone()),
        }
    }
}

impl<R> fmt::Debug for Policy<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("methods", &self.methods)
            .field("header", &self.header)
            .field("required", &self.required)
            .field("key_rule", &self.key_rule)
            .field("host", &self.host)
            .field("payload", &self.payload)
            .field("request_limit", &self.request_limit)
            .field("read_limit", &self.read_limit)
            .field("response_limit", &self.response_limit)
            .field("gather_limit", &self.gather_limit)
            .field("budget", &self.budget)
            .field("stored_headers", &self.stored_headers)
            .field("expires_header", &self.expires_header)
            .field("statuses", &self.statuses)
            .field("documentation", &self.documentation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
