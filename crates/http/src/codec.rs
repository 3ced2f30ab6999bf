//! The stored bytes of a response. A change of the messages must let versions n-1 and n+1 read each other's; one that
//! cannot takes a new [`FORMAT`].

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use idempotency_core::{Digest, StoredResponse};
use prost::Message;

const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stored {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    status: u32,
    #[prost(message, repeated, tag = "3")]
    headers: Vec<Field>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) trailers: Vec<Field>,
    /// The last one, so that it is the tail of the encoded bytes.
    #[prost(bytes = "bytes", tag = "15")]
    body: Bytes,
}

/// One header line: a name that comes twice is two of them.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl Field {
    pub(crate) fn all<'a>(fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<Self> {
        let field = |(name, value): (&str, &[u8])| Self {
            name: name.to_ascii_lowercase(),
            value: Bytes::copy_from_slice(value),
        };
        fields.into_iter().map(field).collect()
    }
}

impl Stored {
    pub(crate) fn new(status: u16, headers: Vec<Field>) -> Self {
        Self { format: FORMAT, status: status.into(), headers, trailers: Vec::new(), body: Bytes::new() }
    }

    /// The bytes to store. The body is their tail.
    pub(crate) fn encode_with(mut self, body: Vec<u8>) -> Vec<u8> {
        self.body = body.into();
        self.encode_to_vec()
    }

    /// That this response was not kept; `seen` is what is known of its body.
    pub(crate) fn marker(&self, seen: &[u8]) -> StoredResponse {
        let mut seen_all = self.encode_to_vec();
        seen_all.extend_from_slice(seen);
        StoredResponse::not_kept(Digest::of(&seen_all))
    }
}

/// Why stored bytes are not a response. Says nothing of what is in them.
///
/// ```
/// use idempotency_core::StoredResponse;
/// use idempotency_http::decode;
///
/// let error = decode(&StoredResponse::new("not ours")).unwrap_err();
/// assert_eq!(error.to_string(), "the stored response is malformed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedResponse {
    /// Its bytes were not kept.
    #[error("the stored response was not kept")]
    NotKept,
    /// Its bytes are not those that its digest was made of.
    #[error("the stored response does not match its digest")]
    Digest,
    /// They are no such message.
    #[error("the stored response is malformed")]
    Message,
    /// A later version wrote it.
    #[error("the stored response has the format {0}, and only {FORMAT} is known")]
    Format(u32),
    /// A status outside 200 to 999.
    #[error("the stored response has the impossible status {0}")]
    Status(u32),
    /// A header that HTTP does not allow, such as one with a line break in it.
    #[error("the stored response has an impossible header")]
    Header,
}

