use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use idempotency_core::{
    Capabilities, Claim, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored, Setup, Store,
    StoreCommand, StoreError, StoreReply, Update, Updated,
};
use time::OffsetDateTime;

use crate::{MemoryConfig, records::Records};

/// The store of records in memory; see the [crate](crate).
///
/// ```
/// use idempotency_core::{Store, Survives};
/// use idempotency_store_memory::MemoryStore;
///
/// let store = MemoryStore::new();
/// assert!(store.capabilities().immediate);
/// assert_eq!(store.capabilities().durability.local, Survives::Memory);
/// ```
///
/// `insert` fails with [`Full`](idempotency_core::StoreErrorKind::Full) when the budget is used up; `update` never
/// does. Every call completes at once, so none can be cancelled half way. Several trackers of one process may share
/// it behind an `Arc`.
#[derive(Debug)]
pub struct MemoryStore(Mutex<Records>);

impl MemoryStore {
    /// An empty store with the default budget of 256 MiB.
    pub fn new() -> Self {
        Self::with_config(MemoryConfig::new())
    }

    /// An empty store.
    pub fn with_config(config: MemoryConfig) -> Self {
        Self(Mutex::new(Records::new(config)))
    }

    /// How many bytes of the budget are in use.
    pub fn used(&self) -> usize {
        self.records().used()
    }

    /// How many records it holds, expired ones included until they are pruned.
    pub fn len(&self) -> usize {
        self.records().len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No step in the lock can panic half way through a change, so a poisoned lock still guards whole records.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.records().setup(setup)
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        Ok(self.records().lookup(id, now))
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.records().insert(claim, now)
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        Ok(self.records().update(update, now))
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        Ok(self.records().prune(now, limit))
    }

    /// The whole batch under one lock.
    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        let mut records = self.records();
        batch.iter().map(|command| records.apply(command, now)).collect()
    }

    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.records().scan(cursor.as_ref(), limit)
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.records().restore(id, record, now)
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.records().retire(to);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.batches = 1;
        capabilities.immediate = true;
        capabilities.scan = true;
        capabilities.restore = true;
        capabilities
    }
}
