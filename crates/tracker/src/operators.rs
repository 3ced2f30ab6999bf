//! What operators do by hand: look, settle what nobody else can, and forget.

use std::time::Duration;

use idempotency_core::{Cursor, Owner, Record, RequestId, State};
use time::OffsetDateTime;

use crate::{Error, OnOrphan, Resolution, Settled, Track, Tracked, TrackerHandle, inbox::Input};

/// Which records [`TrackerHandle::scan`] shows.
///
/// ```
/// use idempotency_tracker::{Filter, RecordState};
/// use std::time::Duration;
///
/// // What nobody will ever settle by himself.
/// let unknown = Filter::new().state(RecordState::Halted).older_than(Duration::from_secs(60 * 60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Filter {
    /// In this state.
    pub state: Option<RecordState>,
    /// Claimed so long ago at least.
    pub older_than: Option<Duration>,
}

/// The state of a record, for a [`Filter`].
///
/// ```
/// assert_ne!(idempotency_tracker::RecordState::Running, idempotency_tracker::RecordState::Orphaned);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordState {
    /// Somebody works under a lease that holds.
    Running,
    /// The caller is gone: a lease that has lapsed, or a halt that says so.
    Orphaned,
    /// The work was done.
    Completed,
    /// Whether it was done is not known, and no policy settles it.
    Halted,
}

impl RecordState {
    fn of(record: &Record, now: OffsetDateTime) -> Self {
        match record.state {
            _ if record.is_orphan(now) => Self::Orphaned,
            State::Processing { .. } => Self::Running,
            State::Completed(_) => Self::Completed,
            State::Halted(_) => Self::Halted,
        }
    }
}

impl Filter {
    /// All records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those in this state.
    #[must_use]
    pub fn state(mut self, state: RecordState) -> Self {
        self.state = Some(state);
        self
    }

    /// Those that were claimed so long ago at least.
    #[must_use]
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = Some(age);
        self
    }

    fn shows(&self, record: &Record, now: OffsetDateTime) -> bool {
        let state = self.state.is_none_or(|state| state == RecordState::of(record, now));
        state && self.older_than.is_none_or(|age| now - record.claimed_at >= age)
    }
}

/// A page of [`TrackerHandle::scan`].
///
/// ```
/// fn is_last(records: &idempotency_tracker::Records) -> bool {
///     records.next.is_none()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Records {
    /// Those that the filter shows; there may be none on a page, and more on the next.
    pub records: Vec<(RequestId, Record)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Cursor>,
}

/// How [`TrackerHandle::resolve`] ended.
///
/// ```
/// fn is_settled(resolved: idempotency_tracker::Resolved) -> bool {
///     resolved == idempotency_tracker::Resolved::Resolved
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resolved {
    /// It is stored, or will be as soon as the store answers.
    Resolved,
    /// The record is running or completed, or is another one than that which was read.
    Refused,
    /// There is no record.
    NotFound,
}

impl TrackerHandle {
    /// A page of at most `limit` records as the store has them, without those that the filter hides.
    ///
    /// ```
    /// use idempotency_store_memory::MemoryStore;
    /// use idempotency_tracker::{Filter, RecordState, Tracker};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
    /// let (mut cursor, filter) = (None, Filter::new().state(RecordState::Halted));
    /// loop {
    ///     let page = tracker.scan(filter, cursor, 100).await.unwrap();
    ///     for (id, record) in page.records {
    ///         println!("{id}: {record:?}");
    ///     }
    ///     cursor = page.next;
    ///     if cursor.is_none() {
    ///         break;
    ///     }
    /// }
    /// # });
    /// ```
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// `ShuttingDown`; `Unavailable`, also where the store has no scan.
    pub async fn scan(&self, filter: Filter, cursor: Option<Cursor>, limit: usize) -> Result<Records, Error> {
        let page = self.ask(|reply| Input::Scan { cursor, limit, reply }).await?;
        let (mut records, now) = (page.records, self.clock().now());
        records.retain(|(_, record)| filter.shows(record, now));
        Ok(Records { records, next: page.next })
    }

    /// Says what became of a request that is orphaned or halted, by the owner that was read: takes it over, then settles it.
    /// The reason is for the log.
    ///
    /// Not cancel safe: dropped in the middle the record may be halted as `Unresolved`.
    ///
    /// # Errors
    ///
    /// Those of [`track`](Self::track).
    pub async fn resolve(
        &self,
        id: RequestId,
        owner: Owner,
        resolution: Resolution,
        reason: &str,
    ) -> Result<Resolved, Error> {
        let Some(record) = self.lookup(id).await? else { return Ok(Resolved::NotFound) };
        let is_open = record.is_orphan(self.clock().now()) || matches!(record.state, State::Halted(_));
        if record.owner != owner || !is_open {
            return Ok(Resolved::Refused);
        }
        tracing::info!(%id, reason, "an operator resolves a record");
        // Whatever the policy is, it is the operator who says what became of it.
        let mut track =
            Track::new(id, record.fingerprint).meta(record.meta.clone()).on_orphan(OnOrphan::Halt);
        track.takes_over = Some(owner);
        let Tracked::Init(permit) = self.track(track).await? else { return Ok(Resolved::Refused) };
        match resolution.settle(permit).await? {
            Settled::Stored | Settled::Deferred => Ok(Resolved::Resolved),
            _ => Ok(Resolved::Refused),
        }
    }
}
