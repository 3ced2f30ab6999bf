//! Where the actors live.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use actix::{Actor, Addr, Recipient, System};
use idempotency_core::Store;
use tokio::{
    runtime::{self, Runtime},
    sync::{oneshot, watch},
};

use crate::{
    Error, RequestTracker, StoreBatch,
    backend::{Start, StartBackend},
    request_tracker::Parts,
    store_actor::StoreActor,
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
    /// hold up a renewal.
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

/// The threads that were started for a tracker, and how to know that they are done.
pub(crate) struct Host {
    /// Where the store's code and the work of `once` run.
    runtime: runtime::Handle,
    is_alive: Weak<()>,
    /// Ends when the actor and its thread are gone.
    ended: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    pub(crate) fn start(
        placement: Placement,
        backends: Backends,
        parts: impl FnOnce(StartBackend, runtime::Handle, oneshot::Sender<()>) -> Parts + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<Addr<RequestTracker>>), Error> {
        let (runtime, own) = match runtime::Handle::try_current() {
            Ok(runtime) => (runtime, None),
            Err(_) => {
                let own = own_runtime()?;
                (own.handle().clone(), Some(own))
            }
        };
        let start_backend = backends(runtime.clone());
        let stores = runtime.clone();
        let (stopped, on_stopped) = oneshot::channel();
        let (ending, ended) = watch::channel(());
        let (tell_addr, addr) = oneshot::channel();
        let thread = match placement {
            Placement::Dedicated => {
                let live = move || {
                    System::new().block_on(async move {
                        let _ = tell_addr
                            .send(RequestTracker::new(parts(start_backend, stores, stopped)).start());
                        let _ = on_stopped.await;
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
                let _ = tell_addr.send(RequestTracker::new(parts(start_backend, stores, stopped)).start());
                tokio::task::spawn_local(async move {
                    let _ = on_stopped.await;
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
        Ok((Self { runtime, is_alive, ended, thread: Mutex::new(thread) }, addr))
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
    fn start(&self) -> Recipient<StoreBatch> {
        let ended = self.alive.subscribe();
        StoreActor::start(self.store.clone(), self.limit, self.runtime.clone(), ended).recipient()
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}
