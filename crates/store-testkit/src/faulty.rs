use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use idempotency_core::{
    Capabilities, Claim, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored, Setup, Store,
    StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;

/// What goes wrong with a call.
///
/// ```
/// use idempotency_store_testkit::Fault;
///
/// assert!(Fault::FailAfter.is_after_the_write());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// An error, and nothing was done.
    FailBefore,
    /// An error, and it was done.
    FailAfter,
    /// It takes longer, then it is done.
    DelayBefore,
    /// It is done, and the answer takes longer.
    DelayAfter,
    /// A panic, and nothing was done.
    PanicBefore,
    /// A panic, and it was done.
    PanicAfter,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FailBefore,
        Self::FailAfter,
        Self::DelayBefore,
        Self::DelayAfter,
        Self::PanicBefore,
        Self::PanicAfter,
    ];

    /// Whether the call was done all the same.
    pub fn is_after_the_write(self) -> bool {
        matches!(self, Self::FailAfter | Self::DelayAfter | Self::PanicAfter)
    }
}

/// Which calls go wrong, by a seed: the same seed and the same calls give the same faults.
///
/// ```
/// use idempotency_store_testkit::{Fault, FaultPlan};
/// use std::time::Duration;
///
/// // A tenth of all calls fails, before the write or after it; none at `setup`.
/// let plan = FaultPlan::new(42).rate(0.1).faults([Fault::FailBefore, Fault::FailAfter]);
/// ```
#[derive(Debug, Clone)]
pub struct FaultPlan {
    seed: u64,
    rate: f64,
    delay: Duration,
    faults: Vec<Fault>,
}

impl FaultPlan {
    /// A tenth of all calls, every kind of fault, delays of 10 ms.
    pub fn new(seed: u64) -> Self {
        Self { seed, rate: 0.1, delay: Duration::from_millis(10), faults: Fault::ALL.into() }
    }

    /// How many of all calls go wrong: 0 to 1.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = if rate.is_nan() { 0.0 } else { rate.clamp(0.0, 1.0) };
        self
    }

    /// How long a delay is.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Only these.
    #[must_use]
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults = faults.into_iter().collect();
        self
    }
}

/// A store that fails by a plan. `setup` and `close` always work.
///
/// ```
/// use idempotency_core::{Claim, Fingerprint, Owner, RequestId, Store};
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::{Fault, FaultPlan, FaultyStore};
/// use time::OffsetDateTime;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let plan = FaultPlan::new(1).rate(1.0).faults([Fault::FailAfter]);
/// let store = FaultyStore::new(MemoryStore::new(), plan);
/// let id = RequestId::from_bytes([1; 32]);
/// let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, []));
/// assert!(store.insert(&claim, OffsetDateTime::UNIX_EPOCH).await.is_err());
/// // It was done all the same: a lost reply.
/// assert_eq!(store.inner().len(), 1);
/// assert_eq!(store.faults(), 1);
/// # });
/// ```
///
/// In a batch each command has a fault of its own, and a panic is one of the whole batch.
#[derive(Debug)]
pub struct FaultyStore<S> {
    inner: S,
    plan: FaultPlan,
    random: Mutex<StdRng>,
    faults: AtomicU64,
}

impl<S> FaultyStore<S> {
    /// Fails by the plan.
    pub fn new(inner: S, plan: FaultPlan) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(plan.seed));
        Self { inner, plan, random, faults: AtomicU64::new(0) }
    }

    /// The store that does the work.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How many calls have gone wrong.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    fn fault(&self) -> Option<Fault> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if self.plan.faults.is_empty() || !random.random_bool(self.plan.rate) {
            return None;
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        Some(self.plan.faults[random.random_range(0..self.plan.faults.len())])
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = self.fault();
        self.before(fault).await?;
        let answer = call.await;
        self.after(fault).await?;
        answer
    }

    async fn before(&self, fault: Option<Fault>) -> Result<(), StoreError> {
        match fault {
            Some(Fault::FailBefore) => Err(planned().not_applied()),
            Some(Fault::PanicBefore) => panic!("a planned panic before the write"),
            Some(Fault::DelayBefore) => {
                tokio::time::sleep(self.plan.delay).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn after(&self, fault: Option<Fault>) -> Result<(), StoreError> {
        match fault {
            Some(Fault::FailAfter) => Err(planned()),
            Some(Fault::PanicAfter) => panic!("a planned panic after the write"),
            Some(Fault::DelayAfter) => {
                tokio::time::sleep(self.plan.delay).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn planned() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "a planned fault")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for FaultyStore<S> {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.inner.setup(setup).await
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.call(self.inner.lookup(id, now)).await
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.call(self.inner.insert(claim, now)).await
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.call(self.inner.update(update, now)).await
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.call(self.inner.prune(now, limit)).await
    }

    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        let faults: Vec<Option<Fault>> = batch.iter().map(|_| self.fault()).collect();
        let (mut sent, mut refused) = (Vec::new(), Vec::new());
        for (command, fault) in batch.iter().zip(&faults) {
            let before = self.before(*fault).await;
            if before.is_ok() {
                sent.push(command.clone());
            }
            refused.push(before.err());
        }
        let mut answers = self.inner.apply(&sent, now).await.into_iter();
        let mut replies = Vec::with_capacity(batch.len());
        for (refused, fault) in refused.into_iter().zip(faults) {
            replies.push(match refused {
                Some(error) => Err(error),
                None => {
                    let answer = answers.next().unwrap_or_else(|| Err(planned()));
                    match self.after(fault).await {
                        Ok(()) => answer,
                        Err(error) => Err(error),
                    }
                }
            });
        }
        replies
    }

    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.call(self.inner.scan(cursor, limit)).await
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.call(self.inner.restore(id, record, now)).await
    }

    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.call(self.inner.watch(id, now)).await
    }

    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        self.inner.settled()
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.call(self.inner.retire(to)).await
    }

    /// Not `immediate`: a delayed call has to be waited for.
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.immediate = false;
        capabilities
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}
