//! Effect and record in one transaction.

use std::{fmt, panic::resume_unwind, sync::Arc, time::Duration};

use deadpool_postgres::Object;
use futures_util::future::BoxFuture;
use idempotency_core::{
    Change, Claim, Clock, Fingerprint, HaltReason, Inserted, Owner, Record, RequestId, State, StoreError,
    StoreErrorKind, StoredResponse, Update, Updated,
};
use tokio::time::{Instant, sleep};
use tokio_postgres::{GenericClient, IsolationLevel, Transaction, types::Type};

use crate::{
    PostgresStore,
    claims::claim_once,
    error::{is_certain, is_conflict, is_lost, is_passing, store_error},
    quiet::Quiet,
    rows,
    sends::{Sends, Theirs, query},
    store::Inner,
    updates::update_once,
};

/// How often a transaction is tried that others came in the way of.
const ATTEMPTS: u32 = 10;
const FIRST_REST: Duration = Duration::from_millis(5);

/// The lock of an id is tried so often: whoever only claims holds it for an instant.
const TRIES: u32 = 6;
const TRY_REST: Duration = Duration::from_millis(2);

/// So many times the limit of a call it may take to get a connection, and to find out what became of a commit.
const PATIENCE: u32 = 10;

/// What became of a [`transact`](PostgresStore::transact).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transacted {
    /// The work is done and committed, together with this response: now, or by an earlier request.
    Done {
        /// What the work answered.
        response: StoredResponse,
        /// Whether it was done before.
        replayed: bool,
    },
    /// Somebody else is at it at this moment. Nothing was done.
    Processing,
    /// The id was used for other work. Nothing was done.
    Mismatch,
    /// An earlier attempt, which was not made by `transact`, ended without an outcome. Nothing was done; whoever decides that
    /// it may be done again names its owner in [`Claim::takes_over`].
    Halted {
        /// Why.
        reason: HaltReason,
        /// Whose it was.
        owner: Owner,
    },
}

