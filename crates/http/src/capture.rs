use bytes::Bytes;
use idempotency_core::StoredResponse;

use crate::{Buffer, Full, StoredHeaders, codec};

/// Gathers a response while it passes, to be stored before its first byte leaves.
///
/// ```
/// use idempotency_core::{Body, Scope};
/// use idempotency_http::{Full, Policy};
///
/// let policy: Policy<()> = Policy::new(Scope::global()).response_limit(8);
/// let mut capture = policy.capture(200, [("content-type", &b"text/plain"[..])]);
/// capture.push(b"12345").unwrap();
///
/// // Too large to keep: store the marker first, then let the bytes flow.
/// assert_eq!(capture.push(b"6789"), Err(Full::Limit));
/// let (marker, prefix) = capture.overflow();
/// assert_eq!((marker.body(), &prefix[..]), (&Body::NotKept, &b"12345"[..]));
/// ```
#[derive(Debug)]
pub struct Capture {
    message: codec::Stored,
    body: Buffer,
    stored_headers: StoredHeaders,
}

impl Capture {
    pub(crate) fn new(message: codec::Stored, body: Buffer, stored_headers: StoredHeaders) -> Self {
        Self { message, body, stored_headers }
    }

    /// Takes a chunk of the body, or none of it.
    ///
    /// # Errors
    ///
    /// [`Full`]: the response cannot be kept; go on with [`overflow`](Self::overflow).
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Full> {
        self.body.push(chunk)
    }

    /// Takes the trailers, of which only those that are to be stored.
    pub fn trailers<'a>(&mut self, trailers: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        let trailers: Vec<_> = trailers.into_iter().collect();
        self.message.trailers = codec::Field::all(self.stored_headers.select(&trailers));
    }

    /// The response to store, and the body to send, which is a part of its bytes.
    pub fn finish(self) -> (StoredResponse, Bytes) {
        let mut body_len = 0;
        let encoded = self.body.finish_as(|body| {
            body_len = body.len();
            self.message.encode_with(body)
        });
        let body = encoded.slice(encoded.len() - body_len..);
        (StoredResponse::new(encoded), body)
    }

    /// The marker "completed, response not kept", and what was gathered, to be sent before the rest.
    pub fn overflow(self) -> (StoredResponse, Bytes) {
        let prefix = self.body.finish();
        (self.message.marker(&prefix), prefix)
    }
}
