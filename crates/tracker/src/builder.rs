use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use idempotency_core::{
    Clock, DEFAULT_LEASE, DEFAULT_RETENTION, RequestId, Secret, SecretCheck, Store, SystemClock,
};
use idempotency_engine::{Config, Happened, OnConcurrent};
use tokio::sync::oneshot;

use crate::{
    Error, ErrorKind, OnOrphan, Placement, ReadThrough, TrackerHandle,
    cache::ReadCache,
    estate::Estate,
    host::{Host, backends},
    inbox::Inbox,
    request_tracker::Parts,
    track::Defaults,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Configures a tracker and starts it. Made by [`Tracker::builder`](crate::Tracker::builder).
///
/// ```
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_tracker::{ErrorKind, Tracker};
/// use std::time::Duration;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// // The defaults do for most.
/// let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
/// tracker.shutdown(Duration::from_secs(1)).await.unwrap();
///
/// // Numbers that contradict each other are refused.
/// let wrong = Tracker::builder(MemoryStore::new()).lease(Duration::from_secs(1)).spawn().await.unwrap_err();
/// assert!(matches!(wrong.kind(), ErrorKind::Invalid(_)));
/// # });
/// ```
#[derive(Debug)]
#[must_use = "nothing runs before `spawn`"]
pub struct Builder<S> {
    store: Arc<S>,
    settings: Settings,
}

/// What one tenant may have of a node, so that he cannot fill it or starve the others.
///
/// ```
/// use idempotency_tracker::TenantLimits;
///
/// let limits = TenantLimits::new().max_in_flight(100).max_stored_bytes(64 << 20);
/// ```
///
/// Past a limit a `Track` of his that would claim is refused as `Overloaded`; replays are not. Each node counts what it does
/// itself, since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TenantLimits {
    /// Claims that are live at once.
    pub max_in_flight: usize,
    /// Bytes that are stored and have not expired, with 256 for each record beside its response and meta. What has expired
    /// counts for up to a sixteenth of its retention longer.
    pub max_stored_bytes: u64,
}

impl TenantLimits {
    /// No limits.
    pub fn new() -> Self {
        Self { max_in_flight: usize::MAX, max_stored_bytes: u64::MAX }
    }

    /// How many claims may be live at once; more than none.
    #[must_use]
    pub fn max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.max_in_flight = max_in_flight;
        self
    }

    /// How many bytes may be stored; more than none.
    #[must_use]
    pub fn max_stored_bytes(mut self, max_stored_bytes: u64) -> Self {
        self.max_stored_bytes = max_stored_bytes;
        self
    }
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// Whom the tracker tells what happened.
#[derive(Clone, Default)]
pub(crate) struct OnHappened(Option<Arc<dyn Fn(RequestId, Happened) + Send + Sync>>);

impl OnHappened {
    pub(crate) fn tell(&self, id: RequestId, what: Happened) {
        if let Some(hook) = &self.0
            && catch_unwind(AssertUnwindSafe(|| hook(id, what))).is_err()
        {
            tracing::error!(%id, "the application's own hook panicked");
        }
    }
}

impl fmt::Debug for OnHappened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnHappened").field(&self.0.is_some()).finish()
    }
}

/// All but the store.
#[derive(Debug)]
struct Settings {
    lease: Duration,
    retention: Duration,
    work_limit: Duration,
    on_orphan: OnOrphan,
    on_concurrent: OnConcurrent,
    /// The numbers that the engine decides by.
    config: Config,
    prune_every: Duration,
    max_queued: usize,
    cache_bytes: usize,
    cache_ttl: Duration,
    on_happened: OnHappened,
    seed: Option<u64>,
    clock: Arc<dyn Clock>,
    secret: Option<Secret>,
    placement: Placement,
}

impl<S: Store> Builder<S> {
    pub(crate) fn new(store: S) -> Self {
        let settings = Settings {
            lease: DEFAULT_LEASE,
            retention: DEFAULT_RETENTION,
            work_limit: Duration::from_secs(15 * 60),
            on_orphan: OnOrphan::default(),
            on_concurrent: OnConcurrent::default(),
            config: Config::default(),
            prune_every: Duration::from_secs(60),
            on_happened: OnHappened::default(),
            seed: None,
            max_queued: 16_384,
            cache_bytes: 16 << 20,
            cache_ttl: Duration::from_secs(5),
            clock: Arc::new(SystemClock::new()),
            secret: None,
            placement: Placement::default(),
        };
        Self { store: Arc::new(store), settings }
    }

    /// Moves what is missing here from this older store when it is asked for; see [`ReadThrough`]. Until the last record in
    /// it has expired, so that a restart does not forget.
    pub fn read_through<O: Store>(self, old: O) -> Builder<ReadThrough<Arc<S>, O>> {
        Builder { store: Arc::new(ReadThrough::new(self.store, old)), settings: self.settings }
    }