/// What the work of a transaction fails with: everything that it did is rolled back.
///
/// A `?` behind a statement makes one of the driver's error, so that the whole work can be repeated where another transaction
/// came between.
#[derive(Debug, thiserror::Error)]
pub enum WorkError<E> {
    /// A statement failed.
    #[error("a statement of the work failed")]
    Database(#[from] tokio_postgres::Error),
    /// A step of the store failed: a message for the outbox, for example.
    #[error("a step of the store failed")]
    Store(#[from] StoreError),
    /// The work itself says no.
    #[error("the work failed")]
    Other(E),
}

/// Why a [`transact`](PostgresStore::transact) has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactError<E> {
    /// The work said no. Nothing was done.
    #[error("the work failed, and nothing of it was done")]
    Work(E),
    /// A statement of the work failed. Nothing was done.
    #[error("a statement of the work failed, and nothing was done")]
    Database(#[source] tokio_postgres::Error),
    /// The store could not do its part. Nothing was done.
    #[error("the store failed, and nothing was done")]
    Store(#[source] StoreError),
    /// The connection was lost while it committed, and the server does not come back to say what became of it. A retry with the
    /// same id finds out.
    #[error("nobody knows whether it was committed")]
    Unknown,
}

/// How an attempt ended that did not come to an outcome.
enum Failed<E> {
    Final(TransactError<E>),
    /// Another transaction came between, or the connection was lost before the commit.
    Passing(TransactError<E>),
    /// The answer to the commit was lost.
    Lost,
}

impl PostgresStore {
    /// Does the work once, and commits it together with its record.
    ///
    /// ```no_run
    /// use idempotency_core::{Fingerprint, RequestId};
    /// use idempotency_store_postgres::{PostgresStore, Transacted, WorkError};
    ///
    /// # async fn pay(store: PostgresStore, id: RequestId, payload: Fingerprint) {
    /// let paid = store.transact(id, payload, |transaction| {
    ///     Box::pin(async move {
    ///         transaction.execute("UPDATE accounts SET balance = balance - 5 WHERE name = 'me'", &[]).await?;
    ///         Ok::<_, WorkError<std::convert::Infallible>>(b"paid".to_vec().into())
    ///     })
    /// });
    /// if let Ok(Transacted::Done { response, replayed }) = paid.await {
    ///     println!("{:?}, replayed: {replayed}", response.bytes());
    /// }
    /// # }
    /// ```
    ///
    /// A retry after the commit hears the stored response, one after a rollback does the work, and one meanwhile hears
    /// [`Transacted::Processing`]. The record is kept for a day; [`transact_as`](Self::transact_as) takes other times.
    ///
    /// The work may be repeated as a whole, where another transaction came between (`40001`, `40P01`) or the connection was lost.
    /// So it must have **no effects outside the transaction**; what is to be told to others goes to the [`Outbox`](crate::Outbox).
    ///
    /// # Cancellation
    ///
    /// The work runs on a task of its own. Whoever stops waiting leaves no half transaction behind; it is committed, or rolled
    /// back, all the same.
    ///
    /// # Errors
    ///
    /// [`TransactError`]: except for `Unknown`, nothing was done.
    ///
    /// # Panics
    ///
    /// If the work does; everything is rolled back.
    pub async fn transact<F, E>(
        &self,
        id: RequestId,
        fingerprint: Fingerprint,
        work: F,
    ) -> Result<Transacted, TransactError<E>>
    where
        F: for<'a> Fn(&'a Transaction<'a>) -> BoxFuture<'a, Result<StoredResponse, WorkError<E>>>
            + Send
            + Sync
            + 'static,
        E: Send + 'static,
    {
        self.transact_as(Claim::new(id, Owner::from_u128(rand::random()), fingerprint), work).await
    }

    /// The same with a claim of one's own: other times, `meta`, or a takeover. Its owner must be new.
    ///
    /// # Errors
    ///
    /// As [`transact`](Self::transact).
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact).
    pub async fn transact_as<F, E>(&self, claim: Claim, work: F) -> Result<Transacted, TransactError<E>>
    where
        F: for<'a> Fn(&'a Transaction<'a>) -> BoxFuture<'a, Result<StoredResponse, WorkError<E>>>
            + Send
            + Sync
            + 'static,
        E: Send + 'static,
    {
        let inner = self.inner.clone();
        match tokio::spawn(async move { run(&inner, &claim, &work).await }).await {
            Ok(outcome) => outcome,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends.
                Err(_) => Err(TransactError::Unknown),
            },
        }
    }

    /// Claims an id inside a transaction of one's own: nobody sees it before the commit. Until then other claims of the id
    /// hear [`Inserted::Busy`], or what was there before.
    ///
    /// On a client without a transaction the claim would be committed at once, and nothing locked.
    ///
    /// Only after [`Inserted::Claimed`] may the work be done; [`complete_in`](Self::complete_in) belongs into the same
    /// transaction.
    ///
    /// # Errors
    ///
    /// A statement failed; the transaction is of no use any more.
    pub async fn claim_in<C: GenericClient + Sync>(
        &self,
        transaction: &C,
        claim: &Claim,
    ) -> Result<Inserted, StoreError> {
        self.inner.claim_in(&Theirs(transaction), claim).await
    }

    /// Stores the response of a claim that was made in the same transaction.
    ///
    /// # Errors
    ///
    /// A statement failed, or the claim is not there: the transaction must not be committed.
    pub async fn complete_in<C: GenericClient + Sync>(
        &self,
        transaction: &C,
        claim: &Claim,
        response: StoredResponse,
    ) -> Result<(), StoreError> {
        self.inner.complete_in(&Theirs(transaction), claim, response).await
    }
}

impl Inner {
    async fn claim_in<C: Sends>(&self, transaction: &C, claim: &Claim) -> Result<Inserted, StoreError> {
        let mut rest = TRY_REST;
        for _ in 0..TRIES {
            if self.try_lock(transaction, claim).await? {
                return self.claim_locked(transaction, claim).await;
            }
            sleep(rest).await;
            rest *= 2;
        }
        Ok(self
            .stored(transaction, claim)
            .await?
            .map_or(Inserted::Busy, |record| Inserted::Exists(record.into())))
    }

