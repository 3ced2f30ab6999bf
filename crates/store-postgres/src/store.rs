use std::{fmt, sync::Arc};

use async_trait::async_trait;
use deadpool_postgres::Object;
use futures_core::stream::BoxStream;
use idempotency_core::{
    CallersClock, Capabilities, Claim, Clock, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored,
    Setup, Store, StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};
use time::OffsetDateTime;
use tokio_postgres::types::Type;

use crate::{
    Outbox, PostgresConfig,
    batch::{self, unanswered},
    claims,
    error::store_error,
    pool::Connections,
    push::Push,
    quiet::Quiet,
    rows, schema,
    sends::query,
    statements::Statements,
    updates,
};

/// The store in PostgreSQL, which many nodes share; see the [crate](crate).
///
/// ```no_run
/// use idempotency_store_postgres::{PostgresConfig, PostgresStore};
///
/// # async fn open() {
/// let config = PostgresConfig::new("postgres://payments@127.0.0.1/payments").schema("billing");
/// let store = PostgresStore::open(config).unwrap();
/// # }
/// ```
///
/// Behind PgBouncer only in its session mode: connections have settings, and one of them listens.
///
/// Clones share connections. A call that is given up is carried out to its end on a task of its own; it is repeated by owner.
#[derive(Clone)]
pub struct PostgresStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: PostgresConfig,
    pub(crate) statements: Arc<Statements>,
    pub(crate) steps: Connections,
    pub(crate) transactions: Connections,
    push: Push,
    pub(crate) callers: CallersClock,
}

impl PostgresStore {
    /// Connects when it is first used.
    ///
    /// # Errors
    ///
    /// `Misconfigured`: the URL or a name makes no sense, or leads to another machine without encryption.
    pub fn open(config: impl Into<PostgresConfig>) -> Result<Self, StoreError> {
        let config = config.into();
        let inner = Inner {
            statements: Statements::new(&config).into(),
            steps: Connections::for_steps(&config)?,
            transactions: Connections::for_transactions(&config)?,
            push: Push::new(),
            callers: CallersClock::new(),
            config,
        };
        Ok(Self { inner: inner.into() })
    }

