use async_trait::async_trait;
use futures_util::{future::join_all, stream::BoxStream};
use idempotency_core::{
    Capabilities, Change, Claim, Cursor, Durability, Inserted, Page, Pruned, Record, RequestId, Restored,
    Setup, Store, StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};
use time::OffsetDateTime;

/// A new store in front of the old one: what is missing in the new one is moved there first, then decided.
///
/// ```
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_tracker::{ReadThrough, Tracker};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let (new, old) = (MemoryStore::new(), MemoryStore::new());
/// let tracker = Tracker::builder(ReadThrough::new(new, old)).spawn().await.unwrap();
/// // The same: `Tracker::builder(new).read_through(old)`.
/// # });
/// ```
///
/// For a move that must not wait for a copy: every record goes over when it is asked for, or expires where it is. Until
/// the last one has expired, a restart must use both. A claim costs a look into each store more.
///
/// A call that fails half way is repeated by owner like any other.
#[derive(Debug)]
pub struct ReadThrough<N, O> {
    new: N,
    old: O,
}

impl<N: Store, O: Store> ReadThrough<N, O> {
    /// `new` must be able to be restored to.
    pub fn new(new: N, old: O) -> Self {
        Self { new, old }
    }

    /// Brings what the old store has of this id into the new one. In this order, so that it is never in neither.
    async fn fetch(&self, id: &RequestId, now: OffsetDateTime) -> Result<bool, StoreError> {
        let Some(record) = self.old.lookup(id, now).await? else { return Ok(false) };
        if let Restored::Exists(_) = self.new.restore(id, &record, now).await? {
            // Somebody was faster, or the new one knows better.
            return Ok(true);
        }
        self.old.update(&record.removal(*id), now).await?;
        Ok(true)
    }
}

/// Which of the two a page is from.
const NEW: u8 = 0;
const OLD: u8 = 1;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<N: Store, O: Store> Store for ReadThrough<N, O> {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        if !self.new.capabilities().restore {
            let message = "nothing can be moved to a store that cannot be restored to";
            return Err(StoreError::new(StoreErrorKind::Misconfigured, message).not_applied());
        }
        self.old.setup(setup).await?;
        self.new.setup(setup).await
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        // Only reads: an operator's look moves nothing.
        match self.new.lookup(id, now).await? {
            Some(record) => Ok(Some(record)),
            None => self.old.lookup(id, now).await,
        }
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        if self.new.lookup(&claim.id, now).await?.is_none() {
            self.fetch(&claim.id, now).await?;
        }
        self.new.insert(claim, now).await
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        let mut updated = self.new.update(update, now).await?;
        if updated == Updated::NotFound && self.fetch(&update.id, now).await? {
            updated = self.new.update(update, now).await?;
        }
        if updated == Updated::Applied && matches!(update.change, Change::Release | Change::Forget) {
            // A copy that a crash left behind would come back to life.
            self.old.update(update, now).await?;
        }
        Ok(updated)
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        let new = self.new.prune(now, limit).await?;
        let old = self.old.prune(now, limit - new.deleted.min(limit)).await?;
        Ok(Pruned { deleted: new.deleted + old.deleted, more: new.more || old.more })
    }

    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        // One after the other for each id; a batch of the tracker has each id once.
        let mut replies = Vec::with_capacity(batch.len());
        let distinct = {
            let mut ids: Vec<_> = batch.iter().filter_map(StoreCommand::id).collect();
            let count = ids.len();
            ids.sort_unstable();
            ids.dedup();
            ids.len() == count
        };
        if distinct {
            return join_all(batch.iter().map(|command| command.call(self, now))).await;
        }
        for command in batch {
            replies.push(command.call(self, now).await);
        }
        replies
    }

    /// First the new one, then what is still in the old one.
    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let (from, inner) = match &cursor {
            None => (NEW, None),
            Some(cursor) => match cursor.as_bytes().split_first() {
                Some((&from @ (NEW | OLD), [])) => (from, None),
                Some((&from @ (NEW | OLD), inner)) => (from, Some(Cursor::new(inner.to_vec()))),
                _ => {
                    let error = StoreError::new(StoreErrorKind::Invalid, "not a cursor of this store");
                    return Err(error.not_applied());
                }
            },
        };
        let mut page = match from {
            NEW => self.new.scan(inner, limit).await?,
            _ => self.old.scan(inner, limit).await?,
        };
        page.next = match page.next {
            Some(next) => Some(Cursor::new([&[from], &next.as_bytes()[..]].concat())),
            None if from == NEW => Some(Cursor::new(vec![OLD])),
            None => None,
        };
        Ok(page)
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        if self.new.lookup(id, now).await?.is_none() {
            self.fetch(id, now).await?;
        }
        self.new.restore(id, record, now).await
    }

    async fn watch(&self, _: &RequestId, _: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        Err(StoreError::new(StoreErrorKind::Unsupported, "two stores have no push").not_applied())
    }

    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        None
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.old.retire(to).await?;
        self.new.retire(to).await
    }

    /// What both can do.
    fn capabilities(&self) -> Capabilities {
        let (new, old) = (self.new.capabilities(), self.old.capabilities());
        let mut both = Capabilities::default();
        both.durability = Durability::new(
            new.durability.local.min(old.durability.local),
            new.durability.replicas.min(old.durability.replicas),
        );
        both.shared = new.shared || old.shared;
        both.batches = match (new.batches, old.batches) {
            (0, _) | (_, 0) => 0,
            (new, old) => new.max(old),
        };
        both.immediate = new.immediate && old.immediate;
        both.native_expiry = new.native_expiry && old.native_expiry;
        both.scan = new.scan && old.scan;
        both.restore = new.restore;
        both
    }

    async fn close(&self) -> Result<(), StoreError> {
        let new = self.new.close().await;
        self.old.close().await?;
        new
    }
}
