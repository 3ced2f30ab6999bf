//! Where the actors live.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use actix::{Actor, Addr, System};
use idempotency_core::Store;
use tokio::{
    runtime::{self, Runtime},
    sync::{oneshot, watch},
};

use crate::{
    Error, ErrorKind, RequestTracker,
    backend::{Start, StartBackend},
    estate::SharedEstate,
    request_tracker::Parts,
    store_actor::{Child, StoreActor},
};

/// Which thread the tracker's actors live on.
///
/// ```
/// use idempotency_tracker::Placement;
///
/// assert_eq!(Placement::default(), Placement::Dedicated);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Placement {
    /// On a thread of their own, with an actix `System` of their own. Nothing that the application does there can
    /// hold up a renewal. The thread looks for more for 50 µs before it sleeps, where that pays.
    #[default]
    Dedicated,
    /// On the `LocalSet` that `spawn` is called in: actix-web's, or a test's with paused time. Whatever blocks that
    /// thread blocks renewals.
    ///
    /// `spawn` panics where there is no `LocalSet`.
    Local,
}

/// How long work that was detached onto the tracker's own runtime may go on when the tracker has ended.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Starts the backend actor on a store, given where the store's own code is to run.
pub(crate) type Backends = Box<dyn FnOnce(runtime::Handle) -> StartBackend + Send>;

/// Where the actor is, for handles.
pub(crate) type TellAddr = watch::Sender<Option<Addr<RequestTracker>>>;

/// The threads that were started for a tracker, and how to know that they are done.
pub(crate) struct Host {
    /// Where the store's code and the work of `once` run.
    runtime: runtime::Handle,
    is_alive: Weak<()>,
    addr: watch::Receiver<Option<Addr<RequestTracker>>>,
    /// Ends when the actor and its thread are gone.
    ended: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    pub(crate) async fn start(
        placement: Placement,
        backends: Backends,
        parts: impl FnOnce(StartBackend, runtime::Handle, TellAddr) -> (Parts, SharedEstate) + Send + 'static,
    ) -> Result<Self, Error> {
        let (runtime, own) = match runtime::Handle::try_current() {
            Ok(runtime) => (runtime, None),
            Err(_) => {
                let own = own_runtime()?;
                (own.handle().clone(), Some(own))
            }
        };
        let start_backend = backends(runtime.clone());
        let stores = runtime.clone();
        let (ending, ended) = watch::channel(());
        let (tell_addr, mut addr) = watch::channel(None);
        let thread = match placement {
            Placement::Dedicated => {
                let live = move || {
                    System::new().block_on(async move {
                        let (parts, estate) = parts(start_backend, stores, tell_addr);
                        supervise(parts, estate).await;
                    });
                    // The tracker outlives its handles, and needs its store until here.
                    if let Some(own) = own {
                        own.shutdown_timeout(LAST_WORK);
                    }
                    // After the system, its timers and tasks are gone.
                    drop(ending);
                };
                let thread = thread::Builder::new().name("idempotency-tracker".to_owned());
                let started = thread.spawn(live);
                let cannot =
                    |error| Error::invalid(format!("the tracker's thread cannot be started: {error}"));
                Some(started.map_err(cannot)?)
            }
            Placement::Local => {
                let (parts, estate) = parts(start_backend, stores, tell_addr);
                tokio::task::spawn_local(async move {
                    supervise(parts, estate).await;
                    drop(ending);
                });
                None
            }
        };
        let alive = Arc::new(());
        let is_alive = Arc::downgrade(&alive);
        let mut until = ended.clone();
        // Dropped with its runtime, should that go before the tracker does.
        drop(runtime.spawn(async move {
            let _alive = alive;
            let _ = until.changed().await;
        }));
        let first = addr.wait_for(Option::is_some).await.map(|_| ());
        first.map_err(|_| Error::new(ErrorKind::ShuttingDown))?;
        Ok(Self { runtime, is_alive, addr, ended, thread: Mutex::new(thread) })
    }

    /// Of the actor at this moment.
    pub(crate) fn addr(&self) -> Addr<RequestTracker> {
        self.addr.borrow().clone().expect("there was one when this was made, and it is only ever replaced")
    }

    /// The runtime that the tracker was spawned in; where that is gone, the one at hand.
    pub(crate) fn runtime(&self) -> runtime::Handle {
        match runtime::Handle::try_current() {
            Ok(at_hand) if self.is_alive.strong_count() == 0 => at_hand,
            _ => self.runtime.clone(),
        }
    }

    /// Resolves when the actor and its thread are gone.
    pub(crate) async fn ended(&self) {
        // It never changes; it only ends, as the last thing that the thread does.
        let _ = self.ended.clone().changed().await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// Starts the actor, and another one on what it leaves whenever it dies of a panic; until it comes to its orderly end.
async fn supervise(parts: Parts, estate: SharedEstate) {
    loop {
        let (stopped, on_stopped) = oneshot::channel();
        let tracker = RequestTracker::new(parts.clone(), estate.clone(), stopped);
        estate.borrow().lives_at(tracker.start());
        if on_stopped.await.is_ok() {
            return;
        }
        let back_off = estate.borrow_mut().died();
        tracing::error!(?back_off, "the tracker died of a panic, which is a bug, and is replaced");
        tokio::time::sleep(back_off).await;
    }
}

/// A runtime for stores and for detached work where the application has none.
fn own_runtime() -> Result<Runtime, Error> {
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("idempotency-store")
        .enable_all()
        .build()
        .map_err(|error| Error::invalid(format!("the tracker's runtime cannot be started: {error}")))
}

/// Starts backend actors on one store: every restart is on the same `Arc`, for a memory store holds the records.
pub(crate) fn backends<S: Store>(store: Arc<S>, limit: Duration) -> Backends {
    // Ends with the tracker, and before the timers that calls under way are bound by.
    Box::new(move |runtime| Arc::new(OnStore { store, limit, runtime, alive: watch::Sender::new(()) }))
}

struct OnStore<S> {
    store: Arc<S>,
    limit: Duration,
    runtime: runtime::Handle,
    alive: watch::Sender<()>,
}

impl<S: Store> Start for OnStore<S> {
    fn start(&self) -> Child {
        let ended = self.alive.subscribe();
        StoreActor::start(self.store.clone(), self.limit, self.runtime.clone(), ended)
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}
