use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix::{Addr, Recipient};
use idempotency_core::{
    Capabilities, ChildKey, Clock, Fingerprint, Owner, Record, RequestId, Scope, Secret, Store,
};
use idempotency_engine::Caller;
use tokio::{runtime, sync::oneshot};
use tracing::{Span, field};

use crate::{
    Error, Forgotten, Permit, RequestTracker, ShutdownReport, StatusReport, StoreBatch, SwapPolicy,
    SwapReport, Track, Tracked,
    ask::TrackerMessage,
    cache::ReadCache,
    host::Host,
    inbox::{Inbox, Input, Reply},
    meters,
    swap::NewBackend,
};

/// Speaks to the tracker from any thread and any runtime. Cheap to clone.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_tracker::{Tracked, Tracker};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
/// let id = tracker.request_id(&Scope::global(), [&b"key-1"[..]]);
/// let fingerprint = tracker.fingerprint([&b"amount=10"[..]]);
///
/// let Tracked::Init(permit) = tracker.track((id, fingerprint)).await.unwrap() else { panic!() };
/// permit.complete("201 Created").await.unwrap();
///
/// // The retry.
/// let Tracked::Cached { response, .. } = tracker.track((id, fingerprint)).await.unwrap() else { panic!() };
/// assert_eq!(response.bytes().unwrap(), "201 Created");
/// # });
/// ```
///
/// When the last handle and the last `Addr` are gone the tracker lets what runs finish, closes the store and ends.
/// [`shutdown`](Self::shutdown) does the same within a time, and tells when it is done.
#[derive(Clone)]
pub struct TrackerHandle(Arc<Shared>);

struct Shared {
    inbox: Inbox,
    host: Host,
    clock: Arc<dyn Clock>,
    secret: Option<Secret>,
    cache: ReadCache,
}

impl TrackerHandle {
    pub(crate) fn new(
        inbox: Inbox,
        host: Host,
        clock: Arc<dyn Clock>,
        secret: Option<Secret>,
        cache: ReadCache,
    ) -> Self {
        Self(Arc::new(Shared { inbox, host, clock, secret, cache }))
    }

    /// Asks, before the work, whether to do it. Sent at this call.
    ///
    /// A replay that this node has read lately is answered at once, on the caller's thread, see
    /// [`read_cache`](crate::Builder::read_cache).
    ///
    /// Cancel safe: if the future is dropped before it gave its answer, nothing was done, and the claim, should it
    /// have been made, is released or goes to the next caller.
    ///
    /// # Errors
    ///
    /// `Overloaded`, `ShuttingDown`, `Unavailable`, `Invalid`.
    pub fn track(&self, track: impl Into<Track>) -> Tracking {
        let mut track = track.into();
        let span = tracing::debug_span!("track", id = %track.id, outcome = field::Empty);
        track.span = span.clone();
        if !self.0.inbox.is_over()
            && let Some(replay) = self.0.cache.get(&track)
        {
            return Tracking { state: TrackingState::Ready(Ok(replay)), span };
        }
        let inbox = self.0.inbox.clone();
        let state = match inbox.admit() {
            Err(refused) => {
                meters::refused_at_the_door();
                TrackingState::Ready(Err(refused))
            }
            Ok(slot) => {
                let (reply, answer) = oneshot::channel();
                let (id, caller) = (track.id, inbox.next_caller());
                inbox.push(Input::Track { caller, track, reply: Some(reply), slot: Some(slot) });
                TrackingState::Waiting { answer, id, caller, inbox }
            }
        };
        Tracking { state, span }
    }

    /// The record of an id, for an operator. It claims nothing. Cancel safe.
    ///
    /// # Errors
    ///
    /// `ShuttingDown`, `Unavailable`.
    pub async fn lookup(&self, id: RequestId) -> Result<Option<Record>, Error> {
        self.ask(|reply| Input::Lookup { id, reply }).await
    }

    /// Deletes a settled or orphaned record by the owner that was read; never a running one. The reason is for the log.
    ///
    /// Not cancel safe: sent at the first poll, it happens or not.
    ///
    /// # Errors
    ///
    /// `ShuttingDown`; `Unavailable`: it may have happened.
    pub async fn forget(
        &self,
        id: RequestId,
        owner: Owner,
        reason: impl Into<String>,
    ) -> Result<Forgotten, Error> {
        let reason = reason.into();
        self.ask(|reply| Input::Forget { id, owner, reason, reply }).await
    }

