use bytes::{Bytes, BytesMut};

use crate::Reservation;

/// Gathers a body within a limit of its own and the shared [`Budget`](crate::Budget).
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Full, Policy};
///
/// let policy: Policy<()> = Policy::new(Scope::global()).request_limit(8);
/// let mut buffer = policy.buffer_request();
/// assert_eq!(buffer.push(b"12345"), Ok(()));
/// assert_eq!(buffer.push(b"6789"), Err(Full::Limit));
/// assert_eq!(buffer.bytes(), b"12345");
/// ```
///
/// Bytes are copied: a slice of ten bytes may hold a buffer of a mebibyte that no budget accounts for. They are
/// accounted for as they arrive, not as they are announced, so that a client must send what it occupies.
#[derive(Debug)]
pub struct Buffer {
    bytes: BytesMut,
    limit: usize,
    reservation: Reservation,
}

/// Why a [`Buffer`] takes no more.
///
/// ```
/// use idempotency_http::Full;
///
/// fn status(full: Full) -> u16 {
///     match full {
///         Full::Limit => 413,
///         Full::Budget => 503,
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The body is larger than one may be.
    Limit,
    /// All bodies together are.
    Budget,
}

impl Buffer {
    pub(crate) fn new(limit: usize, reservation: Reservation) -> Self {
        Self { bytes: BytesMut::new(), limit, reservation }
    }

    /// Takes a chunk, or none of it.
    ///
    /// # Errors
    ///
    /// [`Full`]. What was taken before is still there.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Full> {
        if chunk.len() > self.limit - self.bytes.len() {
            return Err(Full::Limit);
        }
        if !self.reservation.grow(chunk.len()) {
            return Err(Full::Budget);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// What was taken so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All that was taken, and its share of the budget.
    pub fn finish(self) -> (Bytes, Reservation) {
        (self.bytes.freeze(), self.reservation)
    }
}
