//! A store that misbehaves on demand, and a tracker on virtual time.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::{Future, pending},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use idempotency_core::*;
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{Builder, Error, Placement, Tracked, Tracker, TrackerHandle};
use time::OffsetDateTime;
use tokio::{sync::broadcast, task::LocalSet};

/// What a call does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Takes this long and then succeeds.
    Delay(Duration),
    /// Fails without having written.
    FailBefore,
    /// Writes, and then the reply is lost.
    FailAfter,
    /// Writes, and never replies.
    HangAfter,
    /// Never does anything.
    Hang,
    /// Blocks its thread for this long and then succeeds.
    Block(Duration),
    Panic,
    /// Takes one from the budget of the task that it runs in, and succeeds.
    Budgeted,
    /// Never does anything, and panics when it is given up.
    PanicInDrop,
    /// Refuses for good, by this kind.
    Refuse(StoreErrorKind),
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("the store panics as planned");
    }
}

type Plan = Box<dyn FnMut(&StoreCommand) -> Option<Fault> + Send>;

type Pushes = (broadcast::Sender<RequestId>, Arc<Mutex<HashSet<RequestId>>>);

/// A memory store whose calls go wrong by a plan. It is not `immediate`, so its calls run as those of a remote store.
#[derive(Clone)]
pub(crate) struct FaultyStore {
    pub(crate) inner: Arc<MemoryStore>,
    plan: Arc<Mutex<Plan>>,
    calls: Arc<Mutex<HashMap<&'static str, usize>>>,
    immediate: bool,
    batches: usize,
    /// Where it tells of what was settled, and of which ids it is asked to.
    push: Option<Pushes>,
    closed: Arc<AtomicUsize>,
}

impl FaultyStore {
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::default(),
            plan: Arc::new(Mutex::new(Box::new(|_| None))),
            calls: Arc::default(),
            immediate: false,
            batches: 0,
            push: None,
            closed: Arc::default(),
        }
    }

    /// Its calls run on the tracker's own thread, and travel in batches.
    pub(crate) fn immediate(mut self, immediate: bool) -> Self {
        self.immediate = immediate;
        self
    }

    /// Its calls travel in batches, one at a time.
    pub(crate) fn batching(mut self) -> Self {
        self.batches = 1;
        self
    }

    /// It tells whoever watches an id that it was settled.
    pub(crate) fn pushing(mut self) -> Self {
        self.push = Some((broadcast::channel(1024).0, Arc::default()));
        self
    }

    pub(crate) fn plan(&self, plan: impl FnMut(&StoreCommand) -> Option<Fault> + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// Every call of this name goes wrong like this.
    pub(crate) fn always(&self, name: &'static str, fault: Fault) {
        self.plan(move |command| (command.name() == name).then_some(fault));
    }

    /// Every call but `setup` goes wrong like this.
    pub(crate) fn down(&self, fault: Fault) {
        self.plan(move |command| (command.name() != "setup").then_some(fault));
    }

    pub(crate) fn well(&self) {
        self.plan(|_| None);
    }

    pub(crate) fn calls(&self, name: &str) -> usize {
        self.calls.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    pub(crate) fn was_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) == 1
    }

    async fn run<T>(
        &self,
        command: StoreCommand,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        *self.calls.lock().unwrap().entry(command.name()).or_default() += 1;
        let fault = (self.plan.lock().unwrap())(&command);
        let lost = || StoreError::new(StoreErrorKind::Unavailable, "SECRET-HOST went away");
        match fault {
            None => call.await,
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                call.await
            }
            Some(Fault::FailBefore) => Err(lost().not_applied()),
            Some(Fault::FailAfter) => {
                call.await?;
                Err(lost())
            }
            Some(Fault::HangAfter) => {
                call.await?;
                pending().await
            }
            Some(Fault::Hang) => pending().await,
            Some(Fault::Block(time)) => {
                thread::sleep(time);
                call.await
            }
            Some(Fault::Panic) => panic!("the store panics as planned"),
            Some(Fault::Budgeted) => {
                tokio::task::consume_budget().await;
                call.await
            }
            Some(Fault::PanicInDrop) => {
                let _panics = PanicsInDrop;
                pending().await
            }
            Some(Fault::Refuse(kind)) => Err(StoreError::new(kind, "refused").not_applied()),
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.run(StoreCommand::Setup(setup.clone()), self.inner.setup(setup)).await
    }
    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.run(StoreCommand::Lookup(*id), self.inner.lookup(id, now)).await
    }
    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.run(StoreCommand::Insert(claim.clone().into()), self.inner.insert(claim, now)).await
    }
    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        let updated =
            self.run(StoreCommand::Update(update.clone().into()), self.inner.update(update, now)).await;
        if let Some((sender, wanted)) = &self.push
            && !matches!(update.change, Change::Renew { .. })
            && wanted.lock().unwrap().remove(&update.id)
        {
            let _ = sender.send(update.id);
        }
        updated
    }
    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.run(StoreCommand::Prune { limit }, self.inner.prune(now, limit)).await
    }
    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let command = StoreCommand::Scan { cursor: cursor.clone(), limit };
        self.run(command, self.inner.scan(cursor, limit)).await
    }
    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        let command = StoreCommand::Restore { id: *id, record: record.clone().into() };
        self.run(command, self.inner.restore(id, record, now)).await
    }
    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.run(StoreCommand::Retire { to: to.to_owned() }, self.inner.retire(to)).await
    }
    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.run(StoreCommand::Watch(*id), async {
            let (_, wanted) = self.push.as_ref().expect("only asked of a store that pushes");
            wanted.lock().unwrap().insert(*id);
            self.inner.lookup(id, now).await
        })
        .await
    }
    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        let receiver = self.push.as_ref()?.0.subscribe();
        Some(stream::unfold(receiver, async |mut hints| Some((hints.recv().await.ok()?, hints))).boxed())
    }
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.immediate = self.immediate;
        capabilities.batches = self.batches;
        capabilities.push = self.push.is_some();
        capabilities.scan = true;
        capabilities.restore = true;
        capabilities
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

