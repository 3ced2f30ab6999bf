use std::{fmt, sync::Arc};

use bytes::Bytes;
use idempotency_core::StoreError;
use tokio_postgres::{GenericClient, types::Type};

use crate::{
    error::store_error,
    quiet::Quiet,
    rows,
    sends::{Theirs, query},
    store::Inner,
};

/// Messages that are written in the same transaction as what they tell of, and handed on at least once after it.
///
/// ```no_run
/// use idempotency_store_postgres::{PostgresStore, tokio_postgres::Transaction};
///
/// # async fn pay(store: PostgresStore, transaction: &Transaction<'_>) {
/// // In the work of a transaction:
/// store.outbox().put(transaction, "receipts", b"order-1 is paid").await.unwrap();
///
/// // In a task of its own, again and again:
/// let outbox = store.outbox();
/// let handed_on = outbox.relay(100, async |message| {
///     println!("{}: {} bytes", message.topic(), message.payload().len());
///     Ok::<(), std::io::Error>(())
/// });
/// assert!(handed_on.await.unwrap().handed_on <= 100);
/// # }
/// ```
#[derive(Clone)]
pub struct Outbox {
    inner: Arc<Inner>,
}

/// A message of an [`Outbox`].
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    number: i64,
    topic: String,
    payload: Bytes,
}

impl Message {
    /// The same whenever it is handed on: whoever gets it twice knows it by this.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// What it was put under.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What it says.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// Without what it says.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, topic, payload } = self;
        write!(f, "Message({number}, {topic}, {} bytes)", payload.len())
    }
}

/// What a [`relay`](Outbox::relay) came to.
#[derive(Debug)]
#[non_exhaustive]
pub struct Relayed<E> {
    /// So many were taken, and are gone from the outbox.
    pub handed_on: usize,
    /// Why the next one was not: it stays, and so do those behind it.
    pub failed: Option<E>,
}

impl Outbox {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Writes a message, which is there once the transaction is committed.
    ///
    /// # Errors
    ///
    /// The statement failed; the transaction is of no use any more.
    pub async fn put<C: GenericClient + Sync>(
        &self,
        transaction: &C,
        topic: &str,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        let put = self.inner.statements.named("INSERT INTO {outbox} (topic, payload) VALUES ($1, $2)");
        query(&Theirs(transaction), &put, &[Type::TEXT, Type::BYTEA], &[&Quiet(topic), &Quiet(payload)])
            .await
            .map(drop)
    }

    /// Hands up to `most` messages on, the oldest first, and deletes those that were taken. Several relays share the work.
    ///
    /// At least once: if this is given up, or the server is lost before the messages are deleted, they are handed on again. The
    /// order is that of their numbers, as far as one relay sees it; a transaction that commits late comes late.
    ///
    /// # Cancellation
    ///
    /// Messages that were handed on, and not deleted yet, are handed on again.
    ///
    /// # Errors
    ///
    /// The store could not be read or written. What `hand_on` says stops it, and is in [`Relayed::failed`].
    pub async fn relay<E>(
        &self,
        most: usize,
        hand_on: impl AsyncFn(&Message) -> Result<(), E>,
    ) -> Result<Relayed<E>, StoreError> {
        let Inner { transactions, statements, .. } = &*self.inner;
        let mut connection = transactions.get(transactions.deadline()).await?;
        let transaction = connection.transaction().await.map_err(store_error)?;
        let take = statements.named(
            "SELECT number, topic, payload FROM {outbox} ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED",
        );
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let (mut taken, mut failed) = (Vec::new(), None);
        for row in query(&transaction, &take, &[Type::INT8], &[&most]).await? {
            let message = rows::message(&row)?;
            match hand_on(&message).await {
                Ok(()) => taken.push(message.number),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let handed_on = taken.len();
        let delete = statements.named("DELETE FROM {outbox} WHERE number = ANY($1)");
        query(&transaction, &delete, &[Type::INT8_ARRAY], &[&taken]).await?;
        transaction.commit().await.map_err(store_error)?;
        Ok(Relayed { handed_on, failed })
    }

    /// How many messages wait.
    ///
    /// # Errors
    ///
    /// The store could not be read.
    pub async fn count(&self) -> Result<usize, StoreError> {
        let Inner { steps, statements, .. } = &*self.inner;
        let count = statements.named("SELECT count(*) FROM {outbox}");
        let row = steps.get(steps.deadline()).await?.query_one(&count, &[]).await.map_err(store_error)?;
        row.try_get::<_, i64>(0).map(|count| count as usize).map_err(store_error)
    }
}

impl Message {
    pub(crate) fn new(number: i64, topic: String, payload: Bytes) -> Self {
        Self { number, topic, payload }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