    /// How long a claim stands without a sign of life: 15 s, at least three store limits. It is renewed at a third.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long a settled record is kept: 24 h, more than nothing.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// How long a claim is renewed: 15 min. Work that takes longer may be taken for dead.
    pub fn work_limit(mut self, work_limit: Duration) -> Self {
        self.settings.work_limit = work_limit;
        self
    }

    /// What to do where the earlier caller is gone: [`OnOrphan::Halt`].
    pub fn on_orphan(mut self, on_orphan: OnOrphan) -> Self {
        self.settings.on_orphan = on_orphan;
        self
    }

    /// What to do where the earlier caller is at work: [`OnConcurrent::Conflict`].
    pub fn on_concurrent(mut self, on_concurrent: OnConcurrent) -> Self {
        self.settings.on_concurrent = on_concurrent;
        self
    }

    /// How long the function of [`OnOrphan::Resolve`] may take: 10 s; 1 ms to 1 h. Then the outcome stays unknown.
    pub fn resolve_limit(mut self, resolve_limit: Duration) -> Self {
        self.settings.config.resolve_limit = resolve_limit;
        self
    }

    /// How many callers may wait ([`OnConcurrent::Wait`]) for the end of one request: 1,024, and of all: 8,192. Past it they
    /// hear at once that somebody is at work.
    pub fn max_waiting(mut self, for_one: usize, for_all: usize) -> Self {
        (self.settings.config.max_waiters_per_key, self.settings.config.max_waiters) = (for_one, for_all);
        self
    }

    /// How many bytes of responses are kept until a store takes them that does not answer: 64 MiB. Past it only that the work
    /// was done is kept, and retries hear that the response is not.
    pub fn max_deferred_bytes(mut self, max_deferred_bytes: usize) -> Self {
        self.settings.config.max_deferred_bytes = max_deferred_bytes;
        self
    }

    /// What one tenant may have of this node: everything.
    pub fn tenant_limits(mut self, limits: TenantLimits) -> Self {
        self.settings.config.tenant_in_flight = limits.max_in_flight;
        self.settings.config.tenant_bytes = limits.max_stored_bytes;
        self
    }

    /// Calls this when something happens that an operator wants to know of. On the tracker's thread, so it must not wait; a
    /// panic in it is caught.
    ///
    /// ```
    /// use idempotency_store_memory::MemoryStore;
    /// use idempotency_tracker::{Happened, Tracker};
    ///
    /// let builder = Tracker::builder(MemoryStore::new()).on_happened(|id, what| match what {
    ///     Happened::Superseded => eprintln!("{id}: somebody else had it by then"),
    ///     Happened::Orphaned(reason) => eprintln!("{id}: nobody knows: {reason}"),
    ///     _ => {}
    /// });
    /// ```
    pub fn on_happened(mut self, hook: impl Fn(RequestId, Happened) + Send + Sync + 'static) -> Self {
        self.settings.on_happened = OnHappened(Some(Arc::new(hook)));
        self
    }

    /// Owners and jitter come from this seed, so that a simulation can be repeated. Never in production: owners that can be
    /// guessed protect nothing.
    #[doc(hidden)]
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// How long one call of the store may take: 2 s; 1 ms to 1 h, at most a third of the lease.
    pub fn store_limit(mut self, store_limit: Duration) -> Self {
        self.settings.config.store_limit = store_limit;
        self
    }

    /// How long a result keeps its caller waiting while the store does not take it: 1 s, at most 1 h.
    pub fn put_patience(mut self, put_patience: Duration) -> Self {
        self.settings.config.put_patience = put_patience;
        self
    }

    /// How often expired records are pruned: every 60 s, give or take a tenth, so that nodes which were started
    /// together do not prune together.
    pub fn prune_every(mut self, prune_every: Duration) -> Self {
        self.settings.prune_every = prune_every;
        self
    }

    /// How many records one prune step deletes at most: 128. It rests for 1 ms before each step, so that requests pass.
    pub fn prune_limit(mut self, prune_limit: usize) -> Self {
        self.settings.config.prune_limit = prune_limit;
        self
    }

