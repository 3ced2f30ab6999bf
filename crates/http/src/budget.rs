use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

/// How many bytes of requests and responses may be buffered at a time, by all that share it. Cheap to clone.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Budget, Policy};
///
/// // Two routes, one budget.
/// let budget = Budget::new(16 * 1024 * 1024);
/// let payments: Policy<()> = Policy::new(Scope::global()).budget(budget.clone());
/// let orders: Policy<()> = Policy::new(Scope::global()).budget(budget.clone());
/// assert_eq!(budget.used(), 0);
/// # let _ = (payments, orders);
/// ```
///
/// Requests may take three quarters of it. The rest is for responses: a request that finds no room is refused before
/// anything is done, while a response that finds none can no longer be replayed.
///
/// Bytes count from when they are gathered until the last slice of them is gone: a payload until its handler, or an
/// extractor that copies it, is done with it, a response until it is stored and sent. What a store reads for a replay is the store's. For the moment of
/// its encoding a response is there twice and counted once.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// At most so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Shared { limit: bytes, used: AtomicUsize::new(0) }))
    }

    /// How many bytes are allowed.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many bytes are buffered now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    pub(crate) fn for_request(&self) -> Reservation {
        Reservation { budget: self.clone(), up_to: self.limit() / 4 * 3, bytes: 0 }
    }

    pub(crate) fn for_response(&self) -> Reservation {
        Reservation { budget: self.clone(), up_to: self.limit(), bytes: 0 }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limit", &self.limit()).field("used", &self.used()).finish()
    }
}

/// A share of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    up_to: usize,
    bytes: usize,
}

impl Reservation {
    /// Takes more; `false`, and nothing taken, if there is no room.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let used = &self.budget.0.used;
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|used| *used <= self.up_to)
        });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }

    /// Accounts for what is there now, whether there is room for it or not.
    pub(crate) fn resize(&mut self, bytes: usize) {
        self.budget.0.used.fetch_add(bytes, Ordering::Relaxed);
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }

    /// The bytes, with this share of the budget for as long as a slice of them is anywhere.
    pub(crate) fn hold(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Held { bytes, _reservation: self })
    }
}

struct Held {
    bytes: Vec<u8>,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_leave_a_quarter_for_responses() {
        let budget = Budget::new(100);
        let mut request = budget.for_request();
        assert!(request.grow(75));
        assert!(!request.grow(1) && !budget.for_request().grow(1));
        let mut response = budget.for_response();
        assert!(response.grow(25));
        assert!(!response.grow(1));
        assert_eq!(budget.used(), 100);
        drop((request, response));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn bytes_count_until_their_last_slice_is_gone() {
        let budget = Budget::new(100);
        let mut reservation = budget.for_response();
        assert!(reservation.grow(10));
        let bytes = reservation.hold(vec![0; 10]);
        let slice = bytes.slice(3..4);
        drop(bytes);
        assert_eq!(budget.used(), 10);
        drop(slice);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_overflows_the_counter_is_refused() {
        let budget = Budget::new(usize::MAX);
        let (mut one, mut other) = (budget.for_response(), budget.for_response());
        assert!(one.grow(usize::MAX));
        assert!(!other.grow(1));
    }
}
