use std::fmt;

use actix::{MailboxError, Recipient};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use idempotency_core::{
    Capabilities, Claim, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored, Setup, Store,
    StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};
use time::OffsetDateTime;

use crate::StoreBatch;

/// A backend actor as a [`Store`], so that whatever takes a store takes an actor: the builder, a wrapper, the
/// conformance suite.
///
/// ```
/// use actix::Recipient;
/// use idempotency_core::Capabilities;
/// use idempotency_tracker::{ActorStore, Error, StoreBatch, Tracker, TrackerHandle};
///
/// async fn spawn_on(backend: Recipient<StoreBatch>) -> Result<TrackerHandle, Error> {
///     let mut capabilities = Capabilities::default();
///     capabilities.batches = 2;
///     Tracker::builder(ActorStore::new(backend, capabilities)).spawn().await
/// }
/// ```
///
/// A foreign actor has no push. It is not restarted by anybody but whoever started it: when it is gone every call fails
/// as `Unavailable`.
pub struct ActorStore {
    backend: Recipient<StoreBatch>,
    capabilities: Capabilities,
}

impl ActorStore {
    /// Speaks to this actor, of which the capabilities say what it can do.
    pub fn new(backend: Recipient<StoreBatch>, mut capabilities: Capabilities) -> Self {
        capabilities.push = false;
        // It lives on another thread, so it never answers at once.
        capabilities.immediate = false;
        Self { backend, capabilities }
    }

    async fn send(
        &self,
        commands: Vec<StoreCommand>,
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        let count = commands.len();
        let error = match self.backend.send(StoreBatch { commands, now }).await {
            Ok(replies) if replies.len() == count => return replies.into_iter().collect(),
            Ok(replies) => {
                let message = format!("the backend gave {} answers to {count} commands", replies.len());
                StoreError::new(StoreErrorKind::Other, message)
            }
            // Nobody knows whether it ran.
            Err(MailboxError::Closed | MailboxError::Timeout) => {
                StoreError::new(StoreErrorKind::Unavailable, "the backend actor died")
            }
        };
        (0..count).map(|_| Err(error.clone())).collect()
    }

    async fn one(&self, command: StoreCommand, now: OffsetDateTime) -> Result<StoreReply, StoreError> {
        let mut replies = self.send(vec![command], now).await;
        replies
            .pop()
            .unwrap_or_else(|| Err(StoreError::new(StoreErrorKind::Other, "the backend did not answer")))
    }
}

/// For commands that no time matters to.
const NO_TIME: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for ActorStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.one(StoreCommand::Setup(setup.clone()), setup.now).await.map(drop)
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.one(StoreCommand::Lookup(*id), now).await?.found()
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.one(StoreCommand::Insert(claim.clone().into()), now).await?.inserted()
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.one(StoreCommand::Update(update.clone().into()), now).await?.updated()
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.one(StoreCommand::Prune { limit }, now).await?.pruned()
    }

    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        self.send(batch.to_vec(), now).await
    }

    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.one(StoreCommand::Scan { cursor, limit }, NO_TIME).await?.page()
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.one(StoreCommand::Restore { id: *id, record: record.clone().into() }, now).await?.restored()
    }

    async fn watch(&self, _: &RequestId, _: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        Err(StoreError::new(StoreErrorKind::Unsupported, "a backend actor has no push").not_applied())
    }

    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        None
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.one(StoreCommand::Retire { to: to.to_owned() }, NO_TIME).await.map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.one(StoreCommand::Close, NO_TIME).await.map(drop)
    }
}

impl fmt::Debug for ActorStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorStore").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}