    /// How many claims may be live at once: 4,096. Past it a `Track` that would claim is refused; replays are not.
    pub fn max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.settings.config.max_in_flight = max_in_flight;
        self
    }

    /// How many bytes of completed records handles may keep to answer replays at once, on the caller's thread: 16 MiB. With 0
    /// every replay asks the store.
    ///
    /// ```
    /// use idempotency_store_memory::MemoryStore;
    /// use idempotency_tracker::Tracker;
    /// use std::time::Duration;
    ///
    /// let builder = Tracker::builder(MemoryStore::new()).read_cache(64 << 20).cache_ttl(Duration::from_secs(1));
    /// # let _ = builder;
    /// ```
    ///
    /// Only what the store has is kept, and only of ids that were asked for again; what is most wanted stays. It is divided among
    /// four parts for each processor, and a response that is larger than such a part is never kept.
    pub fn read_cache(mut self, max_bytes: usize) -> Self {
        self.settings.cache_bytes = max_bytes;
        self
    }

    /// How long after it was read a completed record may be served from there: 5 s. What another node forgets is replayed here
    /// for so long. What is forgotten through this tracker is not replayed any more, but where `forget` failed, and happens late.
    pub fn cache_ttl(mut self, cache_ttl: Duration) -> Self {
        self.settings.cache_ttl = cache_ttl;
        self
    }

    /// How many callers may wait for the answer to a `Track` at once: 16,384. Past it they are refused at once.
    pub fn max_queued(mut self, max_queued: usize) -> Self {
        self.settings.max_queued = max_queued;
        self
    }

    /// What time it is: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Keys the hashes that the handle derives, and is verified by the store. None by default: see [`Secret`].
    pub fn secret(mut self, secret: Secret) -> Self {
        self.settings.secret = Some(secret);
        self
    }

    /// Which thread the actors live on: one of their own.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.settings.placement = placement;
        self
    }

    /// Starts the actors and waits until the store is set up.
    ///
    /// Store calls run on the runtime that this is called in, or where there is none on two threads of the tracker's
    /// own.
    ///
    /// # Errors
    ///
    /// `Invalid`: the numbers contradict each other. `Setup`: the store refused; nothing is left running.
    ///
    /// # Panics
    ///
    /// With [`Placement::Local`] outside a `LocalSet`.
    pub async fn spawn(self) -> Result<TrackerHandle, Error> {
        self.check()?;
        let (inbox, receiver) = Inbox::new(self.settings.max_queued);
        let (started, on_started) = oneshot::channel();
        let (capabilities, defaults) = (self.store.capabilities(), self.defaults());
        let Settings { cache_bytes, cache_ttl, .. } = self.settings;
        let cache = ReadCache::new(cache_bytes, cache_ttl, self.settings.clock.clone(), defaults.clone());
        let secret_check = self.settings.secret.as_ref().map_or_else(SecretCheck::unkeyed, Secret::check);
        let Settings { mut config, clock, secret, placement, on_happened, seed, .. } = self.settings;
        config.prune_every = (!capabilities.native_expiry).then_some(self.settings.prune_every);
        let store_limit = config.store_limit;
        let parts = {
            let (clock, inbox, cache) = (clock.clone(), inbox.clone(), cache.clone());
            move |start_backend, runtime, addr| {
                let parts = Parts {
                    config,
                    defaults,
                    clock,
                    runtime,
                    secret_check,
                    on_happened,
                    seed,
                    cache,
                    has_a_thread: placement == Placement::Dedicated,
                };
                (parts, Estate::new(inbox, receiver, start_backend, started, addr))
            }
        };
        let host = Host::start(placement, backends(self.store, store_limit), parts).await?;
        // Made now, so that dropping this future abandons the tracker.
        let tracker = TrackerHandle::new(inbox, host, clock, secret, cache);
        match on_started.await {
            Ok(Ok(())) => Ok(tracker),
            Ok(Err(error)) => {
                tracker.ended().await;
                Err(error)
            }
            Err(_) => Err(Error::new(ErrorKind::ShuttingDown)),
        }
    }

    fn defaults(&self) -> Defaults {
        Defaults {
            lease: self.settings.lease,
            retention: self.settings.retention,
            work_limit: self.settings.work_limit,
            on_orphan: self.settings.on_orphan.clone(),
            on_concurrent: self.settings.on_concurrent,
            store_limit: self.settings.config.store_limit,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let Settings { config, .. } = &self.settings;
        let positive = [
            (config.store_limit < MILLISECOND, "a store limit of less than 1 ms lets no call succeed"),
            (config.store_limit > HOUR, "a store limit of more than 1 h keeps callers waiting for ever"),
            (config.put_patience > HOUR, "a put patience of more than 1 h keeps callers waiting for ever"),
            (config.resolve_limit < MILLISECOND, "a resolve limit of less than 1 ms lets nobody answer"),
            (config.resolve_limit > HOUR, "a resolve limit of more than 1 h keeps callers waiting for ever"),
            (self.settings.prune_every < MILLISECOND, "pruning at every instant does nothing else"),
            (config.prune_limit == 0, "a prune step that deletes nothing never ends"),
            (config.max_in_flight == 0, "with no claim allowed in flight no request can run"),
            (config.tenant_in_flight == 0, "with no claim allowed in flight no request of a tenant can run"),
            (config.tenant_bytes == 0, "with no byte allowed to be stored no request of a tenant can run"),
            (self.settings.max_queued == 0, "with no caller allowed to wait every request is refused"),
        ];
        if let Some((_, reason)) = positive.into_iter().find(|(wrong, _)| *wrong) {
            return Err(Error::invalid(reason));
        }
        self.defaults().check(self.settings.lease, self.settings.retention, self.settings.work_limit)
    }
}
