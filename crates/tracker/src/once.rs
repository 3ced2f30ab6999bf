use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use idempotency_core::{Fingerprint, HaltReason, Meta, RequestId, StoredResponse};
use time::OffsetDateTime;
use tokio::task::{JoinHandle, spawn_local};
use tracing::Instrument;

use crate::{Error, Lease, Permit, Settled, Track, Tracked, TrackerHandle};

/// What the work of [`once`](TrackerHandle::once) says became of it.
///
/// ```
/// use idempotency_tracker::Outcome;
/// # enum ChargeError { Refused, ConnectionLost }
///
/// fn outcome(charged: Result<&'static str, ChargeError>) -> Outcome<ChargeError> {
///     match charged {
///         Ok(body) => Outcome::done(body),
///         Err(refused @ ChargeError::Refused) => Outcome::NotDone(refused),
///         Err(lost @ ChargeError::ConnectionLost) => Outcome::Unknown(lost),
///     }
/// }
/// ```
///
/// It is no `Result`, so that a `?` cannot decide by accident what becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome<E> {
    /// The work was done; this is what every retry gets. A refusal is a result too.
    Done(StoredResponse),
    /// Nothing was done: the key is released, and the retry runs.
    NotDone(E),
    /// Nobody knows: the key is halted, and no retry runs.
    Unknown(E),
    /// The same, with the reason that retries hear. One that says that the caller is gone is taken as `Unknown`, see
    /// [`Permit::halt`].
    Halted(HaltReason, E),
}

impl<E> Outcome<E> {
    /// `Done` with these bytes.
    pub fn done(response: impl Into<StoredResponse>) -> Self {
        Self::Done(response.into())
    }
}

/// How [`once`](TrackerHandle::once) ended.
///
/// ```
/// use idempotency_tracker::Once;
///
/// fn status<E>(once: &Once<E>) -> u16 {
///     match once {
///         Once::Done { .. } => 201,
///         Once::Processing { .. } | Once::Halted { .. } => 409,
///         Once::Mismatch { .. } => 422,
///         Once::NotDone(_) => 503,
///         _ => 500,
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Once<E> {
    /// The work was done, now or before.
    Done {
        /// What it answered.
        response: StoredResponse,
        /// Whether it was done before: a replay.
        replayed: bool,
        /// Until when it is kept; `None` if it was done now and is not stored, or not yet.
        expires_at: Option<OffsetDateTime>,
        /// What the claim of the work kept with it, such as the trace of the request that did it.
        meta: Meta,
    },
    /// Somebody works on it.
    Processing {
        /// Since when, if that is known.
        since: Option<OffsetDateTime>,
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// Whether the work was done is not known; it will not be done again.
    Halted {
        /// Why.
        reason: HaltReason,
        /// Until when that is kept, if it was read from a record.
        expires_at: Option<OffsetDateTime>,
    },
    /// The same id stands for another payload.
    Mismatch {
        /// Until when.
        expires_at: OffsetDateTime,
        /// What its claim kept with it.
        meta: Meta,
    },
    /// The work said that nothing was done.
    NotDone(E),
    /// The work said that it does not know, or that it is halted.
    Unknown(E),
    /// The work panicked just now. Every retry hears `Halted(Panicked)`.
    Panicked,
}

impl<E> Once<E> {
    /// One word for logs and metrics labels.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Done { replayed: false, .. } => "done",
            Self::Done { replayed: true, .. } => "replayed",
            Self::Processing { .. } => "processing",
            Self::Halted { .. } => "halted",
            Self::Mismatch { .. } => "mismatch",
            Self::NotDone(_) => "not_done",
            Self::Unknown(_) => "unknown",
            Self::Panicked => "panicked",
        }
    }
}

impl TrackerHandle {
    /// Does the work once, however often it is asked for.
    ///
    /// ```
    /// use idempotency_core::Scope;
    /// use idempotency_store_memory::MemoryStore;
    /// use idempotency_tracker::{Once, Outcome, Tracker};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
    /// let id = tracker.request_id(&Scope::global(), [&b"key-1"[..]]);
    /// let payload = tracker.fingerprint([&b"amount=10"[..]]);
    ///
    /// for replayed in [false, true] {
    ///     let once = tracker.once(id, payload, || async { Outcome::<()>::done("201 Created") }).await.unwrap();
    ///     let Once::Done { response, replayed: again, .. } = once else { panic!("{once:?}") };
    ///     assert_eq!((response, again), ("201 Created".into(), replayed));
    /// }
    /// # });
    /// ```
    ///
    /// The work runs in a task of its own on the application's runtime: a caller who goes away does not stop it.
    /// A panic in it is caught and halts the request. If the store does not take the response within `put_patience`
    /// the response is answered all the same and stored in the background.
    ///
    /// Cancel safe: dropped before the work has begun nothing was done; dropped later the work goes on.
    ///
    /// # Errors
    ///
    /// `Overloaded`, `ShuttingDown`, `Unavailable`, `Invalid`: nothing was done. After the work there is no error.
    pub async fn once<F, Fut, E>(
        &self,
        id: RequestId,
        fingerprint: Fingerprint,
        work: F,
    ) -> Result<Once<E>, Error>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Outcome<E>> + Send + 'static,
        E: Send + 'static,
    {
        self.once_with(Track::new(id, fingerprint), move |_| work()).await
    }

