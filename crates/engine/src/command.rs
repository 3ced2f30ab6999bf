use std::{sync::Arc, time::Duration};

use idempotency_core::{
    Claim, HaltReason, Meta, Owner, Page, Record, RequestId, StoreCommand, StoreError, StoredResponse,
};
use time::OffsetDateTime;

use crate::{Call, Caller, Moment};

/// What the engine tells the tracker to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send this to the store and report back with [`Event::Replied`](crate::Event::Replied).
    Call {
        /// Goes with the reply.
        call: Call,
        /// What to send.
        command: StoreCommand,
    },
    /// Tell somebody.
    Answer(Caller, Answer),
    /// Forget this caller of a `Track`: it went away, and nothing more is done for it.
    Dismiss(Caller),
    /// A renewal succeeded: the permit of `owner` holds until then.
    Held {
        /// The owner in the permit.
        owner: Owner,
        /// A margin before the lease ends.
        until: Moment,
    },
    /// The lease could not be kept, or somebody else has the record.
    Lost {
        /// The request.
        id: RequestId,
        /// The owner in the permit.
        owner: Owner,
    },
    /// The engine no longer knows this claim: it was settled, lost or released.
    Ended {
        /// The owner in the permit.
        owner: Owner,
    },
    /// What the holder of this claim said is stored, or never will be: it need not be kept any more.
    Settled {
        /// The owner in the permit.
        owner: Owner,
    },
    /// There is no room for the body of the response that the holder of this claim gave: only the fact is kept.
    BodyLetGo {
        /// The owner in the permit.
        owner: Owner,
    },
    /// Somebody who may know is to say what became of an orphan, under this permit. Its caller waits.
    Resolve {
        /// Who hears later what it led to.
        caller: Caller,
        /// The claim, taken over from the orphan.
        permit: Granted,
    },
    /// Something that an operator wants to know of.
    Happened(RequestId, Happened),
}

/// A claim that was made, and is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Its owner is not that of the `Track` where it was inherited.
    pub claim: Arc<Claim>,
    /// A margin before the lease ends.
    pub held_until: Moment,
    /// Until when it is renewed.
    pub work_until: Moment,
}

/// What happened to a request out of the ordinary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Happened {
    /// A caller found that an earlier one is gone, and nobody knows what it did.
    Orphaned(HaltReason),
    /// A result was not stored: somebody else has the record.
    Superseded,
    /// A result was not stored: the record expired.
    Gone,
    /// The store did not take a result so far. It is kept here, and tried again.
    Deferred,
    /// Of a response that the store did not take only the fact is kept: there is no room for more, here or there.
    NotKept,
    /// The tracker ends, and a result is not stored.
    Unstored,
    /// A claim whose reply was lost was found to be made.
    Resumed,
}

/// An answer to a [`Caller`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Event::Track`](crate::Event::Track).
    Tracked(Result<Tracked, Refused>),
    /// To [`Event::Settle`](crate::Event::Settle).
    Settled(Settled),
    /// To [`Event::Lookup`](crate::Event::Lookup).
    Found(Result<Option<Record>, Refused>),
    /// To [`Event::Scan`](crate::Event::Scan).
    Page(Result<Page, Refused>),
    /// To [`Event::Forget`](crate::Event::Forget).
    Forgotten(Result<Forgotten, Refused>),
    /// To [`Event::Prune`](crate::Event::Prune): how many records were deleted.
    Pruned(Result<usize, Refused>),
    /// To [`Event::Shutdown`](crate::Event::Shutdown): how many claims could not be settled.
    Drained(usize),
}

/// What a `Track` hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracked {
    /// Work, as the owner of this claim. If it was taken over, an earlier caller may have done the work already
    /// ([`OnOrphan::Rerun`](crate::OnOrphan::Rerun)).
    Init(Granted),
    /// Somebody works on it.
    Processing {
        /// Since when, if that is known.
        since: Option<OffsetDateTime>,
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// The work was done.
    Cached {
        /// What to answer.
        response: StoredResponse,
        /// Until when it is kept.
        expires_at: OffsetDateTime,
        /// What its claim kept with it.
        meta: Meta,
    },
    /// Whether the work was done is not known.
    Halted {
        /// Why.
        reason: HaltReason,
        /// Until when that is kept.
        expires_at: OffsetDateTime,
    },
    /// The same id stands for another payload.
    Mismatch {
        /// Until when.
        expires_at: OffsetDateTime,
        /// What its claim kept with it.
        meta: Meta,
    },
}

/// How a settle ended.
///
/// ```
/// use idempotency_engine::Settled;
///
/// // The work was done in each of these cases; whether retries will hear of it differs.
/// fn is_or_will_be_stored(settled: Settled) -> bool {
///     matches!(settled, Settled::Stored | Settled::Deferred)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Settled {
    /// It is in the store.
    Stored,
    /// The store does not answer; it will be stored as soon as it does.
    Deferred,
    /// Somebody else has the record by now. Nothing was written.
    Superseded,
    /// The record expired meanwhile. Nothing was written.
    Gone,
}

/// How a `Forget` ended.
///
/// ```
/// use idempotency_engine::Forgotten;
///
/// fn is_gone(forgotten: Forgotten) -> bool {
///     matches!(forgotten, Forgotten::Forgotten | Forgotten::NotFound)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Forgotten {
    /// The record is deleted.
    Forgotten,
    /// The record is running, or belongs to another owner than the one that was read.
    Refused,
    /// There is no record.
    NotFound,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There are too many live claims, or the store is full.
    Overloaded,
    /// The tracker is shutting down.
    ShuttingDown,
    /// The store does not answer.
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
        /// What it said last, if it said anything.
        source: Option<StoreError>,
    },
}
