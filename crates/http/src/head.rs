use std::time::Duration;

use idempotency_core::{Fingerprint, IdempotencyKey, Meta, RequestId, Scope};

use crate::{Problem, content::Digests};

/// What a [`Policy`](crate::Policy) reads of a request before its payload, in no framework's types.
///
/// ```
/// use idempotency_http::RequestHead;
///
/// let head = RequestHead {
///     method: "POST",
///     path: "/payments",
///     query: Some("dry_run=false"),
///     content_length: Some(13),
///     keys: &[b"order-1"],
///     ..RequestHead::default()
/// };
/// assert_eq!(head.host, None);
/// ```
///
/// All as it came over the wire; nothing is decoded or normalized.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestHead<'a> {
    /// The method, in capital letters.
    pub method: &'a str,
    /// The authority, with its port.
    pub host: Option<&'a str>,
    /// The whole path, not what is left of it inside a nested router.
    pub path: &'a str,
    /// What comes after the question mark.
    pub query: Option<&'a str>,
    /// The value of `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// The value of `Content-Encoding`.
    pub content_encoding: Option<&'a [u8]>,
    /// How many bytes are announced.
    pub content_length: Option<u64>,
    /// The values of all headers that carry the idempotency key, one each.
    pub keys: &'a [&'a [u8]],
    /// The value of `traceparent`.
    pub traceparent: Option<&'a [u8]>,
    /// The values of all `Prefer` headers.
    pub prefer: &'a [&'a [u8]],
}

/// What becomes of a request, judged by its head.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Admission, Policy, RequestHead};
///
/// let policy: Policy<()> = Policy::new(Scope::global());
/// let head = RequestHead { method: "POST", path: "/", ..RequestHead::default() };
/// match policy.admit(&head, &()) {
///     Admission::Refused(problem) => assert_eq!(problem.code().as_str(), "idempotency_key_missing"),
///     admission => panic!("{admission:?}"),
/// }
/// ```
#[derive(Debug)]
pub enum Admission {
    /// It goes to the handler as it is.
    Untracked,
    /// It is tracked.
    Tracked(Admitted),
    /// It is answered with this.
    Refused(Problem),
}

/// What the head of a tracked request says.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Admission, Policy, RequestHead};
///
/// let policy: Policy<()> = Policy::new(Scope::global());
/// let head = RequestHead { method: "POST", path: "/", keys: &[b"order-1"], ..RequestHead::default() };
/// let Admission::Tracked(admitted) = policy.admit(&head, &()) else { panic!() };
/// assert_eq!(admitted.key.as_str(), "order-1");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Admitted {
    /// The idempotency key, unquoted.
    pub key: IdempotencyKey,
    /// For whom.
    pub scope: Scope,
    /// How long the client is ready to wait for somebody else's work (`Prefer: wait=n`, RFC 7240 §4.3). It shortens what the
    /// application grants, and grants nothing.
    pub wait: Option<Duration>,
}

/// What tells a tracked request from others, and what is kept with it.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Admission, Policy, RequestHead};
///
/// let policy: Policy<()> = Policy::new(Scope::global());
/// let head = RequestHead { method: "POST", path: "/", keys: &[b"order-1"], ..RequestHead::default() };
/// let Admission::Tracked(admitted) = policy.admit(&head, &()) else { panic!() };
/// let of = |body: &[u8]| policy.identify(&admitted, &head, &(), body, None).unwrap();
/// assert_eq!(of(b"10").id, of(b"11").id);
/// assert_ne!(of(b"10").fingerprint, of(b"11").fingerprint);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The request.
    pub id: RequestId,
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// A [`RequestMeta`](crate::RequestMeta), as it is kept.
    pub meta: Meta,
    pub(crate) digests: Digests,
}
