use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use idempotency_core::{HaltReason, Meta, RequestId, StoredResponse};
use idempotency_engine as engine;
use tokio::time::timeout;

use crate::Permit;

/// What a `Track` does where the earlier caller is gone and nobody knows whether its work was done.
///
/// ```
/// use idempotency_tracker::{OnOrphan, Resolution};
/// # async fn find_charge(_: &[u8]) -> Option<&'static str> { None }
///
/// // At least once, at most once, or: ask whoever may know.
/// let policies = [OnOrphan::Rerun, OnOrphan::Halt, OnOrphan::resolve(|orphan| async move {
///     match find_charge(orphan.meta.as_bytes()).await {
///         Some(receipt) => Resolution::completed(receipt),
///         None => Resolution::Released,
///     }
/// })];
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum OnOrphan {
    /// At most once: say that the outcome is unknown.
    #[default]
    Halt,
    /// At least once: take the claim over and work again.
    Rerun,
    /// Take the claim over and ask the outside world, once on all nodes. The caller waits for what it leads to.
    Resolve(Resolver),
}

impl OnOrphan {
    /// [`Resolve`](Self::Resolve) with this function.
    pub fn resolve<F, Fut>(ask: F) -> Self
    where
        F: Fn(Orphan) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Resolution> + Send + 'static,
    {
        Self::Resolve(Resolver(Arc::new(move |orphan| ask(orphan).boxed())))
    }

    pub(crate) fn split(self) -> (engine::OnOrphan, Option<Resolver>) {
        match self {
            Self::Halt => (engine::OnOrphan::Halt, None),
            Self::Rerun => (engine::OnOrphan::Rerun, None),
            Self::Resolve(resolver) => (engine::OnOrphan::Resolve, Some(resolver)),
        }
    }
}

/// A request whose caller is gone, as a resolver sees it.
///
/// ```
/// fn order_of(orphan: &idempotency_tracker::Orphan) -> Option<&str> {
///     std::str::from_utf8(orphan.meta.as_bytes()).ok()
/// }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Orphan {
    /// The request.
    pub id: RequestId,
    /// What its claim kept for this moment.
    pub meta: Meta,
}

/// What became of an orphan's work.
///
/// ```
/// use idempotency_tracker::Resolution;
///
/// let found = Resolution::completed("201 Created");
/// assert!(matches!(found, Resolution::Completed(_)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resolution {
    /// It was done; this is what every retry gets.
    Completed(StoredResponse),
    /// Nothing was done: the retry runs.
    Released,
    /// Nobody knows, still. Only an operator settles it then.
    Unknown,
}

impl Resolution {
    /// `Completed` with these bytes.
    pub fn completed(response: impl Into<StoredResponse>) -> Self {
        Self::Completed(response.into())
    }

    pub(crate) fn settle(self, permit: Permit) -> crate::Settling {
        match self {
            Self::Completed(response) => permit.complete(response),
            Self::Released => permit.release(),
            Self::Unknown => permit.halt(HaltReason::Unresolved),
        }
    }
}

/// Asks the outside world what became of an orphan. Made by [`OnOrphan::resolve`].
///
/// ```
/// use idempotency_tracker::{OnOrphan, Resolution};
///
/// let OnOrphan::Resolve(resolver) = OnOrphan::resolve(|_| async { Resolution::Unknown }) else { panic!() };
/// assert_eq!(format!("{resolver:?}"), "Resolver");
/// ```
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(Orphan) -> BoxFuture<'static, Resolution> + Send + Sync>);

impl Resolver {
    /// Asks, within this time, and settles. A panic or no answer in time leaves it unknown.
    pub(crate) async fn run(self, permit: Permit, meta: Meta, limit: Duration) {
        let id = permit.id();
        let asked = AssertUnwindSafe(async { (self.0)(Orphan { id, meta }).await }).catch_unwind();
        let resolution = match timeout(limit, asked).await {
            Ok(Ok(resolution)) => resolution,
            Ok(Err(_)) => {
                tracing::error!(%id, "the resolver of an orphan panicked");
                Resolution::Unknown
            }
            Err(_) => {
                tracing::error!(%id, ?limit, "the resolver of an orphan gave no answer in time");
                Resolution::Unknown
            }
        };
        // Handed over at the call; nobody here waits until it is stored.
        drop(resolution.settle(permit));
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
