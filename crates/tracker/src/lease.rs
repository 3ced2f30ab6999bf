use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use idempotency_core::Clock;
use idempotency_engine::Moment;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// Watches whether a claim still stands. Cheap to clone; made by [`Permit::lease`](crate::Permit::lease).
///
/// ```
/// # use idempotency_tracker::Lease;
/// # async fn transfer() {}
/// async fn work(lease: Lease) -> Result<(), &'static str> {
///     // ... prepare ...
///     if !lease.is_held() {
///         return Err("somebody else may be at it by now");
///     }
///     transfer().await; // the irreversible step
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Lease(Arc<State>);

struct State {
    clock: Arc<dyn Clock>,
    /// Nanoseconds since 1970 by `clock`.
    held_until: AtomicI64,
    lost: AtomicBool,
    notify: Notify,
}

impl Lease {
    pub(crate) fn new(clock: Arc<dyn Clock>, held_until: Moment) -> Self {
        Self(Arc::new(State {
            clock,
            held_until: AtomicI64::new(held_until.nanos()),
            lost: AtomicBool::new(false),
            notify: Notify::new(),
        }))
    }

    /// Whether nobody else can have taken the claim over: the lease has not run out, counted from the moment the
    /// last successful renewal was *sent*, a tenth of it early.
    ///
    /// After an outage it may turn true again: the claim was renewed before anybody took it over.
    pub fn is_held(&self) -> bool {
        Moment::from(self.0.clock.now()).nanos() < self.0.held_until.load(Ordering::Acquire)
    }

    /// Resolves when the lease could not be kept for once, or somebody else has the claim. Never, as long as all
    /// goes well, also after the claim was settled.
    ///
    /// Cancel safe.
    pub async fn lost(&self) {
        loop {
            let notified = self.0.notify.notified();
            if self.0.lost.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }

    /// By the clock that the lease is kept by.
    pub(crate) fn now(&self) -> OffsetDateTime {
        self.0.clock.now()
    }

    /// As far as is known.
    pub(crate) fn held_until(&self) -> Moment {
        Moment::from_nanos(self.0.held_until.load(Ordering::Acquire))
    }

    pub(crate) fn keep(&self, until: Moment) {
        self.0.held_until.store(until.nanos(), Ordering::Release);
    }

    pub(crate) fn lose(&self) {
        self.0.held_until.store(i64::MIN, Ordering::Release);
        self.0.lost.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("is_held", &self.is_held()).finish()
    }
}
