use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::future::join_all;
use time::OffsetDateTime;

use crate::{
    Capabilities, Claim, Inserted, Record, RequestId, Restored, SecretCheck, StoreCommand, StoreError,
    StoreErrorKind, StoreReply, Update, Updated,
};

/// Keeps the records. Implement five methods; the rest is provided.
///
/// A local store asks the table ([`Record::on_insert`] and its sisters) inside its own lock or transaction; the
/// example `custom_store` of the workspace is a whole one in under 80 lines.
///
/// ```
/// use async_trait::async_trait;
/// use idempotency_core::*;
/// use std::{collections::HashMap, sync::Mutex};
/// use time::OffsetDateTime;
///
/// #[derive(Debug, Default)]
/// struct MyStore(Mutex<HashMap<RequestId, Record>>);
///
/// impl MyStore {
///     fn write(records: &mut HashMap<RequestId, Record>, id: RequestId, write: Write) {
///         match write {
///             Write::Keep => {}
///             Write::Put(record) => drop(records.insert(id, record)),
///             Write::Delete => drop(records.remove(&id)),
///         }
///     }
/// }
///
/// #[async_trait]
/// impl Store for MyStore {
///     async fn setup(&self, _: &Setup) -> Result<(), StoreError> {
///         Ok(())
///     }
///     async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
///         Ok(self.0.lock().unwrap().get(id).filter(|record| !record.is_expired(now)).cloned())
///     }
///     async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
///         let mut records = self.0.lock().unwrap();
///         let step = Record::on_insert(records.get(&claim.id), claim, now);
///         Self::write(&mut records, claim.id, step.write);
///         Ok(step.answer)
///     }
///     async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
///         let mut records = self.0.lock().unwrap();
///         let step = Record::on_update(records.get(&update.id), update, now);
///         Self::write(&mut records, update.id, step.write);
///         Ok(step.answer)
///     }
///     async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
///         let mut records = self.0.lock().unwrap();
///         let expired: Vec<_> =
///             records.iter().filter(|(_, r)| r.is_expired(now)).map(|(id, _)| *id).take(limit).collect();
///         expired.iter().for_each(|id| drop(records.remove(id)));
///         Ok(Pruned { deleted: expired.len(), more: expired.len() == limit })
///     }
/// }
/// ```
///
/// # The contract
///
/// * `insert` and `update` are atomic: between what they read of an id and what they write of it nobody else writes.
/// * An expired record counts as absent, whether or not it was pruned.
/// * `now` is for stores without a clock of their own, and for turning what is read into the caller's time. A store
///   that several processes share decides by *its own* clock only.
/// * An error after which the write may or may not have happened is of unknown fate, which is what every
///   [`StoreError`] is unless it says [`not_applied`](StoreError::not_applied). The tracker repeats such calls by
///   owner, so every call must bear repetition.
/// * A call may be dropped at any of its `await`s (it ran out of its time limit). Its write may then happen or not.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Prepares the store, and verifies what it declares and the check value of the secret. Called when the tracker
    /// starts and again after a restart of the backend, so it bears repetition.
    ///
    /// # Errors
    ///
    /// Another secret, a declared durability that the configuration does not give, a retired store
    /// ([`StoreErrorKind::Moved`]), or the store cannot be reached. The tracker does not start then.
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError>;

    /// The record of `id`; an expired one is `None`.
    ///
    /// # Errors
    ///
    /// The store cannot tell.
    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError>;

    /// Claims an id, or takes an orphan over, in one atomic step: [`Record::on_insert`].
    ///
    /// # Errors
    ///
    /// The store could not, or cannot tell whether it did. [`StoreErrorKind::Full`] refuses a new claim.
    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError>;

    /// Moves a record on if `update.owner` is its owner, in one atomic step: [`Record::on_update`].
    ///
    /// # Errors
    ///
    /// The store could not, or cannot tell whether it did. Never because it is full: a put that does not fit keeps
    /// the fact and drops the body.
    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError>;

    /// Deletes up to `limit` expired records. It never deletes an unexpired one (I12), so it checks again at the
    /// moment of deletion.
    ///
    /// # Errors
    ///
    /// The store could not; what it deleted before that stays deleted.
    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError>;

    /// Carries several commands out, of different ids or of the same one in any order; one answer for each, in the
    /// order of the commands. The default runs them concurrently.
    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        join_all(batch.iter().map(|command| command.call(self, now))).await
    }

    /// A page of all records, expired ones included or not. Every record that stays unchanged during a whole scan is
    /// in it at least once; others may be there, be absent, or be there twice.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] unless [`Capabilities::scan`].
    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let _ = (cursor, limit);
        Err(StoreError::unsupported("scan"))
    }

    /// Writes a whole record in one step: [`Record::on_restore`]. The instants of `record` are in the caller's time,
    /// of which `now` is the present; a store with its own clock keeps the *remaining* times.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] unless [`Capabilities::restore`].
    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        let _ = (id, record, now);
        Err(StoreError::unsupported("restore"))
    }

    /// Asks for a hint on [`settled`](Self::settled) when `id` is settled or released, and then reads the record, as
    /// [`lookup`](Self::lookup) does: what is read as running is told of.
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] unless [`Capabilities::push`].
    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        let _ = (id, now);
        Err(StoreError::unsupported("watch"))
    }

    /// Hints that ids were settled. They may come late, twice or not at all; the record is read again.
    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        None
    }

    /// Marks the store as left behind by a swap: from now on `setup` fails with [`StoreErrorKind::Moved`].
    ///
    /// # Errors
    ///
    /// [`StoreErrorKind::Unsupported`] by default, which is right for a store that does not outlive its process.
    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        let _ = to;
        Err(StoreError::unsupported("retire"))
    }

    /// What this store is able to do and what its writes survive. It never changes while the store is open.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Lets go of everything. Called once, at the end. Calls that ran into their time limit may still be under way,
    /// and nobody waits for them; nothing is called after it.
    ///
    /// # Errors
    ///
    /// Something could not be let go of in order. What was acknowledged stays acknowledged.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What `setup` is told.
