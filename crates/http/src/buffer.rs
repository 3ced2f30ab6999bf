use bytes::Bytes;

use crate::budget::Reservation;

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
/// assert_eq!(buffer.finish(), "12345");
/// ```
///
/// Bytes are copied: a slice of ten bytes may hold a buffer of a mebibyte that no budget accounts for. Room is taken as
/// they arrive, not as they are announced, so that a client must send half of what it occupies at least.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// How much room was taken from the budget.
    room: usize,
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
        Self { bytes: Vec::new(), room: 0, limit, reservation }
    }

    /// Takes a chunk, or none of it.
    ///
    /// # Errors
    ///
    /// [`Full`]. What was taken before is still there.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Full> {
        let len = self.bytes.len();
        if chunk.len() > self.limit - len {
            return Err(Full::Limit);
        }
        let needed = len + chunk.len();
        if needed > self.room {
            // Twice as much each time, so that many small chunks do not copy it all over and over.
            let ample = self.room.saturating_mul(2).clamp(needed, self.limit);
            let room = [ample, needed].into_iter().find(|room| self.reservation.grow(room - self.room));
            self.room = room.ok_or(Full::Budget)?;
            self.bytes.reserve_exact(self.room - len);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// All that was taken. Its share of the budget is given back with the last slice of it.
    pub fn finish(self) -> Bytes {
        self.reservation.hold(self.bytes)
    }

    /// The same, made into something else on the way.
    pub(crate) fn finish_as(self, into: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Bytes {
        let Self { bytes, mut reservation, .. } = self;
        let bytes = into(bytes);
        reservation.resize(bytes.len());
        reservation.hold(bytes)
    }
}
