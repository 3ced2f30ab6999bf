use std::time::Duration;

use idempotency_core::{Change, Claim, Owner, RequestId, StoreError, StoreReply};
use time::OffsetDateTime;

/// Names somebody who waits for an answer; made by the tracker, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub u64);

/// What the tracker tells the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody asks whether to work.
    Track {
        /// Hears [`Answer::Tracked`](crate::Answer::Tracked).
        caller: Caller,
        /// With an owner minted for it.
        track: Track,
    },
    /// The caller of a `Track` went away before its answer.
    Gone {
        /// The request it asked for.
        id: RequestId,
        /// Who went.
        caller: Caller,
    },
    /// A permit that never reached its caller: nothing was done.
    Undelivered {
        /// The request.
        id: RequestId,
        /// The owner in the permit.
        owner: Owner,
    },
    /// The holder of a permit says how it ended, or dropped it.
    Settle {
        /// The request.
        id: RequestId,
        /// The owner in the permit.
        owner: Owner,
        /// Complete, halt or release.
        change: Change,
        /// Hears [`Answer::Settled`](crate::Answer::Settled), if anybody waits.
        caller: Option<Caller>,
    },
    /// Somebody wants to see a record.
    Lookup {
        /// Hears [`Answer::Found`](crate::Answer::Found).
        caller: Caller,
        /// The request.
        id: RequestId,
    },
    /// An operator deletes a settled or orphaned record.
    Forget {
        /// Hears [`Answer::Forgotten`](crate::Answer::Forgotten).
        caller: Caller,
        /// The request.
        id: RequestId,
        /// The owner that he read.
        owner: Owner,
    },
    /// Somebody wants expired records pruned now.
    Prune {
        /// Hears [`Answer::Pruned`](crate::Answer::Pruned).
        caller: Caller,
    },
    /// The store answered, or failed to.
    Replied {
        /// The call that it answers.
        call: Call,
        /// What it said.
        reply: Result<StoreReply, StoreError>,
    },
    /// [`Engine::deadline`](crate::Engine::deadline) has come.
    Deadline {
        /// Random bits, for jitter.
        entropy: u64,
    },
    /// No new claims; what runs may settle until then.
    Shutdown {
        /// Hears [`Answer::Drained`](crate::Answer::Drained).
        caller: Caller,
        /// From then on what still runs is halted.
        until: OffsetDateTime,
    },
}

/// A `Track` with all its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Track {
    /// What to claim, by an owner of its own.
    pub claim: Claim,
    /// How long the claim is renewed.
    pub work_limit: Duration,
    /// What to do where an orphan is found.
    pub on_orphan: OnOrphan,
}

/// What a `Track` does where the earlier caller is gone and nobody knows whether its work was done.
///
/// ```
/// use idempotency_engine::OnOrphan;
///
/// assert_eq!(OnOrphan::default(), OnOrphan::Halt);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum OnOrphan {
    /// At most once: say that the outcome is unknown.
    #[default]
    Halt,
    /// At least once: take the claim over and work again.
    Rerun,
}

/// Which call a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// The one call that the lane of this id has in flight.
    Lane(RequestId),
    /// A read on behalf of this caller.
    Lookup(Caller),
    /// The one prune step in flight.
    Prune,
}