///
/// ```
/// use idempotency_core::{Secret, SecretCheck, Setup};
/// use time::OffsetDateTime;
///
/// let setup = Setup::new(Secret::new([7; 32]).check(), OffsetDateTime::UNIX_EPOCH);
/// assert_ne!(setup.secret_check, SecretCheck::unkeyed());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setup {
    /// The check value of the tracker's secret: kept by the first `setup`, compared by every later one.
    pub secret_check: SecretCheck,
    /// The tracker's time.
    pub now: OffsetDateTime,
}

impl Setup {
    /// Both fields.
    pub fn new(secret_check: SecretCheck, now: OffsetDateTime) -> Self {
        Self { secret_check, now }
    }
}

/// What `prune` answers.
///
/// ```
/// use idempotency_core::Pruned;
///
/// assert_eq!(Pruned::default(), Pruned { deleted: 0, more: false });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Pruned {
    /// How many records were deleted.
    pub deleted: usize,
    /// Whether there may be more to delete; then the tracker asks again soon.
    pub more: bool,
}

/// What `scan` answers.
///
/// ```
/// use idempotency_core::Page;
///
/// // An empty store has one page, the last.
/// assert_eq!(Page::default().next, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Some records.
    pub records: Vec<(RequestId, Record)>,
    /// Where to go on; `None` when this was the last page.
    pub next: Option<Cursor>,
}

/// Where a scan goes on: bytes that only the store which made them understands.
///
/// ```
/// use idempotency_core::Cursor;
///
/// let cursor = Cursor::new(&b"place"[..]);
/// assert_eq!(format!("{cursor:?}"), "Cursor(5 bytes)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Bytes);

impl Cursor {
    /// Made by a store.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Read by the same store. They may come from elsewhere, so malformed ones are an error, never a panic.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({} bytes)", self.0.len())
    }
}

/// A store behind a pointer is a store. Every method is forwarded, also those added later: the lint sees to it.
macro_rules! forward {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: Store + ?Sized> Store for $pointer<S> {
            async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
                (**self).setup(setup).await
            }
            async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
                (**self).lookup(id, now).await
            }
            async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
                (**self).insert(claim, now).await
            }
            async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
                (**self).update(update, now).await
            }
            async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
                (**self).prune(now, limit).await
            }
            async fn apply(&self, batch: &[StoreCommand], now: OffsetDateTime) -> Vec<Result<StoreReply, StoreError>> {
                (**self).apply(batch, now).await
            }
            async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
                (**self).scan(cursor, limit).await
            }
            async fn restore(&self, id: &RequestId, record: &Record, now: OffsetDateTime) -> Result<Restored, StoreError> {
                (**self).restore(id, record, now).await
            }
            async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
                (**self).watch(id, now).await
            }
            fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
                (**self).settled()
            }
            async fn retire(&self, to: &str) -> Result<(), StoreError> {
                (**self).retire(to).await
            }
            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }
            async fn close(&self) -> Result<(), StoreError> {
                (**self).close().await
            }
        }
    )*};
}

forward!(Box, Arc);

impl StoreError {
    fn unsupported(method: &'static str) -> Self {
        Self::new(StoreErrorKind::Unsupported, format!("this store does not offer `{method}`")).not_applied()
    }
}
