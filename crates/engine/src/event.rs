use std::{sync::Arc, time::Duration};

use idempotency_core::{Change, Claim, Cursor, Owner, RequestId, StoreError, StoreReply, Tenant, Update};
use time::OffsetDateTime;

use crate::Moment;

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
        /// By the owner in the permit: complete, halt or release.
        update: Arc<Update>,
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
    /// Somebody wants to see a page of records.
    Scan {
        /// Hears [`Answer::Page`](crate::Answer::Page).
        caller: Caller,
        /// Where the last page ended.
        cursor: Option<Cursor>,
        /// How many records at most.
        limit: usize,
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
    /// The call that is under way for this id was sent more than once: a copy of it may have been carried out before the
    /// one that is answered, or arrive after it.
    Resent {
        /// The request.
        id: RequestId,
    },
    /// A store that pushes says that the record has an end, perhaps.
    Hinted {
        /// The request.
        id: RequestId,
    },
    /// The backend is down: who asks meanwhile hears it at once.
    Down {
        /// When it is tried again.
        until: OffsetDateTime,
        /// It answers, and refuses: its records moved, or it is not what it must be.
        refuses: bool,
    },
    /// The backend is back.
    Up,
    /// A claim of the engine before this one, which its permit still stands for.
    Adopt(Box<Adopted>),
    /// A claim of the engine before this one, which may have been made, and nobody works under.
    Unwanted {
        /// The claim.
        claim: Arc<Claim>,
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
    pub claim: Arc<Claim>,
    /// How long the claim is renewed.
    pub work_limit: Duration,
    /// What to do where an orphan is found.
    pub on_orphan: OnOrphan,
    /// What to do where somebody is at work.
    pub on_concurrent: OnConcurrent,
    /// Whose limits it counts against.
    pub tenant: Option<Tenant>,
    /// An operator takes over what no policy does.
    pub by_operator: bool,
}

impl Track {
    /// What makes this claim, and nothing else out of the ordinary: renewed for a quarter of an hour, and neither an orphan nor
    /// whoever works is waited for.
    pub fn new(claim: impl Into<Arc<Claim>>) -> Self {
        Self {
            claim: claim.into(),
            work_limit: Duration::from_secs(15 * 60),
            on_orphan: OnOrphan::Halt,
            on_concurrent: OnConcurrent::Conflict,
            tenant: None,
            by_operator: false,
        }
    }
}

/// What is known of a claim whose permit outlived the engine that knew it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The claim.
    pub claim: Arc<Claim>,
    /// Since when it is held.
    pub since: Moment,
    /// Until when its lease holds as far as is known.
    pub held_until: Moment,
    /// Until when it is renewed.
    pub work_until: Moment,
    /// Whose limits it counts against.
    pub tenant: Option<Tenant>,
    /// How its holder ended it, if he did.
    pub ending: Option<Change>,
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
    /// Take the claim over, and ask somebody who may know.
    Resolve,
}

/// What a `Track` does where somebody else is at work.
///
/// ```
/// use idempotency_engine::OnConcurrent;
///
/// assert_eq!(OnConcurrent::default(), OnConcurrent::Conflict);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum OnConcurrent {
    /// Says so at once.
    #[default]
    Conflict,
    /// Waits for what the other one makes of it.
    Wait {
        /// And says so after this time.
        at_most: Duration,
    },
}

/// Which call a reply belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// The one call that the lane of this id has in flight.
    Lane(RequestId),
    /// A read on behalf of this caller.
    Lookup(Caller),
    /// A page on behalf of this caller.
    Scan(Caller),
    /// The one prune step in flight.
    Prune,
}