    /// [`once`](Self::once) with all that a [`Track`] can say, and work that can watch its lease. Cancel safe likewise.
    ///
    /// # Errors
    ///
    /// As in [`once`](Self::once).
    pub async fn once_with<F, Fut, E>(&self, track: impl Into<Track>, work: F) -> Result<Once<E>, Error>
    where
        F: FnOnce(Lease) -> Fut + Send + 'static,
        Fut: Future<Output = Outcome<E>> + Send + 'static,
        E: Send + 'static,
    {
        let (runtime, track) = (self.runtime(), track.into());
        let meta = track.meta.clone();
        match self.track(track).await? {
            Tracked::Init(permit) => {
                Ok(joined(runtime.spawn(run(permit, meta, work).in_current_span())).await)
            }
            tracked => Ok(answered(tracked)),
        }
    }

    /// [`once`](Self::once) for work that is not `Send`, such as the handlers of actix-web: it runs on the thread
    /// that asks. Cancel safe likewise.
    ///
    /// # Errors
    ///
    /// As in [`once`](Self::once).
    ///
    /// # Panics
    ///
    /// Outside a `LocalSet`. An actix-web handler is inside one.
    pub async fn once_local<F, Fut, E>(&self, track: impl Into<Track>, work: F) -> Result<Once<E>, Error>
    where
        F: FnOnce(Lease) -> Fut + 'static,
        Fut: Future<Output = Outcome<E>> + 'static,
        E: 'static,
    {
        let track = track.into();
        let meta = track.meta.clone();
        match self.track(track).await? {
            Tracked::Init(permit) => Ok(joined(spawn_local(run(permit, meta, work).in_current_span())).await),
            tracked => Ok(answered(tracked)),
        }
    }
}

/// Works under a permit, and says how it ended.
async fn run<F, Fut, E>(permit: Permit, meta: Meta, work: F) -> Once<E>
where
    F: FnOnce(Lease) -> Fut,
    Fut: Future<Output = Outcome<E>>,
{
    let lease = permit.lease();
    let id = permit.id();
    // The panic's message has gone to the panic hook; the payload is not ours to show.
    let outcome = AssertUnwindSafe(async { work(lease).await }).catch_unwind().await;
    let expires_at = permit.expires_at();
    let (settling, mut once) = match outcome {
        Ok(Outcome::Done(response)) => {
            let done = Once::Done { response: response.clone(), replayed: false, expires_at: None, meta };
            (permit.complete(response), done)
        }
        Ok(Outcome::NotDone(error)) => (permit.release(), Once::NotDone(error)),
        Ok(Outcome::Unknown(error)) => (permit.halt(HaltReason::Unknown), Once::Unknown(error)),
        Ok(Outcome::Halted(reason, error)) => (permit.halt(reason), Once::Unknown(error)),
        Err(_) => (permit.halt(HaltReason::Panicked), Once::Panicked),
    };
    match settling.await {
        Ok(Settled::Stored) => {
            if let Once::Done { expires_at: stored_until, .. } = &mut once {
                *stored_until = Some(expires_at);
            }
        }
        Ok(Settled::Deferred) => tracing::warn!(%id, "the result is stored later: the store does not answer"),
        Ok(settled) => tracing::error!(%id, ?settled, "the work was done, and its result was not stored"),
        Err(error) => {
            tracing::error!(%id, %error, "the work was done, and whether its result was stored is unknown")
        }
    }
    once
}

fn answered<E>(tracked: Tracked) -> Once<E> {
    match tracked {
        Tracked::Init(_) => unreachable!("the caller works under the permit"),
        Tracked::Processing { since, retry_after } => Once::Processing { since, retry_after },
        Tracked::Cached { response, expires_at, meta } => {
            Once::Done { response, replayed: true, expires_at: Some(expires_at), meta }
        }
        Tracked::Halted { reason, expires_at } => Once::Halted { reason, expires_at: Some(expires_at) },
        Tracked::Mismatch { expires_at, meta } => Once::Mismatch { expires_at, meta },
    }
}

async fn joined<E>(work: JoinHandle<Once<E>>) -> Once<E> {
    match work.await {
        Ok(once) => once,
        // Panics of the work are caught inside, so this is one in dropping it; its permit saw to the record.
        Err(error) if error.is_panic() => Once::Panicked,
        // The runtime is shutting down, and so is its permit gone.
        Err(_) => Once::Halted { reason: HaltReason::Cancelled, expires_at: None },
    }
}
