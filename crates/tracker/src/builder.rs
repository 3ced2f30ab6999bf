use std::{sync::Arc, time::Duration};

use idempotency_core::{Clock, DEFAULT_LEASE, DEFAULT_RETENTION, Secret, SecretCheck, Store, SystemClock};
use idempotency_engine::Config;
use tokio::sync::oneshot;

use crate::{
    Error, ErrorKind, OnOrphan, Placement, ReadThrough, TrackerHandle,
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

/// All but the store.
#[derive(Debug)]
struct Settings {
    lease: Duration,
    retention: Duration,
    work_limit: Duration,
    on_orphan: OnOrphan,
    store_limit: Duration,
    put_patience: Duration,
    prune_every: Duration,
    prune_limit: usize,
    max_in_flight: usize,
    max_queued: usize,
    clock: Arc<dyn Clock>,
    secret: Option<Secret>,
    placement: Placement,
}

impl<S: Store> Builder<S> {
    pub(crate) fn new(store: S) -> Self {
        let config = Config::default();
        let settings = Settings {
            lease: DEFAULT_LEASE,
            retention: DEFAULT_RETENTION,
            work_limit: Duration::from_secs(15 * 60),
            on_orphan: OnOrphan::default(),
            store_limit: config.store_limit,
            put_patience: config.put_patience,
            prune_every: Duration::from_secs(60),
            prune_limit: config.prune_limit,
            max_in_flight: config.max_in_flight,
            max_queued: 16_384,
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

    /// How long one call of the store may take: 2 s; 1 ms to 1 h, at most a third of the lease.
    pub fn store_limit(mut self, store_limit: Duration) -> Self {
        self.settings.store_limit = store_limit;
        self
    }

    /// How long a result keeps its caller waiting while the store does not take it: 1 s, at most 1 h.
    pub fn put_patience(mut self, put_patience: Duration) -> Self {
        self.settings.put_patience = put_patience;
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
        self.settings.prune_limit = prune_limit;
        self
    }

    /// How many claims may be live at once: 4,096. Past it a `Track` that would claim is refused; replays are not.
    pub fn max_in_flight(mut self, max_in_flight: usize) -> Self {
        self.settings.max_in_flight = max_in_flight;
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
        let capabilities = self.store.capabilities();
        let secret_check = self.settings.secret.as_ref().map_or_else(SecretCheck::unkeyed, Secret::check);
        let config = Config {
            store_limit: self.settings.store_limit,
            put_patience: self.settings.put_patience,
            prune_every: (!capabilities.native_expiry).then_some(self.settings.prune_every),
            prune_limit: self.settings.prune_limit,
            max_in_flight: self.settings.max_in_flight,
        };
        let defaults = self.defaults();
        let parts = {
            let (clock, inbox) = (self.settings.clock.clone(), inbox.clone());
            move |start_backend, runtime, stopped| Parts {
                config,
                defaults,
                clock,
                inbox,
                receiver,
                start_backend,
                runtime,
                capabilities,
                secret_check,
                started,
                stopped,
            }
        };
        let (host, addr) =
            Host::start(self.settings.placement, backends(self.store, self.settings.store_limit), parts)?;
        let died = || Error::new(ErrorKind::ShuttingDown);
        let addr = addr.await.map_err(|_| died())?;
        // Made now, so that dropping this future abandons the tracker.
        let tracker = TrackerHandle::new(inbox, addr, host, self.settings.clock, self.settings.secret);
        match on_started.await {
            Ok(Ok(())) => Ok(tracker),
            Ok(Err(error)) => {
                tracker.ended().await;
                Err(error)
            }
            Err(_) => Err(died()),
        }
    }

    fn defaults(&self) -> Defaults {
        Defaults {
            lease: self.settings.lease,
            retention: self.settings.retention,
            work_limit: self.settings.work_limit,
            on_orphan: self.settings.on_orphan,
            store_limit: self.settings.store_limit,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let positive = [
            (self.settings.store_limit < MILLISECOND, "a store limit of less than 1 ms lets no call succeed"),
            (
                self.settings.store_limit > HOUR,
                "a store limit of more than 1 h keeps callers waiting for ever",
            ),
            (
                self.settings.put_patience > HOUR,
                "a put patience of more than 1 h keeps callers waiting for ever",
            ),
            (self.settings.prune_every < MILLISECOND, "pruning at every instant does nothing else"),
            (self.settings.prune_limit == 0, "a prune step that deletes nothing never ends"),
            (self.settings.max_in_flight == 0, "with no claim allowed in flight no request can run"),
            (self.settings.max_queued == 0, "with no caller allowed to wait every request is refused"),
        ];
        if let Some((_, reason)) = positive.into_iter().find(|(wrong, _)| *wrong) {
            return Err(Error::invalid(reason));
        }
        self.defaults().check(self.settings.lease, self.settings.retention, self.settings.work_limit)
    }
}
