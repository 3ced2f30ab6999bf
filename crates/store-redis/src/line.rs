//! A connection that all callers share, and that is made anew when it is of no use any more.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use idempotency_core::StoreError;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::Instant;

use crate::{
    error::{is_crowded, store_error},
    link::until,
};

/// How soon a connection that broke is tried again, and how long the rests between get.
const FIRST_REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_millis(500);

/// After so many calls without an answer the server is not believed to be at the other end any more.
const SILENT: u32 = 3;

/// The manager sees to connections that break. It keeps one to a server that has become a replica, one whose login was
/// refused, and one behind which nobody answers; those are replaced here.
pub(crate) struct Line {
    client: Client,
    limit: Duration,
    held: Mutex<Held>,
    /// Calls without an answer since the last one with one.
    silent: AtomicU32,
}

struct Held {
    manager: ConnectionManager,
    since: Instant,
}

impl Line {
    pub(crate) fn new(client: Client, limit: Duration) -> RedisResult<Self> {
        let held = Mutex::new(Held { manager: manager(&client, limit)?, since: Instant::now() });
        Ok(Self { client, limit, held, silent: AtomicU32::new(0) })
    }

    pub(crate) async fn connect(&self, deadline: Instant) -> Result<(), StoreError> {
        let settings = AsyncConnectionConfig::new().set_connection_timeout(Some(self.limit));
        let connected = self.client.get_multiplexed_async_connection_with_config(&settings);
        until(deadline, connected).await?.map(drop).map_err(store_error)
    }

    pub(crate) async fn send(&self, command: &Cmd, deadline: Instant) -> Result<Value, StoreError> {
        let mut manager = self.manager();
        self.heard(deadline, async { manager.req_packed_command(command).await?.extract_error() }).await
    }

    /// One behind the other in one round trip; what others send may come in between.
    pub(crate) async fn send_all(
        &self,
        commands: &Pipeline,
        deadline: Instant,
    ) -> Result<Vec<RedisResult<Value>>, StoreError> {
        let mut manager = self.manager();
        let answers = manager.req_packed_commands(commands, 0, commands.len());
        let answers: Vec<_> =
            self.heard(deadline, answers).await?.into_iter().map(Value::extract_error).collect();
        if answers.iter().any(|answer| answer.as_ref().is_err_and(is_in_vain)) {
            self.renew();
        }
        Ok(answers)
    }

    /// How long a call takes at most.
    pub(crate) fn limit(&self) -> time::Duration {
        time::Duration::try_from(self.limit).unwrap_or(time::Duration::MAX)
    }

    fn manager(&self) -> ConnectionManager {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).manager.clone()
    }

    /// The answer, if it comes in time; and what its coming or not says of the connection.
    async fn heard<T>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        // Also a caller who goes away before his time is over has got no answer.
        let unanswered = Unanswered(self);
        let answer = until(deadline, answer).await?;
        match &answer {
            Err(error) if error.is_timeout() => {}
            Err(error) if is_in_vain(error) => self.renew(),
            _ => {
                std::mem::forget(unanswered);
                self.silent.store(0, Ordering::Relaxed);
            }
        }
        answer.map_err(store_error)
    }

    /// Calls that are under way keep the old one. Not more often than a call may take, or a slow server would have no chance.
    pub(crate) fn renew(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.since.elapsed() < self.limit {
            return;
        }
        if let Ok(manager) = manager(&self.client, self.limit) {
            *held = Held { manager, since: Instant::now() };
            self.silent.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts a call without an answer.
struct Unanswered<'a>(&'a Line);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.0.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT {
            self.0.renew();
        }
    }
}

fn manager(client: &Client, limit: Duration) -> RedisResult<ConnectionManager> {
    let settings = ConnectionManagerConfig::new()
        .set_min_delay(FIRST_REST)
        .set_max_delay(LONGEST_REST)
        // Each call has a time of its own.
        .set_response_timeout(None)
        .set_connection_timeout(Some(limit));
    ConnectionManager::new_lazy_with_config(client.clone(), settings)
}

/// Whether the next call on this connection would fail, too, in a way that the manager does not see to.
pub(crate) fn is_in_vain(error: &RedisError) -> bool {
    use ServerErrorKind::{MasterDown, ReadOnly};
    let is_elsewhere = matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown));
    let is_refused = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    is_elsewhere || is_refused || is_crowded(error)
}