    /// Makes and changes the tables. `setup` does it, too, unless [`PostgresConfig::migrates`] says that it does not: then
    /// somebody with the right to create tables calls this before. Nodes that call it at once take turns.
    ///
    /// # Errors
    ///
    /// `Misconfigured`: the tables are of a later major version, or the user may not create them.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.inner.transactions.get(self.inner.transactions.deadline()).await?;
        schema::migrate(&mut connection, &self.inner.config, &self.inner.statements).await
    }

    /// Messages that are written in the same transaction as what they tell of.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(self.inner.clone())
    }

    /// The check value of the secret, and where the records moved to.
    async fn said(&self, check: &[u8]) -> Result<(Vec<u8>, Option<String>), StoreError> {
        let note =
            self.inner.statements.named("INSERT INTO {about} VALUES ('secret', $1) ON CONFLICT DO NOTHING");
        let read = self.inner.statements.named("SELECT value FROM {about} WHERE name = $1");
        let connection = self.inner.steps.get(self.inner.steps.deadline()).await?;
        let value = async |name: &str| -> Result<Option<Vec<u8>>, StoreError> {
            let row = connection.query_opt(&read, &[&name]).await.map_err(store_error)?;
            row.map(|row| row.try_get(0).map_err(store_error)).transpose()
        };
        if value("secret").await?.is_none() {
            connection.execute(&note, &[&Quiet(check)]).await.map_err(store_error)?;
        }
        let secret = value("secret").await?.unwrap_or_default();
        let moved = value("moved").await?.map(|to| String::from_utf8_lossy(&to).into_owned());
        Ok((secret, moved))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        let Inner { config, statements, steps, push, .. } = &*self.inner;
        self.inner.callers.note(setup.now);
        match config.migrates {
            true => self.migrate().await?,
            false => schema::check(&*steps.get(steps.deadline()).await?, statements).await?,
        }
        let check = setup.secret_check.as_bytes();
        let (secret, moved) = self.said(check).await?;
        if let Some(to) = moved {
            let message = format!("the records moved to {to}");
            return Err(StoreError::new(StoreErrorKind::Moved, message).not_applied());
        }
        if secret != check {
            let message = "the store was set up with another secret";
            return Err(StoreError::new(StoreErrorKind::WrongSecret, message).not_applied());
        }
        push.start(config, &statements.channel).await
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.inner.callers.note(now);
        let Inner { statements, steps, .. } = &*self.inner;
        batch::lookup(steps, statements, vec![*id], now).await?.remove(id).transpose()
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        let Inner { statements, steps, callers, .. } = &*self.inner;
        callers.note(now);
        claims::claim(steps, statements, &[claim], now).await.pop().unwrap_or_else(|| Err(unanswered()))
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        let Inner { statements, steps, callers, .. } = &*self.inner;
        callers.note(now);
        updates::update(steps, statements, &[update]).await.pop().unwrap_or_else(|| Err(unanswered()))
    }

    async fn prune(&self, _: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        let (limit, statements) = (i64::try_from(limit).unwrap_or(i64::MAX), &self.inner.statements);
        let deleted = self.inner.steps.step(|connection: Arc<Object>| {
            let statements = statements.clone();
            async move {
                let statement = connection
                    .prepare_typed_cached(&statements.prune, &[Type::INT8])
                    .await
                    .map_err(store_error)?;
                connection.execute(&statement, &[&limit]).await.map_err(store_error)
            }
        });
        let deleted = deleted.await? as usize;
        Ok(Pruned { deleted, more: deleted as i64 == limit && limit > 0 })
    }

    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        self.inner.callers.note(now);
        batch::apply(self, batch, now).await
    }

    /// In the order of the ids.
    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let after = match &cursor {
            None => Vec::new(),
            Some(cursor) if cursor.as_bytes().len() == 32 => cursor.as_bytes().to_vec(),
            Some(_) => {
                return Err(StoreError::new(StoreErrorKind::Invalid, "this is no cursor").not_applied());
            }
        };
        let now = self.inner.callers.now();
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let records = self.inner.steps.step(|connection: Arc<Object>| {
            let (after, statements) = (after.clone(), self.inner.statements.clone());
            async move {
                let types = [Type::BYTEA, Type::INT8];
                let rows = query(&connection, &statements.scan, &types, &[&Quiet(after), &limit]).await?;
                rows.iter().map(|row| Ok((rows::id(row)?, rows::record(row, now)?))).collect()
            }
        });
        let records: Vec<(RequestId, Record)> = records.await?;
        let is_last = (records.len() as i64) < limit;
        let last = records.last().filter(|_| !is_last);
        let next = last.map(|(id, _)| Cursor::new(id.as_bytes().to_vec()));
        Ok(Page { records, next })
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.inner.callers.note(now);
        let parts = Arc::new(rows::Parts::of(id, record, now));
        if parts.expires_in <= 0 {
            return Ok(Restored::Expired);
        }
        // It may be taken and free again in between.
        for _ in 0..8 {
            let written = self.inner.steps.step(|connection: Arc<Object>| {
                let (parts, statements) = (parts.clone(), self.inner.statements.clone());
                async move { parts.write(&connection, &statements).await }
            });
            if written.await? {
                return Ok(Restored::Restored);
            }
            if let Some(stored) = self.lookup(id, now).await? {
                return Ok(Restored::Exists(stored.into()));
            }
        }
        let message = "the id is claimed and released by others all the time";
        Err(StoreError::new(StoreErrorKind::Unavailable, message).not_applied())
    }

    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        updates::watch(&self.inner.steps, &self.inner.statements, *id).await?;
        self.lookup(id, now).await
    }

    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        Some(self.inner.push.hints())
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        let (to, statements) = (to.as_bytes().to_vec(), self.inner.statements.clone());
        let noted = self.inner.steps.step(|connection: Arc<Object>| {
            let (to, statements) = (to.clone(), statements.clone());
            async move {
                let note = "INSERT INTO {about} VALUES ('moved', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
                connection.execute(&statements.named(note), &[&Quiet(to)]).await.map_err(store_error)
            }
        });
        noted.await.map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durability = self.inner.config.durability;
        capabilities.shared = true;
        capabilities.batches = 3;
        capabilities.scan = true;
        capabilities.restore = true;
        capabilities.push = true;
        capabilities
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.push.stop();
        self.inner.steps.close();
        self.inner.transactions.close();
        Ok(())
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
