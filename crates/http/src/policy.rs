use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use idempotency_core::{Body, Fingerprint, HaltReason, RequestId, Scope, Secret, StoredResponse};
use time::OffsetDateTime;

use crate::{
    Admission, Admitted, Budget, Buffer, Capture, Code, Disposition, Fate, Full, KeyRule, Problem,
    RequestHead, StoredHeaders, codec,
    key::{self, NoKey},
    payload::Payload,
};

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
}

type Find<R> = Arc<dyn Fn(&R) -> Option<Scope> + Send + Sync>;
type FateOf = Arc<dyn Fn(StatusCode) -> Fate + Send + Sync>;
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
    /// ([`Disposition`]) comes first.
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

    /// Whether requests with this method are tracked.
    pub fn tracks(&self, method: &str) -> bool {
        self.methods.iter().any(|tracked| tracked == method)
    }

    /// The name of the header that carries the key, in small letters.
    pub fn header_name(&self) -> &str {
        self.header.as_str()
    }

    /// Judges a request by its head, before any of its payload is read: method, key, scope, announced length.
    pub fn admit(&self, head: &RequestHead<'_>, request: &R) -> Admission {
        if !self.tracks(head.method) {
            return Admission::Untracked;
        }
        let key = match key::parse(head.keys, self.key_rule) {
            Ok(key) => key,
            Err(NoKey::Missing) if !self.required => return Admission::Untracked,
            Err(NoKey::Missing) => return Admission::Refused(self.problem(Code::KeyMissing)),
            Err(NoKey::Invalid(reason)) => {
                return Admission::Refused(self.problem(Code::KeyInvalid).detail(reason));
            }
        };
        let scope = match &self.scope {
            ScopeBy::Fixed(scope) => Some(scope.clone()),
            ScopeBy::Found(find) => find(request),
        };
        let Some(scope) = scope else { return Admission::Refused(self.problem(Code::PrincipalMissing)) };
        if head.content_length.is_some_and(|length| length > self.request_limit as u64) {
            return Admission::Refused(self.problem(Code::PayloadTooLarge));
        }
        Admission::Tracked(Admitted { key, scope })
    }

    /// Gathers the payload of a request.
    pub fn buffer_request(&self) -> Buffer {
        Buffer::new(self.request_limit, self.budget.for_request())
    }

    /// How long a payload may take to arrive.
    pub fn payload_read_limit(&self) -> Duration {
        self.read_limit
    }

    /// How long a response may take to be gathered.
    pub fn response_gather_limit(&self) -> Duration {
        self.gather_limit
    }

    /// Names the request and hashes its payload, both keyed by the secret.
    ///
    /// Another key, scope, path, method (or host) is another request; another query, content type or body under the
    /// same key is a mismatch. A path counts as it was sent: `/pay` and `/%70ay` are two, whatever the router makes of
    /// them, so a retry must be spelled like the first try.
    pub fn identify(
        &self,
        admitted: &Admitted,
        head: &RequestHead<'_>,
        request: &R,
        body: &[u8],
        secret: Option<&Secret>,
    ) -> (RequestId, Fingerprint) {
        let host = if self.host { host(head.host.unwrap_or_default()) } else { String::new() };
        let parts = [head.method.as_bytes(), host.as_bytes(), head.path.as_bytes(), admitted.key.as_bytes()];
        let id = RequestId::derive(secret, &admitted.scope, parts);
        (id, self.payload.fingerprint(head, request, body, secret))
    }

    /// What becomes of the key of a request that its handler has answered.
    pub fn fate(&self, status: StatusCode, disposition: Option<Disposition>) -> Fate {
        match disposition {
            Some(Disposition::Keep | Disposition::Stream) => Fate::Kept,
            Some(Disposition::Release) => Fate::Released,
            Some(Disposition::Halt) => Fate::Halted(HaltReason::Unknown),
            None => (self.fate)(status),
        }
    }

    /// Whether a response must not be gathered before it leaves: an event stream, one that its handler marked, one
    /// that is announced to be too large, and one that hands the connection over (101).
    pub fn streams(
        &self,
        status: StatusCode,
        content_type: Option<&[u8]>,
        length: u64,
        disposition: Option<Disposition>,
    ) -> bool {
        let event_stream = b"text/event-stream";
        disposition == Some(Disposition::Stream)
            || status.is_informational()
            || length > self.response_limit as u64
            || disposition != Some(Disposition::Keep)
                && content_type
                    .and_then(|content_type| content_type.get(..event_stream.len()))
                    .is_some_and(|start| start.eq_ignore_ascii_case(event_stream))
    }

    /// Gathers a response, of which only the headers that are to be stored.
    pub fn capture<'a>(
        &self,
        status: u16,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Capture {
        let headers: Vec<_> = headers.into_iter().collect();
        let message = codec::Stored::new(status, codec::Field::all(self.stored_headers.select(&headers)));
        let body = Buffer::new(self.response_limit, self.budget.for_response());
        Capture::new(message, body, self.stored_headers.clone())
    }

    /// The stored response as it was, plus `Idempotency-Replayed: true`; or the problem that it was not kept or cannot
    /// be read.
    ///
    /// Trailers that were stored are in the extensions, as a [`HeaderMap`].
    pub fn replay(&self, stored: &StoredResponse, expires_at: Option<OffsetDateTime>) -> Response<Bytes> {
        if *stored.body() == Body::NotKept {
            return self.answer(self.problem(Code::ResponseUnavailable));
        }
        match codec::decode(stored) {
            Ok(mut response) => {
                let replayed = HeaderName::from_static("idempotency-replayed");
                response.headers_mut().insert(replayed, HeaderValue::from_static("true"));
                if let Some((name, value)) = self.expires(expires_at) {
                    response.headers_mut().insert(name, value);
                }
                if let Some(trailers) = response.extensions().get::<HeaderMap>() {
                    let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
                    if let Ok(names) = HeaderValue::try_from(names.join(", ")) {
                        response.headers_mut().insert(http::header::TRAILER, names);
                    }
                }
                response
            }
            Err(error) => {
                // Asked again later, another version of the program or a restored store may read it.
                tracing::error!(%error, "a stored response cannot be read");
                self.answer(self.problem(Code::Unavailable).retry_after(Duration::from_secs(60)))
            }
        }
    }

    /// The header that tells until when a response is replayed, if the policy wants it told.
    pub fn expires(&self, expires_at: Option<OffsetDateTime>) -> Option<(HeaderName, HeaderValue)> {
        let expires_at = expires_at.filter(|_| self.expires_header)?;
        // The years that an HTTP date can tell.
        let in_range = (1970..=9999).contains(&expires_at.year()).then_some(expires_at)?;
        let date = httpdate::fmt_http_date(SystemTime::from(in_range));
        Some((HeaderName::from_static("idempotency-expires"), HeaderValue::try_from(date).ok()?))
    }

    /// The problem of a payload that a [`Buffer`] takes no more of.
    pub fn full(&self, full: Full) -> Problem {
        match full {
            Full::Limit => self.problem(Code::PayloadTooLarge),
            Full::Budget => self.problem(Code::Unavailable).retry_after(Duration::from_secs(1)),
        }
    }

    /// A problem with the status and the documentation that the policy says.
    pub fn problem(&self, code: Code) -> Problem {
        let mut problem = Problem::new(code);
        if let Some((_, status)) = self.statuses.iter().rev().find(|(other, _)| *other == code) {
            problem = problem.status(*status);
        }
        if code == Code::PrincipalMissing {
            problem = problem.challenge(self.challenge.clone());
        }
        if let Some(url) = &self.documentation {
            problem = problem.documentation(format!("{url}#{}", code.as_str()));
        }
        problem
    }

    /// What a problem is answered with.
    pub fn answer(&self, problem: Problem) -> Response<Bytes> {
        match &self.render {
            Some(render) => render(&problem),
            None => problem.to_response(),
        }
    }
}

/// The host as it is compared (RFC 3986 §6.2.2.1, §6.2.3): in small letters, without user and default port.
fn host(authority: &str) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(host);
    host.to_ascii_lowercase()
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