/// Runs a test on one thread and virtual time: nothing waits, and timers and clock move together.
pub(crate) fn virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// A tracker for [`virtual_time`].
pub(crate) fn builder<S: Store>(store: S) -> Builder<S> {
    Tracker::builder(store).placement(Placement::Local).clock(TokioClock::new())
}

pub(crate) async fn spawn<S: Store>(store: S) -> TrackerHandle {
    builder(store).spawn().await.unwrap()
}

pub(crate) fn id(number: u64) -> RequestId {
    RequestId::derive(None, &Scope::global(), [&number.to_le_bytes()[..]])
}

pub(crate) fn payload() -> Fingerprint {
    Fingerprint::derive(None, [&b"payload"[..]])
}

pub(crate) fn other_payload() -> Fingerprint {
    Fingerprint::derive(None, [&b"other payload"[..]])
}

/// The permit of an id that nobody has.
pub(crate) async fn init(tracker: &TrackerHandle, id: RequestId) -> idempotency_tracker::Permit {
    match tracker.track((id, payload())).await {
        Ok(Tracked::Init(permit)) => permit,
        other => panic!("not Init but {other:?}"),
    }
}

/// What a retry hears, in a word.
pub(crate) async fn outcome(tracker: &TrackerHandle, id: RequestId) -> String {
    word_of(tracker.track((id, payload())).await)
}

pub(crate) fn word_of(tracked: Result<Tracked, Error>) -> String {
    match tracked {
        Ok(Tracked::Halted { reason, .. }) => format!("halted {reason}"),
        Ok(Tracked::Cached { response, .. }) => format!("cached {:?}", response.bytes().unwrap()),
        Ok(tracked) => tracked.outcome().to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Waits for a future on a thread that has no runtime at all.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