    /// Prunes all expired records now, in steps, and tells how many there were. The tracker does so by itself every
    /// `prune_every`. Cancel safe: the prune goes on.
    ///
    /// # Errors
    ///
    /// `ShuttingDown`, `Unavailable`.
    pub async fn prune(&self) -> Result<usize, Error> {
        self.ask(|reply| Input::Prune { reply }).await
    }

    /// How the tracker is. Cancel safe.
    ///
    /// # Errors
    ///
    /// `ShuttingDown`.
    pub async fn status(&self) -> Result<StatusReport, Error> {
        self.ask(|reply| Input::Status { reply }).await
    }

    /// Moves to another store while requests run: its actor is started and set up, records are copied as the policy says,
    /// calls are held for a moment, what runs is carried over with its owners, and calls go on there.
    ///
    /// ```
    /// use idempotency_core::Scope;
    /// use idempotency_store_memory::MemoryStore;
    /// use idempotency_tracker::{SwapPolicy, Tracked, Tracker};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
    /// let request = (tracker.request_id(&Scope::global(), [&b"key-1"[..]]), tracker.fingerprint([]));
    /// let Tracked::Init(permit) = tracker.track(request).await.unwrap() else { panic!() };
    ///
    /// // While the work is being done ...
    /// let report = tracker.swap(MemoryStore::new(), SwapPolicy::copy("another store")).await.unwrap();
    /// assert_eq!(report.live, 1);
    /// permit.complete("201 Created").await.unwrap();
    /// assert!(matches!(tracker.track(request).await, Ok(Tracked::Cached { .. })));
    /// # });
    /// ```
    ///
    /// If anything fails before the end, the tracker goes on with the store that it has. Afterwards the old store is
    /// retired: it refuses to be set up again, so that a restart on the old configuration cannot work twice.
    ///
    /// Once called it happens, also if the future is dropped.
    ///
    /// # Errors
    ///
    /// `NotSwapped` with the reason; `ShuttingDown`.
    pub async fn swap(&self, store: impl Store, policy: SwapPolicy) -> Result<SwapReport, Error> {
        let backend = NewBackend::store(store);
        self.ask(|reply| Input::AskSwap { backend, policy, reply }).await
    }

    /// [`swap`](Self::swap) to a backend actor that somebody else started and supervises. Its capabilities say what it can
    /// do.
    ///
    /// # Errors
    ///
    /// As in [`swap`](Self::swap).
    pub async fn swap_actor(
        &self,
        recipient: Recipient<StoreBatch>,
        capabilities: Capabilities,
        policy: SwapPolicy,
    ) -> Result<SwapReport, Error> {
        let backend = NewBackend::actor(recipient, capabilities);
        self.ask(|reply| Input::AskSwap { backend, policy, reply }).await
    }

    /// Sends one of the typed messages: [`Track`], [`PutResponse`](crate::PutResponse), [`Halt`](crate::Halt),
    /// [`Release`](crate::Release), [`Lookup`](crate::Lookup), [`Forget`](crate::Forget), [`Prune`](crate::Prune),
    /// [`Status`](crate::Status), [`Swap`](crate::Swap). The same as the methods: what says how a permit ended is handed over at this call.
    ///
    /// # Errors
    ///
    /// Those of the method.
    pub fn send<M: TrackerMessage>(&self, message: M) -> impl Future<Output = M::Result> + Send {
        message.ask(self)
    }

    /// Takes no new claims, waits up to `grace` for what runs, settles the rest as `Halted(Shutdown)`, closes the
    /// store and ends the threads. What runs on after that may still complete its record from another node, as a
    /// late result.
    ///
    /// Once called it happens, also if the future is dropped. Called again it waits for the first one.
    ///
    /// # Errors
    ///
    /// `ShuttingDown` if the tracker was gone already.
    pub async fn shutdown(&self, grace: Duration) -> Result<ShutdownReport, Error> {
        let report = self.ask(|reply| Input::Shutdown { grace, reply }).await;
        self.ended().await;
        report
    }

