use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use idempotency::{
    MemoryStore, RequestId,
    store::{
        Capabilities, Claim, Inserted, Pruned, Record, Setup, Store, StoreError, StoreErrorKind, Update,
        Updated,
    },
};
use time::OffsetDateTime;
use tokio::sync::{Mutex, MutexGuard};

/// The store in memory, which can be taken away.
#[derive(Debug, Default)]
pub(crate) struct Breakable {
    inner: MemoryStore,
    down: AtomicBool,
    corrupt: AtomicBool,
    calls: AtomicUsize,
    /// Updates wait here while it is locked.
    hold: Mutex<()>,
}

impl Breakable {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub(crate) fn down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// It answers, and what it has cannot be read.
    pub(crate) fn corrupt(&self, corrupt: bool) {
        self.corrupt.store(corrupt, Ordering::SeqCst);
    }

    /// No update is done as long as the guard lives.
    pub(crate) async fn hold_updates(&self) -> MutexGuard<'_, ()> {
        self.hold.lock().await
    }

    /// How often it was asked anything.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn records(&self) -> usize {
        self.inner.len()
    }

    fn up(&self) -> Result<&MemoryStore, StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.corrupt.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Corrupt, "rubbish").not_applied());
        }
        match self.down.load(Ordering::SeqCst) {
            true => Err(StoreError::new(StoreErrorKind::Unavailable, "secret-host:6379 is gone")),
            false => Ok(&self.inner),
        }
    }
}

#[async_trait]
impl Store for Breakable {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.up()?.setup(setup).await
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.up()?.lookup(id, now).await
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.up()?.insert(claim, now).await
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        drop(self.hold.lock().await);
        self.up()?.update(update, now).await
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.up()?.prune(now, limit).await
    }

    /// Not `immediate`: it may have to wait.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}
