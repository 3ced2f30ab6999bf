use std::fmt;

use time::OffsetDateTime;

use crate::StoredResponse;

/// What became of a request so far. The original's `data`.
///
/// ```
/// use idempotency_core::{HaltReason, State, StoredResponse};
///
/// let settled = [State::Completed(StoredResponse::new("ok")), State::Halted(HaltReason::Panicked)];
/// assert!(settled.iter().all(State::is_settled));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// Somebody works on it; the claim stands without a sign of life until the lease lapses.
    Processing {
        /// When the lease lapses.
        lease_until: OffsetDateTime,
    },
    /// The work was done; every retry gets this response.
    Completed(StoredResponse),
    /// Whether the work was done is not known.
    Halted(HaltReason),
}

impl State {
    /// Whether the claim has ended.
    pub fn is_settled(&self) -> bool {
        !matches!(self, Self::Processing { .. })
    }
}

/// Why nobody knows whether the work was done.
///
/// ```
/// use idempotency_core::HaltReason;
///
/// // The caller died: by policy the next one may take over.
/// assert!(HaltReason::Cancelled.is_orphan());
/// // It panicked half way: somebody should look.
/// assert!(!HaltReason::Panicked.is_orphan());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HaltReason {
    /// The permit was dropped without a result: the caller went away.
    Cancelled,
    /// The tracker shut down while the caller was still at work.
    Shutdown,
    /// The caller panicked.
    Panicked,
    /// The caller ran into its own time limit.
    TimedOut,
    /// The caller said that it does not know.
    Unknown,
    /// A resolver asked the outside world, which does not know either.
    Unresolved,
    /// The lease lapsed. Reported, never written: the owner may still complete until somebody takes over.
    OwnerLost,
}

impl HaltReason {
    /// Whether the record is an orphan: its caller is gone, rather than failed. Only an orphan is taken over by
    /// policy; other halts are settled by an operator.
    pub fn is_orphan(self) -> bool {
        matches!(self, Self::Cancelled | Self::Shutdown | Self::OwnerLost)
    }

    /// One word for logs and metrics labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Shutdown => "shutdown",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Unknown => "unknown",
            Self::Unresolved => "unresolved",
            Self::OwnerLost => "owner_lost",
        }
    }
}

impl fmt::Display for HaltReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
