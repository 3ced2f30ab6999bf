use std::fmt;

use actix::Message;
use idempotency_core::{Capabilities, HaltReason, Owner, Record, RequestId, Store, StoredResponse};
use idempotency_engine::{Forgotten, Settled};

use crate::{Error, Permit, SwapPolicy, SwapReport};

/// The message that says, after the work, what every retry is to hear. The same as [`Permit::complete`].
///
/// ```
/// use idempotency_tracker::{Error, Permit, PutResponse, Settled, TrackerHandle};
///
/// async fn put(tracker: &TrackerHandle, permit: Permit) -> Result<Settled, Error> {
///     tracker.send(PutResponse::new(permit, "201 Created")).await
/// }
/// ```
#[derive(Debug, Message)]
#[rtype(result = "Result<Settled, Error>")]
#[non_exhaustive]
pub struct PutResponse {
    /// From [`Tracked::Init`](crate::Tracked::Init).
    pub permit: Permit,
    /// What every retry gets.
    pub response: StoredResponse,
}

impl PutResponse {
    /// Both fields.
    pub fn new(permit: Permit, response: impl Into<StoredResponse>) -> Self {
        Self { permit, response: response.into() }
    }
}

/// The message that says that nobody knows whether the work was done. The same as [`Permit::halt`].
///
/// ```
/// use idempotency_core::HaltReason;
/// use idempotency_tracker::{Error, Halt, Permit, Settled, TrackerHandle};
///
/// async fn halt(tracker: &TrackerHandle, permit: Permit) -> Result<Settled, Error> {
///     tracker.send(Halt::new(permit, HaltReason::TimedOut)).await
/// }
/// ```
#[derive(Debug, Message)]
#[rtype(result = "Result<Settled, Error>")]
#[non_exhaustive]
pub struct Halt {
    /// From [`Tracked::Init`](crate::Tracked::Init).
    pub permit: Permit,
    /// Why nobody knows.
    pub reason: HaltReason,
}

impl Halt {
    /// Both fields.
    pub fn new(permit: Permit, reason: HaltReason) -> Self {
        Self { permit, reason }
    }
}

/// The message that says that nothing was done. The same as [`Permit::release`].
///
/// ```
/// use idempotency_tracker::{Error, Permit, Release, Settled, TrackerHandle};
///
/// async fn release(tracker: &TrackerHandle, permit: Permit) -> Result<Settled, Error> {
///     tracker.send(Release::new(permit)).await
/// }
/// ```
#[derive(Debug, Message)]
#[rtype(result = "Result<Settled, Error>")]
#[non_exhaustive]
pub struct Release {
    /// From [`Tracked::Init`](crate::Tracked::Init).
    pub permit: Permit,
}

impl Release {
    /// Of this permit.
    pub fn new(permit: Permit) -> Self {
        Self { permit }
    }
}

/// The message that asks for a record, as an operator does. It claims nothing.
///
/// ```
/// use idempotency_core::{Record, RequestId};
/// use idempotency_tracker::{Error, Lookup, TrackerHandle};
///
/// async fn look(tracker: &TrackerHandle, id: RequestId) -> Result<Option<Record>, Error> {
///     tracker.send(Lookup { id }).await
/// }
/// ```
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<Record>, Error>")]
pub struct Lookup {
    /// The request.
    pub id: RequestId,
}

/// The message by which an operator deletes a settled or orphaned record; never a running one.
///
/// ```
/// use idempotency_core::RequestId;
/// use idempotency_tracker::{Error, Forget, Forgotten, Lookup, TrackerHandle};
///
/// async fn forget(tracker: &TrackerHandle, id: RequestId) -> Result<Forgotten, Error> {
///     match tracker.send(Lookup { id }).await? {
///         Some(record) => tracker.send(Forget::new(id, record.owner, "the customer was asked")).await,
///         None => Ok(Forgotten::NotFound),
///     }
/// }
/// ```
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Forgotten, Error>")]
#[non_exhaustive]
pub struct Forget {
    /// The request.
    pub id: RequestId,
    /// The owner that was read: if somebody else has the record by now, it stays.
    pub owner: Owner,
    /// Why, for the log.
    pub reason: String,
}