/// Reads a stored response back. Total: whatever the bytes are, it is an answer or an error.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Policy, decode};
///
/// let policy: Policy<()> = Policy::new(Scope::global());
/// let mut capture = policy.capture(201, [("location", &b"/payments/7"[..])]);
/// capture.push(b"created").unwrap();
/// let (stored, _) = capture.finish();
///
/// let response = decode(&stored).unwrap();
/// assert_eq!((response.status().as_u16(), &response.body()[..]), (201, &b"created"[..]));
/// ```
///
/// Trailers are in the extensions, as a [`HeaderMap`], if there were any.
///
/// # Errors
///
/// [`MalformedResponse`].
pub fn decode(stored: &StoredResponse) -> Result<Response<Bytes>, MalformedResponse> {
    let bytes = stored.bytes().ok_or(MalformedResponse::NotKept)?;
    let message = Stored::decode(bytes.clone()).map_err(|_| MalformedResponse::Message)?;
    if message.format != FORMAT {
        return Err(match message.format {
            0 => MalformedResponse::Message,
            format => MalformedResponse::Format(format),
        });
    }
    // A store that keeps its bytes in pieces, or a hand that edited them, must not be served as the response.
    if Digest::of(bytes) != stored.digest() {
        return Err(MalformedResponse::Digest);
    }
    let status = u16::try_from(message.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status
        .filter(|status| !status.is_informational())
        .ok_or(MalformedResponse::Status(message.status))?;
    let mut response = Response::new(message.body);
    *response.status_mut() = status;
    *response.headers_mut() = header_map(message.headers)?;
    let trailers = header_map(message.trailers)?;
    if !trailers.is_empty() {
        response.extensions_mut().insert::<HeaderMap>(trailers);
    }
    Ok(response)
}

fn header_map(fields: Vec<Field>) -> Result<HeaderMap, MalformedResponse> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MalformedResponse::Header)?;
        let value = HeaderValue::from_maybe_shared(field.value).map_err(|_| MalformedResponse::Header)?;
        // Past 32,768 names a header map takes no more.
        headers.try_append(name, value).map_err(|_| MalformedResponse::Header)?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(message: Stored) -> StoredResponse {
        StoredResponse::new(message.encode_to_vec())
    }

    fn sample() -> Stored {
        let headers = [("Link", &b"<a>"[..]), ("x-binary", b"\xe4\xf6"), ("link", b"<b>"), ("x-empty", b"")];
        Stored::new(201, Field::all(headers))
    }

    #[test]
    fn a_response_comes_back_with_repeated_headers_in_order_and_its_bytes() {
        let body = Bytes::from_static(b"\0\xff binary");
        let bytes = sample().encode_with(body.to_vec());
        assert!(bytes.ends_with(&body));
        let stored = StoredResponse::new(bytes);
        let response = decode(&stored).unwrap();
        assert_eq!((response.status(), response.body()), (StatusCode::CREATED, &body));
        assert!(response.extensions().is_empty());
        let links: Vec<_> = response.headers().get_all("link").iter().collect();
        assert_eq!(links, ["<a>", "<b>"]);
        assert_eq!(response.headers()["x-binary"].as_bytes(), b"\xe4\xf6");
        assert_eq!(response.headers()["x-empty"], "");
    }

    #[test]
    fn the_format_is_pinned() {
        let stored = Stored::new(200, Field::all([("a", &b"b"[..])])).encode_with(b"c".to_vec());
        // format 1, status 200, one header, body as field 15.
        let bytes = b"\x08\x01\x10\xc8\x01\x1a\x06\x0a\x01a\x12\x01b\x7a\x01c";
        assert_eq!(stored, bytes);
    }

    #[test]
    fn a_field_of_a_later_version_is_skipped_and_a_later_format_refused() {
        let mut bytes = sample().encode_to_vec();
        bytes.extend_from_slice(b"\x82\x01\x03new"); // field 16
        assert!(decode(&StoredResponse::new(bytes)).is_ok());
        let later = Stored { format: 2, ..sample() };
        assert_eq!(decode(&stored(later)).unwrap_err(), MalformedResponse::Format(2));
        assert_eq!(decode(&StoredResponse::new("")).unwrap_err(), MalformedResponse::Message);
    }

    #[test]
    fn an_impossible_status_or_header_is_an_error() {
        for status in [0, 99, 101, 1000, 70_000] {
            let message = Stored { status, ..sample() };
            assert_eq!(decode(&stored(message)).unwrap_err(), MalformedResponse::Status(status));
        }
        for (name, value) in [("a b", "x"), ("", "x"), ("x", "a\r\nset-cookie: b"), ("x", "\0"), ("x\n", "y")]
        {
            let message = Stored::new(200, Field::all([(name, value.as_bytes())]));
            assert_eq!(
                decode(&stored(message)).unwrap_err(),
                MalformedResponse::Header,
                "{name:?}: {value:?}"
            );
        }
    }

    #[test]
    fn bytes_that_do_not_match_their_digest_are_an_error() {
        let kept = StoredResponse::new(sample().encode_with(b"body".to_vec()));
        let mut bytes = kept.bytes().unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let changed = StoredResponse::from_parts(kept.digest(), idempotency_core::Body::Kept(bytes.into()));
        assert_eq!(decode(&changed).unwrap_err(), MalformedResponse::Digest);
    }

    #[test]
    fn markers_of_different_responses_differ() {
        let other = Stored::new(202, Vec::new());
        assert_ne!(sample().marker(b"").digest(), other.marker(b"").digest());
        assert_ne!(sample().marker(b"a").digest(), sample().marker(b"b").digest());
        assert_eq!(decode(&sample().marker(b"")).unwrap_err(), MalformedResponse::NotKept);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            let _ = decode(&StoredResponse::new(bytes));
        }

        #[test]
        fn a_changed_byte_is_an_answer_or_an_error(at: prop::sample::Index, byte: u8) {
            let mut bytes = sample().encode_with(b"a body".to_vec());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&StoredResponse::new(bytes));
        }
    }
}
