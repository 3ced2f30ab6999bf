//! Where the actors live.

use std::{fmt, sync::Arc, thread, time::Duration};

use actix::{Actor, Addr, System};
use idempotency_core::Store;
use tokio::{
    runtime::{self, Runtime},
    sync::{oneshot, watch},
};

use crate::{Error, RequestTracker, backend::StartBackend, request_tracker::Parts, store_actor::StoreActor};

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

/// Starts the backend actor on a store, given where the store's own code is to run.
pub(crate) type Backends = Box<dyn FnOnce(runtime::Handle) -> StartBackend + Send>;

/// The threads that were started for a tracker, and how to know that they are done.
pub(crate) struct Host {
    /// Where the store's code and the work of `once` run if there is no runtime at hand.
    runtime: runtime::Handle,
    /// Ends when the actor and its thread are gone.
    ended: watch::Receiver<()>,
}

impl Host {
    pub(crate) fn start(
        placement: Placement,
        backends: Backends,
        parts: impl FnOnce(StartBackend, oneshot::Sender<()>) -> Parts + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<Addr<RequestTracker>>), Error> {
        let (runtime, own) = match runtime::Handle::try_current() {
            Ok(runtime) => (runtime, None),
            Err(_) => {
                let own = OwnRuntime::start()?;
                (own.handle(), Some(own))
            }
        };
        let start_backend = backends(runtime.clone());
        let (stopped, on_stopped) = oneshot::channel();
        let (ending, ended) = watch::channel(());
        let (tell_addr, addr) = oneshot::channel();
        match placement {
            Placement::Dedicated => {
                let live = move || {
                    // The tracker outlives its handles, and needs its store until the end.
                    let _own = own;
                    System::new().block_on(async move {
                        let _ = tell_addr.send(RequestTracker::new(parts(start_backend, stopped)).start());
                        let _ = on_stopped.await;
                    });
                    // After the system, its timers and tasks are gone.
                    drop(ending);
                };
                let thread = thread::Builder::new().name("idempotency-tracker".to_owned());
                thread.spawn(live).map_err(|error| {
                    Error::invalid(format!("the tracker's thread cannot be started: {error}"))
                })?;
            }
            Placement::Local => {
                let _ = tell_addr.send(RequestTracker::new(parts(start_backend, stopped)).start());
                tokio::task::spawn_local(async move {
                    let _ = on_stopped.await;
                    drop(ending);
                });
            }
        }
        Ok((Self { runtime, ended }, addr))
    }

    pub(crate) fn runtime(&self) -> &runtime::Handle {
        &self.runtime
    }

    /// Resolves when the actor and its thread are gone.
    pub(crate) async fn ended(&self) {
        // It never changes; it only ends.
        let _ = self.ended.clone().changed().await;
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// A runtime for stores and for detached work where the application has none. It may be dropped anywhere, also where
/// blocking is not allowed.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn start() -> Result<Self, Error> {
        runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("idempotency-store")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| Error::invalid(format!("the tracker's runtime cannot be started: {error}")))
    }

    fn handle(&self) -> runtime::Handle {
        self.0.as_ref().map_or_else(runtime::Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts backend actors on one store: every restart is on the same `Arc`, for a memory store holds the records.
pub(crate) fn backends<S: Store>(store: Arc<S>, limit: Duration) -> Backends {
    Box::new(move |runtime| {
        // Ends with the tracker, and before the timers that calls under way are bound by.
        let alive = watch::Sender::new(());
        Arc::new(move || {
            StoreActor::start(store.clone(), limit, runtime.clone(), alive.subscribe()).recipient()
        })
    })
}
