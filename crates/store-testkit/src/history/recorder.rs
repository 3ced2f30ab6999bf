use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use idempotency_core::{
    Capabilities, Claim, Clock, Cursor, Inserted, Owner, Page, Pruned, Record, RequestId, Restored, Setup,
    Store, StoreCommand, StoreError, StoreReply, SystemClock, Update, Updated,
};
use time::OffsetDateTime;

use super::{Answer, Call, Heard, Operation, lines};

/// Where the calls of one or many callers are noted down. Clones write to the same place.
///
/// ```
/// use idempotency_core::{Claim, Fingerprint, Owner, RequestId, Store};
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::history::{RecordedStore, Recorder, check};
/// use time::OffsetDateTime;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let recorder = Recorder::new();
/// let store = RecordedStore::new(MemoryStore::new(), recorder.clone());
/// let claim = Claim::new(RequestId::from_bytes([1; 32]), Owner::from_u128(1), Fingerprint::derive(None, []));
/// store.insert(&claim, OffsetDateTime::UNIX_EPOCH).await.unwrap();
///
/// let summary = check(&recorder.calls()).unwrap();
/// assert_eq!((summary.calls, summary.claims), (1, 1));
/// # });
/// ```
#[derive(Clone)]
pub struct Recorder(Arc<Recording>);

struct Recording {
    clock: Box<dyn Clock>,
    next: AtomicU64,
    into: Mutex<Into>,
}

enum Into {
    Memory { open: HashMap<u64, Call>, calls: Vec<Call> },
    Lines(Box<dyn io::Write + Send>),
}

impl Recorder {
    /// Notes the calls in memory, by the system's clock.
    pub fn new() -> Self {
        Self::on(SystemClock::new())
    }

    /// Notes the calls in memory. Where the store goes by the clock of its callers, it must be theirs.
    pub fn on(clock: impl Clock) -> Self {
        Self::into(Into::Memory { open: HashMap::new(), calls: Vec::new() }, clock)
    }

    /// Writes each beginning and each end as a line, for [`read`](super::read): what was written survives whatever ends
    /// this process. All processes need the same clock.
    ///
    /// A line that cannot be written is a panic: what is not noted cannot be judged.
    pub fn to(writer: impl io::Write + Send + 'static, clock: impl Clock) -> Self {
        Self::into(Into::Lines(Box::new(writer)), clock)
    }

    fn into(into: Into, clock: impl Clock) -> Self {
        Self(Arc::new(Recording { clock: Box::new(clock), next: AtomicU64::new(0), into: Mutex::new(into) }))
    }

    /// All calls so far; those under way as unanswered. Empty if they are written as lines.
    pub fn calls(&self) -> Vec<Call> {
        match &*self.lock() {
            Into::Memory { open, calls } => calls.iter().chain(open.values()).cloned().collect(),
            Into::Lines(_) => Vec::new(),
        }
    }

    /// Notes that the caller who was given this claim begins to work.
    pub fn works(&self, id: RequestId, owner: Owner) {
        let number = self.begin(id, Operation::Work { owner }, None);
        self.end(number, Heard::Answer(Answer::Done));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Into> {
        self.0.into.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Noted before anything is sent. `now` is what the store is told, if it goes by that.
    pub(crate) fn begin(&self, id: RequestId, operation: Operation, now: Option<OffsetDateTime>) -> u64 {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let began = now.map_or(u64::MAX, nanos).min(nanos(self.0.clock.now()));
        let call = Call { id, operation, began, ended: None };
        match &mut *self.lock() {
            Into::Memory { open, .. } => drop(open.insert(number, call)),
            Into::Lines(writer) => writer.write_all(lines::begun(number, &call).as_bytes()).expect("a line"),
        }
        number
    }

    /// Noted after the answer was there.
    pub(crate) fn end(&self, number: u64, heard: Heard) {
        let now = nanos(self.0.clock.now());
        match &mut *self.lock() {
            Into::Memory { open, calls } => {
                let Some(mut call) = open.remove(&number) else { return };
                match heard {
                    Heard::Answer(answer) => call.ended = Some((now, answer)),
                    Heard::Nothing => {}
                    Heard::NotDone => return,
                }
                calls.push(call);
            }
            Into::Lines(writer) => {
                if let Some(line) = lines::ended(number, now, &heard) {
                    writer.write_all(line.as_bytes()).expect("a line");
                }
            }
        }
    }
}

fn nanos(instant: OffsetDateTime) -> u64 {
    u64::try_from(instant.unix_timestamp_nanos()).unwrap_or(0)
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("begun", &self.0.next).finish_non_exhaustive()
    }
}

/// A store whose calls are noted down. See [`Recorder`].
#[derive(Debug)]
pub struct RecordedStore<S> {
    inner: S,
    recorder: Recorder,
}

impl<S: Store> RecordedStore<S> {
    /// Notes what `inner` is asked and answers.
    pub fn new(inner: S, recorder: Recorder) -> Self {
        Self { inner, recorder }
    }

    /// The store that does the work.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// A store without a clock of its own decides by the caller's, which the call may have waited with. The recorder's
    /// clock must then be the caller's.
    fn begin(&self, command: &StoreCommand, now: OffsetDateTime) -> Option<u64> {
        let (id, operation) = Operation::of(command)?;
        let decides = !self.inner.capabilities().shared;
        Some(self.recorder.begin(id, operation, decides.then_some(now)))
    }

    async fn call(&self, command: StoreCommand, now: OffsetDateTime) -> Result<StoreReply, StoreError> {
        let number = self.begin(&command, now);
        let reply = command.call(&self.inner, now).await;
        if let Some(number) = number {
            self.recorder.end(number, Answer::of(&reply));
        }
        reply
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for RecordedStore<S> {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.inner.setup(setup).await
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.call(StoreCommand::Lookup(*id), now).await?.found()
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.call(StoreCommand::Insert(claim.clone().into()), now).await?.inserted()
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.call(StoreCommand::Update(update.clone().into()), now).await?.updated()
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.inner.prune(now, limit).await
    }

    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        let numbers: Vec<Option<u64>> = batch.iter().map(|command| self.begin(command, now)).collect();
        let replies = self.inner.apply(batch, now).await;
        for (number, reply) in numbers.into_iter().zip(&replies) {
            if let Some(number) = number {
                self.recorder.end(number, Answer::of(reply));
            }
        }
        replies
    }

    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.inner.scan(cursor, limit).await
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.inner.restore(id, record, now).await
    }

    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.inner.watch(id, now).await
    }

    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        self.inner.settled()
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.inner.retire(to).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}