impl Forget {
    /// All fields.
    pub fn new(id: RequestId, owner: Owner, reason: impl Into<String>) -> Self {
        Self { id, owner, reason: reason.into() }
    }
}

/// The message that prunes all expired records now, in steps, and tells how many there were.
///
/// ```
/// use idempotency_tracker::{Error, Prune, TrackerHandle};
///
/// async fn prune(tracker: &TrackerHandle) -> Result<usize, Error> {
///     tracker.send(Prune).await
/// }
/// ```
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<usize, Error>")]
pub struct Prune;

/// The message that asks how the tracker is.
///
/// ```
/// use idempotency_tracker::{Error, Status, StatusReport, TrackerHandle};
///
/// async fn status(tracker: &TrackerHandle) -> Result<StatusReport, Error> {
///     tracker.send(Status).await
/// }
/// ```
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<StatusReport, Error>")]
pub struct Status;

/// The message that moves the tracker to another store while requests run. The same as
/// [`TrackerHandle::swap`](crate::TrackerHandle::swap).
///
/// ```
/// use idempotency_core::Store;
/// use idempotency_tracker::{Error, Swap, SwapPolicy, SwapReport, TrackerHandle};
///
/// async fn swap(tracker: &TrackerHandle, store: impl Store) -> Result<SwapReport, Error> {
///     tracker.send(Swap::new(store, SwapPolicy::copy("the new store"))).await
/// }
/// ```
#[derive(Message)]
#[rtype(result = "Result<SwapReport, Error>")]
#[non_exhaustive]
pub struct Swap {
    /// The store to go on with.
    pub store: Box<dyn Store>,
    /// What becomes of the records.
    pub policy: SwapPolicy,
}

impl Swap {
    /// Both fields.
    pub fn new(store: impl Store, policy: SwapPolicy) -> Self {
        Self { store: Box::new(store), policy }
    }
}

impl fmt::Debug for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swap").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// How the tracker is.
///
/// ```
/// # use idempotency_tracker::StatusReport;
/// fn healthy(status: &StatusReport) -> bool {
///     status.backend_up && !status.draining
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatusReport {
    /// Claims whose permit lives in this process.
    pub live: usize,
    /// What counts against `max_in_flight`: live claims, those on their way and those being cleaned up.
    pub in_flight: usize,
    /// What counts against `max_queued`: callers of [`track`](crate::TrackerHandle::track) without an answer.
    pub queued: usize,
    /// Ids that something is going on for.
    pub lanes: usize,
    /// Callers that wait for what somebody else makes of it ([`OnConcurrent::Wait`](crate::OnConcurrent::Wait)).
    pub waiting: usize,
    /// Bytes of results that the store did not take so far.
    pub deferred_bytes: usize,
    /// Whether the backend actor takes calls. While it is restarted for the first time they wait for it.
    pub backend_up: bool,
    /// Whether the circuit breaker is open: the backend failed again and again, it is tried now and then, and meanwhile whoever
    /// asks for a claim hears `Unavailable` at once.
    pub breaker_open: bool,
    /// How often the backend actor was restarted.
    pub restarts: u64,
    /// Why it was the last time.
    pub last_failure: Option<&'static str>,
    /// How often the tracker actor itself was replaced. More than nothing is a bug of this crate.
    pub replaced: u64,
    /// Whether a shutdown has begun.
    pub draining: bool,
    /// What the store is able to do.
    pub capabilities: Capabilities,
    /// If the backend is being swapped: how many records were copied so far.
    pub swapping: Option<usize>,
}

/// What a shutdown left behind.
///
/// ```
/// # use idempotency_tracker::ShutdownReport;
/// fn clean(report: &ShutdownReport) -> bool {
///     report.unsettled == 0
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Claims that could not even be settled or halted, since the store did not answer. Their leases lapse. Those among them
    /// whose work was done are in the log, by [`Happened::Unstored`](crate::Happened::Unstored).
    pub unsettled: usize,
}