    /// The actor itself. See [`RequestTracker`] for what differs there; should it die by a bug, the address of the one that
    /// takes its place is another one.
    pub fn addr(&self) -> Addr<RequestTracker> {
        self.0.host.addr()
    }

    /// Names a request, with the tracker's secret: [`RequestId::derive`].
    pub fn request_id<'a>(&self, scope: &Scope, parts: impl IntoIterator<Item = &'a [u8]>) -> RequestId {
        RequestId::derive(self.0.secret.as_ref(), scope, parts)
    }

    /// Hashes a payload, with the tracker's secret: [`Fingerprint::derive`].
    pub fn fingerprint<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        Fingerprint::derive(self.0.secret.as_ref(), parts)
    }

    /// The key of one step of a request for whoever does it, with the tracker's secret: [`ChildKey::derive`].
    pub fn child_key(&self, id: &RequestId, step: &str) -> ChildKey {
        ChildKey::derive(self.0.secret.as_ref(), id, step)
    }

    /// The secret that keys the hashes, for adapters that make hashes of their own.
    pub fn secret(&self) -> Option<&Secret> {
        self.0.secret.as_ref()
    }

    /// The tracker's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// Where detached work runs.
    pub(crate) fn runtime(&self) -> runtime::Handle {
        self.0.host.runtime()
    }

    /// Resolves when the actor and its thread are gone.
    pub(crate) async fn ended(&self) {
        self.0.host.ended().await;
    }

    pub(crate) async fn ask<T>(
        &self,
        input: impl FnOnce(Reply<Result<T, Error>>) -> Input,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.inbox.push(input(Some(reply)));
        answer.await.unwrap_or_else(|_| Err(self.0.inbox.closed()))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.inbox.push(Input::Abandoned);
    }
}

impl fmt::Debug for TrackerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackerHandle").field("inbox", &self.0.inbox).finish_non_exhaustive()
    }
}

/// The answer to [`TrackerHandle::track`] on its way.
///
/// ```
/// use idempotency_tracker::{Error, Track, Tracked, TrackerHandle, Tracking};
///
/// async fn ask_for_both(tracker: &TrackerHandle, one: Track, other: Track) -> Result<(Tracked, Tracked), Error> {
///     // Both are sent before either is waited for.
///     let (one, other): (Tracking, Tracking) = (tracker.track(one), tracker.track(other));
///     Ok((one.await?, other.await?))
/// }
/// ```
#[derive(Debug)]
#[must_use = "dropped before it gives its answer, the claim is released"]
pub struct Tracking {
    state: TrackingState,
    span: Span,
}

#[derive(Debug)]
enum TrackingState {
    Ready(Result<Tracked, Error>),
    Waiting { answer: oneshot::Receiver<Result<Tracked, Error>>, id: RequestId, caller: Caller, inbox: Inbox },
    Answered,
}

impl Future for Tracking {
    type Output = Result<Tracked, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let tracked = match &mut self.state {
            TrackingState::Ready(_) | TrackingState::Answered => {
                match mem::replace(&mut self.state, TrackingState::Answered) {
                    TrackingState::Ready(tracked) => tracked,
                    // As a future that was polled after its end may.
                    _ => Err(Error::invalid("the answer was taken already")),
                }
            }
            TrackingState::Waiting { answer, inbox, .. } => match Pin::new(answer).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Ok(Tracked::Init(permit)))) => Ok(Tracked::Init(Permit::delivered(permit))),
                Poll::Ready(Ok(answer)) => answer,
                Poll::Ready(Err(_)) => Err(inbox.closed()),
            },
        };
        self.state = TrackingState::Answered;
        let outcome = tracked.as_ref().map_or_else(Error::outcome, Tracked::outcome);
        self.span.record("outcome", outcome);
        self.span.in_scope(|| match &tracked {
            Ok(_) => tracing::debug!(outcome, "answered"),
            Err(error) => tracing::debug!(outcome, %error, "answered"),
        });
        Poll::Ready(tracked)
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        if let TrackingState::Waiting { id, caller, inbox, .. } = &self.state {
            let (id, caller) = (*id, *caller);
            inbox.push(Input::Gone { id, caller });
        }
    }
}
