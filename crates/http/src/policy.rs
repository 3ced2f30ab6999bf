mod document;
mod questions;
mod validate;

pub use self::validate::InvalidPolicy;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use idempotency_core::{Fingerprint, Scope};

use crate::{
    Budget, Code, Fate, KeyRule, Problem, RequestMeta, StoredHeaders, TraceParent, payload::Payload,
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
    settings: Settings,
    hooks: Hooks<R>,
}

/// What is plain data.
#[derive(Debug, Clone)]
struct Settings {
    methods: Vec<Method>,
    header: HeaderName,
    required: bool,
    key_rule: KeyRule,
    host: bool,
    request_limit: usize,
    read_limit: Duration,
    response_limit: usize,
    gather_limit: Duration,
    budget: Budget,
    stored_headers: StoredHeaders,
    expires_header: bool,
    statuses: Vec<(Code, StatusCode)>,
    documentation: Option<String>,
    challenge: Option<HeaderValue>,
    tells_differences: bool,
    fails_open: bool,
}

/// What the application decides.
struct Hooks<R> {
    scope: ScopeBy<R>,
    payload: Payload<R>,
    fate: FateOf,
    render: Option<Render>,
    trace: Option<TraceOf<R>>,
    note: Option<NoteOf<R>>,
    guard: Option<Guard<R>>,
}

type Find<R> = Arc<dyn Fn(&R) -> Option<Scope> + Send + Sync>;
type FateOf = Arc<dyn Fn(StatusCode) -> Fate + Send + Sync>;
type TraceOf<R> = Arc<dyn Fn(&R) -> Option<TraceParent> + Send + Sync>;
type NoteOf<R> = Arc<dyn Fn(&R, &[u8]) -> Vec<u8> + Send + Sync>;
type Guard<R> = Arc<dyn Fn(&R, &RequestMeta) -> bool + Send + Sync>;
type Render = Arc<dyn Fn(&Problem) -> Response<Bytes> + Send + Sync>;

