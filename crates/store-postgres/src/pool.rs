//! Connections: some for the steps of the tracker, others for transactions, so that neither waits for the other.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
    TimeoutType, Timeouts,
};
use idempotency_core::{StoreError, StoreErrorKind};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    PostgresConfig,
    error::{is_passing, late, misconfigured, store_error, unsure},
    setup,
};

/// How often a step is tried that another transaction or a lost connection came in the way of.
const ATTEMPTS: u32 = 3;
const REST: Duration = Duration::from_millis(10);

/// A statement has its own limit on the server. Only a commit that waits for a standby may take longer; of any other that is not
/// answered after four times as much, the connection is dead.
const LATEST_COMMIT: Duration = Duration::from_secs(60);

/// The server lets go of what a client holds whose machine is gone.
const DEAD_CLIENTS: &str = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3";

#[derive(Clone)]
pub(crate) struct Connections {
    pool: Pool,
    pub(crate) limit: Duration,
    /// When a step is given up of which nothing is heard any more, and its connection with it.
    given_up: Duration,
    /// What was wrong with the server of the last connection that was refused.
    refused: Arc<Mutex<Option<StoreError>>>,
}

impl Connections {
    /// For steps: each statement is a transaction, and has the plan that scales.
    pub(crate) fn for_steps(config: &PostgresConfig) -> Result<Self, StoreError> {
        let limit = config.call_limit.as_millis().max(1);
        let options = format!(
            "-c default_transaction_isolation=read\\ committed -c statement_timeout={limit} -c enable_seqscan=off \
             -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off -c plan_cache_mode=force_generic_plan"
        );
        Self::new(config, &options, config.connections, RecyclingMethod::Fast)
    }

    /// For transactions, which are others' to tune: what one of them has set is gone before the next.
    pub(crate) fn for_transactions(config: &PostgresConfig) -> Result<Self, StoreError> {
        Self::new(config, "", config.transactions, RecyclingMethod::Clean)
    }

    /// Connects when it is first used.
    fn new(
        config: &PostgresConfig,
        options: &str,
        size: usize,
        recycling_method: RecyclingMethod,
    ) -> Result<Self, StoreError> {
        let mut driver = config.driver()?;
        let options = [driver.get_options().unwrap_or_default(), DEAD_CLIENTS, options].join(" ");
        driver.options(options.trim());
        let manager = manager(config, driver, ManagerConfig { recycling_method })?;
        let refused = Arc::<Mutex<Option<StoreError>>>::default();
        let (durability, limit, noted) = (config.durability, config.call_limit, refused.clone());
        let look = Hook::async_fn(move |client: &mut ClientWrapper, _| {
            let noted = noted.clone();
            Box::pin(async move {
                let looked = timeout(limit, setup::verify(client, durability)).await;
                looked.unwrap_or_else(|_| Err(late())).map_err(|error| {
                    *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.not_applied());
                    HookError::message("the server is not what it must be")
                })
            })
        });
        let pool = Pool::builder(manager).max_size(size).post_create(look);
        let pool = pool.runtime(deadpool_postgres::Runtime::Tokio1).build();
        let pool = pool.map_err(|_| misconfigured("there is no pool of this size"))?;
        let mut given_up = limit * 4;
        if durability.replicas > 0 {
            given_up = given_up.max(LATEST_COMMIT);
        }
        Ok(Self { pool, limit, given_up, refused })
    }

    /// Of a call that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// A connection to a server that is what it must be. No error of this means that anything was done.
    pub(crate) async fn get(&self, deadline: Instant) -> Result<Object, StoreError> {
        let rest = Some(deadline.saturating_duration_since(Instant::now()));
        let got = self.pool.timeout_get(&Timeouts { wait: rest, create: rest, recycle: rest }).await;
        got.map_err(|error| match error {
            PoolError::Backend(error) => store_error(error).not_applied(),
            PoolError::Timeout(TimeoutType::Wait) => unavailable("all connections are taken"),
            PoolError::Timeout(_) => late().not_applied(),
            PoolError::PostCreateHook(_) => {
                let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
                refused.unwrap_or_else(|| unavailable("the server is not what it must be"))
            }
            PoolError::Closed | PoolError::NoRuntimeSpecified => unavailable("the store is closed"),
        })
    }

    /// Does the work of a step, and again by owner if it is not known what became of it. It is done to its end on a task of its
    /// own also if nobody waits for it any more: a connection is never left in the middle of something.
    pub(crate) async fn step<T, F>(&self, work: impl Fn(Arc<Object>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let deadline = self.deadline();
        let mut may_be_done = false;
        for attempt in 1.. {
            let done = match self.get(deadline).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    let task = tokio::spawn(to_its_end(connection.clone(), work(connection), self.given_up));
                    let ended = timeout_at(deadline, task).await;
                    ended.map_or_else(|_| Err(late()), |ended| ended.unwrap_or_else(|_| Err(late())))
                }
                Err(error) => Err(error),
            };
            let error = match done {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            may_be_done |= !error.was_not_applied();
            if attempt == ATTEMPTS || !is_passing(&error) || Instant::now() + REST > deadline {
                // Of an earlier attempt nobody knows what became of it.
                return Err(if may_be_done { unsure(error) } else { error });
            }
            sleep(REST).await;
        }
        Err(late())
    }

    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

/// A connection from which nothing comes any more is given up, and not used again.
async fn to_its_end<T>(
    connection: Arc<Object>,
    work: impl Future<Output = Result<T, StoreError>>,
    given_up: Duration,
) -> Result<T, StoreError> {
    match timeout(given_up, work).await {
        Ok(done) => done,
        Err(_) => {
            if let Ok(connection) = Arc::try_unwrap(connection) {
                drop(Object::take(connection));
            }
            Err(late())
        }
    }
}

fn unavailable(message: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, message).not_applied()
}

#[cfg(not(feature = "tls"))]
fn manager(
    _: &PostgresConfig,
    driver: tokio_postgres::Config,
    how: ManagerConfig,
) -> Result<Manager, StoreError> {
    Ok(Manager::from_config(driver, tokio_postgres::NoTls, how))
}

#[cfg(feature = "tls")]
fn manager(
    config: &PostgresConfig,
    driver: tokio_postgres::Config,
    how: ManagerConfig,
) -> Result<Manager, StoreError> {
    Ok(Manager::from_config(driver, crate::tls::connector(config)?, how))
}
