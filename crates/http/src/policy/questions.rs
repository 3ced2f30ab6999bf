//! What an adapter asks a policy, in the order of a request.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use idempotency_core::{Body, HaltReason, Meta, RequestId, Secret, StoredResponse};
use time::OffsetDateTime;

use super::{Policy, ScopeBy};
use crate::{
    Admission, Admitted, Buffer, Capture, Code, Disposition, Fate, Full, Identity, Problem, ReplayOf,
    RequestHead, RequestMeta, TraceParent, codec,
    content::NotReadable,
    key::{self, NoKey},
    prefer,
};

impl<R> Policy<R> {
    /// Whether requests with this method are tracked.
    pub fn tracks(&self, method: &str) -> bool {
        self.settings.methods.iter().any(|tracked| tracked == method)
    }

    /// The name of the header that carries the key, in small letters.
    pub fn header_name(&self) -> &str {
        self.settings.header.as_str()
    }

    /// Judges a request by its head, before any of its payload is read: method, key, scope, announced length.
    pub fn admit(&self, head: &RequestHead<'_>, request: &R) -> Admission {
        if !self.tracks(head.method) {
            return Admission::Untracked;
        }
        let key = match key::parse(head.keys, self.settings.key_rule) {
            Ok(key) => key,
            Err(NoKey::Missing) if !self.settings.required => return Admission::Untracked,
            Err(NoKey::Missing) => return Admission::Refused(self.problem(Code::KeyMissing)),
            Err(NoKey::Invalid(reason)) => {
                return Admission::Refused(self.problem(Code::KeyInvalid).detail(reason));
            }
        };
        let scope = match &self.hooks.scope {
            ScopeBy::Fixed(scope) => Some(scope.clone()),
            ScopeBy::Found(find) => find(request),
        };
        let Some(scope) = scope else { return Admission::Refused(self.problem(Code::PrincipalMissing)) };
        if head.content_length.is_some_and(|length| length > self.settings.request_limit as u64) {
            return Admission::Refused(self.problem(Code::PayloadTooLarge));
        }
        Admission::Tracked(Admitted { key, scope, wait: prefer::wait(head.prefer) })
    }

    /// Gathers the payload of a request.
    pub fn buffer_request(&self) -> Buffer {
        Buffer::new(self.settings.request_limit, self.settings.budget.for_request())
    }

    /// How long a payload may take to arrive.
    pub fn payload_read_limit(&self) -> Duration {
        self.settings.read_limit
    }

    /// How long a response may take to be gathered.
    pub fn response_gather_limit(&self) -> Duration {
        self.settings.gather_limit
    }

    /// Names the request and hashes its payload, both keyed by the secret.
    ///
    /// Another key, scope, path, method (or host) is another request; another query, content type or body under the
    /// same key is a mismatch. A path counts as it was sent: `/pay` and `/%70ay` are two, whatever the router makes of
    /// them, so a retry must be spelled like the first try.
    ///
    /// # Errors
    ///
    /// The problem of a payload that cannot be read as its content type says, where its content counts.
    pub fn identify(
        &self,
        admitted: &Admitted,
        head: &RequestHead<'_>,
        request: &R,
        body: &[u8],
        secret: Option<&Secret>,
    ) -> Result<Identity, Problem> {
        let host = if self.settings.host { host(head.host.unwrap_or_default()) } else { String::new() };
        let parts = [head.method.as_bytes(), host.as_bytes(), head.path.as_bytes(), admitted.key.as_bytes()];
        let id = RequestId::derive(secret, &admitted.scope, parts);
        let with_digests = self.settings.tells_differences;
        let read = self.hooks.payload.fingerprint(id, head, request, body, secret, with_digests);
        let (fingerprint, digests) =
            read.map_err(|NotReadable(reason)| self.problem(Code::PayloadInvalid).detail(reason))?;
        let meta = RequestMeta {
            trace: match &self.hooks.trace {
                Some(find) => find(request),
                None => head.traceparent.and_then(TraceParent::parse),
            },
            note: self.hooks.note.as_ref().map_or_else(Bytes::new, |note| note(request, body).into()),
            digests: digests.kept(),
        };
        Ok(Identity { id, fingerprint, meta: meta.write(), digests })
    }

    /// The problem of a request whose payload is another one than that of the first request, of which `meta` was kept.
    pub fn mismatch(&self, identity: &Identity, meta: &Meta) -> Problem {
        let kept = RequestMeta::read(meta).filter(|_| self.settings.tells_differences);
        let differences = kept.and_then(|kept| identity.digests.differ_from(&kept.digests));
        self.problem(Code::KeyReused).differs(differences)
    }

    /// [`replay`](Self::replay), if whoever asks now may see it.
    pub fn replay_to(
        &self,
        request: &R,
        stored: &StoredResponse,
        expires_at: Option<OffsetDateTime>,
        meta: &Meta,
    ) -> Response<Bytes> {
        match &self.hooks.guard {
            Some(may_see) if !may_see(request, &RequestMeta::read(meta).unwrap_or_default()) => {
                self.answer(self.problem(Code::ReplayForbidden))
            }
            _ => self.replay(stored, expires_at, meta),
        }
    }

    /// Whether a request runs untracked while the store is away.
    pub fn fails_open(&self) -> bool {
        self.settings.fails_open
    }

    /// What becomes of the key of a request that its handler has answered.
    pub fn fate(&self, status: StatusCode, disposition: Option<Disposition>) -> Fate {
        match disposition {
            Some(Disposition::Keep | Disposition::Stream) => Fate::Kept,
            Some(Disposition::Release) => Fate::Released,
            Some(Disposition::Halt) => Fate::Halted(HaltReason::Unknown),
            None => (self.hooks.fate)(status),
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
            || length > self.settings.response_limit as u64
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
        let message =
            codec::Stored::new(status, codec::Field::all(self.settings.stored_headers.select(&headers)));
        let body = Buffer::new(self.settings.response_limit, self.settings.budget.for_response());
        Capture::new(message, body, self.settings.stored_headers.clone())
    }

    /// The stored response as it was, plus `Idempotency-Replayed: true`; or the problem that it was not kept or cannot
    /// be read.
    ///
    /// In the extensions are trailers that were stored, as a [`HeaderMap`], and the trace of the request that did the work,
    /// as [`ReplayOf`].
    pub fn replay(
        &self,
        stored: &StoredResponse,
        expires_at: Option<OffsetDateTime>,
        meta: &Meta,
    ) -> Response<Bytes> {
        let mut response = self.replayed(stored, expires_at);
        if let Some(trace) = RequestMeta::read(meta).and_then(|meta| meta.trace) {
            response.extensions_mut().insert(ReplayOf(trace));
        }
        response
    }

    fn replayed(&self, stored: &StoredResponse, expires_at: Option<OffsetDateTime>) -> Response<Bytes> {
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
        let expires_at = expires_at.filter(|_| self.settings.expires_header)?;
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
        if let Some((_, status)) = self.settings.statuses.iter().rev().find(|(other, _)| *other == code) {
            problem = problem.status(*status);
        }
        if code == Code::PrincipalMissing {
            problem = problem.challenge(self.settings.challenge.clone());
        }
        if let Some(url) = &self.settings.documentation {
            problem = problem.documentation(format!("{url}#{}", code.as_str()));
        }
        problem
    }

    /// What a problem is answered with.
    pub fn answer(&self, problem: Problem) -> Response<Bytes> {
        match &self.hooks.render {
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