enum ScopeBy<R> {
    Fixed(Scope),
    Found(Find<R>),
}

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
        let settings = Settings {
            methods: vec![Method::POST, Method::PATCH],
            header: HeaderName::from_static(Self::HEADER),
            required: true,
            key_rule: KeyRule::Any,
            host: false,
            request_limit: 1024 * 1024,
            read_limit: Duration::from_secs(10),
            response_limit: 1024 * 1024,
            gather_limit: Duration::from_secs(30),
            budget: Budget::new(64 * 1024 * 1024),
            stored_headers: StoredHeaders::default(),
            expires_header: false,
            statuses: Vec::new(),
            documentation: None,
            challenge: None,
            tells_differences: false,
            fails_open: false,
        };
        let hooks = Hooks {
            scope,
            payload: Payload::Raw,
            fate: Arc::new(Fate::of),
            render: None,
            trace: None,
            note: None,
            guard: None,
        };
        Self { settings, hooks }
    }

    /// Which methods are tracked: POST and PATCH unless said otherwise. All others never touch the store.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.settings.methods = methods.into_iter().collect();
        self
    }

    /// The header that carries the idempotency key, `Idempotency-Key` unless said otherwise.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.settings.header = name;
        self
    }

    /// Lets requests without a key pass untracked. They are refused (400) by default.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.settings.required = false;
        self
    }

    /// What a key must look like, beyond 1 to 255 visible ASCII characters.
    #[must_use]
    pub fn key_rule(mut self, rule: KeyRule) -> Self {
        self.settings.key_rule = rule;
        self
    }

    /// Tells requests to different hosts apart.
    #[must_use]
    pub fn by_host(mut self) -> Self {
        self.settings.host = true;
        self
    }

    /// Takes what a payload says for the payload, where its content type tells how to read it: JSON in any order of its
    /// members and with any white space, and the parts of a form whatever its boundary. All else is what its bytes are.
    ///
    /// Number tokens stay as they are (`1.0` is not `1`, and no two large integers are one), and a document in which a member
    /// comes twice, or that is nested deeper than 128, is refused (400), for two readers of it may not read the same. A body
    /// with a `Content-Encoding` is what its bytes are.
    #[must_use]
    pub fn by_content(self) -> Self {
        self.excluding([""; 0])
    }

    /// [`by_content`](Self::by_content) without the parts of JSON documents that these pointers name (RFC 6901), such as the
    /// time at which a client sends its request.
    #[must_use]
    pub fn excluding(mut self, pointers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hooks.payload = Payload::Content(pointers.into_iter().map(Into::into).collect());
        self
    }

    /// Tells, where a key is used for another payload, in which parts the two differ: `query`, `content-type`, `body`, and
    /// where it is read [by content](Self::by_content) JSON pointers. In the document as `differences`, for
    /// [`render`](Self::render) as [`Problem::differences`].
    ///
    /// Eight bytes of hashes are kept for each part of the first payload, up to 88: names of parts and what they say are not. A
    /// part that is only in the first one has no name any more. It needs a [`Secret`](idempotency_core::Secret), or whoever reads
    /// the store could guess each part by itself; and whoever may use a key may try what it stands for, part by part.
    #[must_use]
    pub fn tell_differences(mut self) -> Self {
        self.settings.tells_differences = true;
        self
    }

    /// Looks again, before a stored response leaves, whether whoever asks may see it; with what was kept of the first request.
    /// If not he is refused (403).
    #[must_use]
    pub fn guard(mut self, may_see: impl Fn(&R, &RequestMeta) -> bool + Send + Sync + 'static) -> Self {
        self.hooks.guard = Some(Arc::new(may_see));
        self
    }

    /// Lets requests run untracked while nothing is heard from the store, for work that may be done twice rather than not at
    /// all. A store that answers with an error is not away: then no work is started. Each is counted
    /// (`idempotency_untracked_total`) and logged; its [`IdempotentRequest`](crate::IdempotentRequest) is not held, and its child
    /// keys are those of every other attempt.
    #[must_use]
    pub fn fail_open(mut self) -> Self {
        self.settings.fails_open = true;
        self
    }

    /// Takes what the function makes of the request as its payload, in place of the raw body. Query and content type
    /// still count.
    #[must_use]
    pub fn payload(mut self, choose: impl Fn(&R, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.hooks.payload = Payload::Chosen(Arc::new(choose));
        self
    }

    /// Takes the function's fingerprint of the whole request. A scheme of 128 or more belongs to the application.
    #[must_use]
    pub fn fingerprint(mut self, hash: impl Fn(&R, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        self.hooks.payload = Payload::Custom(Arc::new(hash));
        self
    }

    /// How large a payload may be, in bytes: 1 MiB unless said otherwise, 413 past it.
    #[must_use]
    pub fn request_limit(mut self, bytes: usize) -> Self {
        self.settings.request_limit = bytes;
        self
    }

    /// How long a payload may take to arrive: 10 s unless said otherwise, 408 past it.
    #[must_use]
    pub fn read_limit(mut self, limit: Duration) -> Self {
        self.settings.read_limit = limit;
        self
    }

    /// How large a response body may be to be stored, in bytes: 1 MiB unless said otherwise. Past it the client gets
    /// the response, and a retry hears that it was not kept.
    #[must_use]
    pub fn response_limit(mut self, bytes: usize) -> Self {
        self.settings.response_limit = bytes;
        self
    }

    /// How long a response body may take to be gathered, once its handler has answered: 30 s unless said otherwise.
    /// Past it the client gets what is there and then the rest as it comes, and a retry hears that the response was not
    /// kept. So a body that stalls is its client's matter again.
    #[must_use]
    pub fn gather_limit(mut self, limit: Duration) -> Self {
        self.settings.gather_limit = limit;
        self
    }

    /// The bytes that may be buffered in all: 64 MiB a policy, unless policies share one budget.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// Which headers of a response are stored.
    #[must_use]
    pub fn stored_headers(mut self, headers: StoredHeaders) -> Self {
        self.settings.stored_headers = headers;
        self
    }

    /// What becomes of a key by the status of its response: [`Fate::of`] unless said otherwise. What the handler says
    /// ([`Disposition`](crate::Disposition)) comes first.
    #[must_use]
    pub fn fate_of(mut self, fate: impl Fn(StatusCode) -> Fate + Send + Sync + 'static) -> Self {
        self.hooks.fate = Arc::new(fate);
        self
    }

    /// Tells in `Idempotency-Expires` (RFC 9110 §5.6.7) until when the response is replayed. Off by default.
    #[must_use]
    pub fn expires_header(mut self) -> Self {
        self.settings.expires_header = true;
        self
    }

    /// Answers a problem with another status, of 400 to 599.
    #[must_use]
    pub fn status_of(mut self, code: Code, status: StatusCode) -> Self {
        self.settings.statuses.push((code, status));
        self
    }

    /// Where the problems are documented: an address to which `#` and the code are added.
    #[must_use]
    pub fn documentation(mut self, url: impl Into<String>) -> Self {
        self.settings.documentation = Some(url.into());
        self
    }

    /// Answers problems with a response of the application's own.
    #[must_use]
    pub fn render(mut self, render: impl Fn(&Problem) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        self.hooks.render = Some(Arc::new(render));
        self
    }

    /// The `WWW-Authenticate` of the answer to a request in which nobody is found, which a 401 must have
    /// (RFC 9110 §15.5.2). Where an authenticating middleware comes first it answers instead.
    #[must_use]
    pub fn challenge(mut self, challenge: HeaderValue) -> Self {
        self.settings.challenge = Some(challenge);
        self
    }

    /// Where a request stands in its trace, which is kept with it, so that a replay can be linked to the request that did
    /// the work ([`ReplayOf`](crate::ReplayOf)). By default it is what the header `traceparent` says; a program that
    /// traces by itself names its own span.
    #[must_use]
    pub fn trace(mut self, find: impl Fn(&R) -> Option<TraceParent> + Send + Sync + 'static) -> Self {
        self.hooks.trace = Some(Arc::new(find));
        self
    }

    /// What a resolver will need to know of a request: up to 256 bytes, made of it and of its body, kept with the record
    /// as they are. Keep secrets out of it.
    #[must_use]
    pub fn note(mut self, note: impl Fn(&R, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.hooks.note = Some(Arc::new(note));
        self
    }
}

impl<R> Clone for Policy<R> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), hooks: self.hooks.clone() }
    }
}

impl<R> Clone for Hooks<R> {
    fn clone(&self) -> Self {
        Self {
            scope: self.scope.clone(),
            payload: self.payload.clone(),
            fate: self.fate.clone(),
            render: self.render.clone(),
            trace: self.trace.clone(),
            note: self.note.clone(),
            guard: self.guard.clone(),
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
            .field("settings", &self.settings)
            .field("payload", &self.hooks.payload)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
