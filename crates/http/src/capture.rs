use bytes::Bytes;
use idempotency_core::StoredResponse;

use crate::{Buffer, Full, Reservation, codec};

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
/// let (marker, prefix, _) = capture.overflow();
/// assert_eq!((marker.body(), &prefix[..]), (&Body::NotKept, &b"12345"[..]));
/// ```
#[derive(Debug)]
pub struct Capture {
    message: codec::Stored,
    body: Buffer,
}

impl Capture {
    pub(crate) fn new(message: codec::Stored, body: Buffer) -> Self {
        Self { message, body }
    }

    /// Takes a chunk of the body, or none of it.
    ///
    /// # Errors
    ///
    /// [`Full`]: the response cannot be kept; go on with [`overflow`](Self::overflow).
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Full> {
        self.body.push(chunk)
    }

    /// Takes the trailers.
    pub fn trailers<'a>(&mut self, trailers: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        self.message.trailers = codec::Field::all(trailers);
    }

    /// The response to store, and the body to send, which shares its bytes and holds its share of the budget.
    pub fn finish(self) -> (StoredResponse, (Bytes, Reservation)) {
        let (body, reservation) = self.body.finish();
        let (stored, body) = self.message.encode_with(body);
        (stored, (body, reservation))
    }

    /// The marker "completed, response not kept", and what was gathered, to be sent before the rest.
    pub fn overflow(self) -> (StoredResponse, Bytes, Reservation) {
        let marker = self.message.marker(self.body.bytes());
        let (prefix, reservation) = self.body.finish();
        (marker, prefix, reservation)
    }
}