    /// Nobody else can be at it.
    async fn claim_locked<C: Sends>(&self, transaction: &C, claim: &Claim) -> Result<Inserted, StoreError> {
        // A record may expire, or be released, between two looks at it.
        for _ in 0..TRIES {
            let (statements, now) = (&self.statements, self.callers.now());
            let mut said = claim_once(transaction, statements, &statements.claim, &[claim], now).await?;
            if let Some(said) = said.remove(&claim.id) {
                return Ok(said);
            }
        }
        Ok(Inserted::Busy)
    }

    async fn try_lock<C: Sends>(&self, transaction: &C, claim: &Claim) -> Result<bool, StoreError> {
        let lock = Quiet(self.statements.lock_of(claim.id.as_bytes()));
        let rows =
            query(transaction, "SELECT pg_try_advisory_xact_lock($1)", &[Type::INT8], &[&lock]).await?;
        rows.first().map_or(Ok(false), |row| row.try_get(0).map_err(store_error))
    }

    async fn stored<C: Sends>(&self, client: &C, claim: &Claim) -> Result<Option<Record>, StoreError> {
        let ids = Quiet(vec![claim.id.as_bytes().to_vec()]);
        let rows = query(client, &self.statements.lookup, &[Type::BYTEA_ARRAY], &[&ids]).await?;
        rows.first().map(|row| rows::record(row, self.callers.now())).transpose()
    }

    async fn complete_in<C: Sends>(
        &self,
        transaction: &C,
        claim: &Claim,
        response: StoredResponse,
    ) -> Result<(), StoreError> {
        let change = Change::Complete { response, retention: claim.retention };
        let update = Update::new(claim.id, claim.owner, change);
        match update_once(transaction, &self.statements, &[&update]).await?.get(&claim.id) {
            Some(Updated::Applied | Updated::AlreadyApplied) => Ok(()),
            _ => {
                let message = "the claim is not that of this transaction";
                Err(StoreError::new(StoreErrorKind::Invalid, message).not_applied())
            }
        }
    }
}

async fn run<F, E>(inner: &Arc<Inner>, claim: &Claim, work: &F) -> Result<Transacted, TransactError<E>>
where
    F: for<'a> Fn(&'a Transaction<'a>) -> BoxFuture<'a, Result<StoredResponse, WorkError<E>>>,
{
    let mut rest = FIRST_REST;
    for attempt in 1.. {
        // Its connection is given back before another is asked for.
        let ended = match inner.transactions.get(Instant::now() + inner.transactions.limit * PATIENCE).await {
            Ok(mut connection) => attempt_once(inner, &mut connection, claim, work).await,
            Err(error) if error.is_retryable() => Err(Failed::Passing(TransactError::Store(error))),
            Err(error) => Err(Failed::Final(TransactError::Store(error))),
        };
        match ended {
            Ok(done) => return Ok(done),
            Err(Failed::Final(error)) => return Err(error),
            Err(Failed::Passing(error)) if attempt == ATTEMPTS => return Err(error),
            Err(Failed::Passing(_)) => {}
            Err(Failed::Lost) => match committed(inner, claim).await {
                Some(Some(response)) => return Ok(Transacted::Done { response, replayed: false }),
                Some(None) if attempt == ATTEMPTS => return Err(TransactError::Store(rolled_back())),
                Some(None) => {}
                None => return Err(TransactError::Unknown),
            },
        }
        // Those who came in each other's way do not come back at the same moment.
        sleep(rest.mul_f64(rand::random_range(0.5..1.5))).await;
        rest = (rest * 2).min(inner.transactions.limit);
    }
    Err(TransactError::Unknown)
}

async fn attempt_once<F, E>(
    inner: &Inner,
    connection: &mut Object,
    claim: &Claim,
    work: &F,
) -> Result<Transacted, Failed<E>>
where
    F: for<'a> Fn(&'a Transaction<'a>) -> BoxFuture<'a, Result<StoredResponse, WorkError<E>>>,
{
    let of_store = |error: StoreError| match is_passing(&error) {
        true => Failed::Passing(TransactError::Store(error)),
        false => Failed::Final(TransactError::Store(error)),
    };
    let transaction = connection.transaction().await.map_err(|error| of_store(store_error(error)))?;
    match inner.claim_in(&transaction, claim).await.map_err(of_store)? {
        Inserted::Claimed => {}
        Inserted::Exists(record) => return Ok(judge(*record, claim, inner)),
        Inserted::Busy => return Ok(Transacted::Processing),
    }
    let response = work(&transaction).await.map_err(|error| match error {
        WorkError::Store(error) => of_store(error),
        WorkError::Database(error) if is_conflict(&error) || is_lost(&error) => {
            Failed::Passing(TransactError::Database(error))
        }
        WorkError::Database(error) => Failed::Final(TransactError::Database(error)),
        WorkError::Other(error) => Failed::Final(TransactError::Work(error)),
    })?;
    inner.complete_in(&transaction, claim, response.clone()).await.map_err(of_store)?;
    match transaction.commit().await {
        Ok(()) => Ok(Transacted::Done { response, replayed: false }),
        Err(error) if is_conflict(&error) => Err(Failed::Passing(TransactError::Database(error))),
        // The server lives to say that it did not.
        Err(error) if is_certain(&error) => Err(Failed::Final(TransactError::Database(error))),
        Err(_) => Err(Failed::Lost),
    }
}

fn rolled_back() -> StoreError {
    let message = "the connection was lost whenever it was to be committed, and it was rolled back";
    StoreError::new(StoreErrorKind::Unavailable, message).not_applied()
}

fn judge(record: Record, claim: &Claim, inner: &Inner) -> Transacted {
    if record.fingerprint != claim.fingerprint {
        return Transacted::Mismatch;
    }
    if let Some(reason) = record.halted(inner.callers.now()) {
        return Transacted::Halted { reason, owner: record.owner };
    }
    match record.state {
        State::Completed(response) => Transacted::Done { response, replayed: true },
        State::Processing { .. } | State::Halted(_) => Transacted::Processing,
    }
}

/// What became of a commit whose answer was lost: its response, or nothing. The lock of the id is held until the transaction
/// has ended, one way or the other.
async fn committed(inner: &Inner, claim: &Claim) -> Option<Option<StoredResponse>> {
    let deadline = Instant::now() + inner.transactions.limit * PATIENCE;
    while Instant::now() < deadline {
        if let Ok(found) = look_for_commit(inner, claim, deadline).await
            && let Some(found) = found
        {
            return Some(found);
        }
        sleep(inner.transactions.limit / 20).await;
    }
    None
}

async fn look_for_commit(
    inner: &Inner,
    claim: &Claim,
    deadline: Instant,
) -> Result<Option<Option<StoredResponse>>, StoreError> {
    let mut connection = inner.transactions.get(deadline).await?;
    // What was committed before the lock was given must be seen.
    let transaction = connection.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
    let transaction = transaction.start().await.map_err(store_error)?;
    if !inner.try_lock(&transaction, claim).await? {
        return Ok(None);
    }
    let stored = inner.stored(&transaction, claim).await?;
    Ok(Some(stored.filter(|record| record.owner == claim.owner).and_then(|record| match record.state {
        State::Completed(response) => Some(response),
        State::Processing { .. } | State::Halted(_) => None,
    })))
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("config", &self.config).finish_non_exhaustive()
    }
}
