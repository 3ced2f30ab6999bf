//! Calls that wait for replicas: those of one moment go to the server together, and wait once.
//!
//! `WAIT` holds its connection up until the replicas have acknowledged, or until its time is over. So each connection of a
//! small pool has one group under way: the scripts of all its calls and one `WAIT` behind them, in one pipeline. What comes
//! meanwhile makes the next groups; a call that has waited for so long that it would leave no time to them is not sent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use idempotency_core::{StoreError, StoreErrorKind};
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::Instant,
};

use crate::{
    RedisConfig,
    error::{store_error, unexpected},
    line::is_in_vain,
    link::until,
};

/// How many calls go together.
const GROUP: usize = 64;

/// How many more may wait for their turn; whoever comes then waits for room, as long as his time lasts.
const WAITING: usize = 1024;

/// Whether enough replicas have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledged(pub(crate) bool);

/// For one primary.
#[derive(Clone)]
pub(crate) struct Waits(mpsc::Sender<Call>);

struct Call {
    command: Cmd,
    /// It goes to a node that its slot is being moved to.
    is_asking: bool,
    deadline: Instant,
    /// It is about to be sent, or its caller has gone: whoever comes first sets it.
    is_taken: Arc<AtomicBool>,
    answer: oneshot::Sender<Result<(Value, Acknowledged), StoreError>>,
}

impl Waits {
    /// Connects when something is to be sent. Ends when nobody can call any more.
    pub(crate) fn start(client: Client, config: &RedisConfig) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..config.replica_connections {
            let lane = Lane {
                client: client.clone(),
                connection: None,
                replicas: config.durability.replicas,
                limit: config.call_limit,
            };
            tokio::spawn(lane.work(waiting.clone()));
        }
        Self(calls)
    }

    pub(crate) async fn call(
        &self,
        command: Cmd,
        is_asking: bool,
        deadline: Instant,
    ) -> Result<(Value, Acknowledged), StoreError> {
        let (answer, answered) = oneshot::channel();
        let is_taken = Arc::<AtomicBool>::default();
        let call = Call { command, is_asking, deadline, is_taken: is_taken.clone(), answer };
        let call = async {
            self.0.send(call).await.map_err(|_| ended().not_applied())?;
            answered.await.map_err(|_| ended())?
        };
        match until(deadline, call).await {
            Ok(answer) => answer,
            Err(late) if is_taken.swap(true, Ordering::AcqRel) => Err(late),
            // It still waits for its turn, and will not have it.
            Err(late) => Err(late.not_applied()),
        }
    }
}

struct Lane {
    client: Client,
    connection: Option<MultiplexedConnection>,
    replicas: u8,
    limit: Duration,
}

impl Lane {
    async fn work(mut self, waiting: Arc<Mutex<mpsc::Receiver<Call>>>) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            if waiting.lock().await.recv_many(&mut group, GROUP).await == 0 {
                return;
            }
            // What has little time left would leave little to all the others; what nobody waits for is not done.
            let latest = Instant::now() + self.limit / 4;
            group.retain(|call: &Call| !call.answer.is_closed());
            for late in group.extract_if(.., |call| call.deadline < latest) {
                let message = "the calls before it waited too long for replicas";
                let error = StoreError::new(StoreErrorKind::Unavailable, message).not_applied();
                let _ = late.answer.send(Err(error));
            }
            group.retain(|call| !call.is_taken.swap(true, Ordering::AcqRel));
            if let Some(deadline) = group.iter().map(|call| call.deadline).min() {
                self.answer(&mut group, deadline).await;
            }
        }
    }

    async fn answer(&mut self, group: &mut Vec<Call>, deadline: Instant) {
        let replicas = self.replicas;
        let connection = match self.connected(deadline).await {
            Ok(connection) => connection,
            Err(error) => return fail(group, || error.to_error().not_applied()),
        };
        let answers = match until(deadline, send(connection, group, replicas, deadline)).await {
            Ok(Ok(answers)) => answers,
            failed => {
                // Its answers would be late for the next group, too.
                self.connection = None;
                let error = match failed {
                    Ok(Err(error)) => Failed::Said(error),
                    Ok(Ok(_)) | Err(_) => Failed::Late,
                };
                return fail(group, || error.to_error());
            }
        };
        let mut answers = answers.into_iter();
        let waited = match answers.next_back().map(Value::extract_error) {
            Some(Ok(Value::Int(count))) => Ok(Acknowledged(count >= i64::from(replicas))),
            Some(Err(error)) => Err(Failed::Said(error)),
            Some(Ok(_)) | None => Err(Failed::Late),
        };
        if !matches!(waited, Ok(Acknowledged(true))) || answers.len() != group.len() {
            // Perhaps the replicas follow another server by now, to which the address leads.
            self.connection = None;
        }
        for (call, answer) in group.drain(..).zip(answers) {
            let answer = match answer.extract_error() {
                Ok(answer) => match &waited {
                    Ok(acknowledged) => Ok((answer, *acknowledged)),
                    Err(error) => Err(error.to_error().retryable(true)),
                },
                // What a script says for itself; a former primary says where to go, and does not wait.
                Err(error) => {
                    if is_in_vain(&error) {
                        self.connection = None;
                    }
                    Err(store_error(error))
                }
            };
            let _ = call.answer.send(answer);
        }
        // Of a group with fewer answers than calls.
        fail(group, unexpected);
    }

    async fn connected(&mut self, deadline: Instant) -> Result<&mut MultiplexedConnection, Failed> {
        if self.connection.is_none() {
            // The group has its own limit.
            let settings = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.limit))
                .set_response_timeout(Some(self.limit * 2));
            let connected = self.client.get_multiplexed_async_connection_with_config(&settings);
            let connected = until(deadline, connected).await.map_err(|_| Failed::Late)?;
            self.connection = Some(connected.map_err(Failed::Said)?);
        }
        self.connection.as_mut().ok_or(Failed::Late)
    }
}

fn ended() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the runtime of the store has ended")
}

/// For all of a group.
enum Failed {
    Late,
    Said(RedisError),
}

impl Failed {
    fn to_error(&self) -> StoreError {
        match self {
            Self::Late => StoreError::new(StoreErrorKind::TimedOut, "the server did not answer in time"),
            Self::Said(error) => store_error(error.clone()),
        }
    }
}

fn fail(group: &mut Vec<Call>, error: impl Fn() -> StoreError) {
    for call in group.drain(..) {
        let _ = call.answer.send(Err(error()));
    }
}

/// An answer for each call, and how many replicas have what they wrote: they have half of the time for it, so that what too
/// few of them have can be given back in the other half.
async fn send(
    connection: &mut MultiplexedConnection,
    group: &[Call],
    replicas: u8,
    deadline: Instant,
) -> RedisResult<Vec<Value>> {
    let mut pipeline = redis::Pipeline::with_capacity(2 * group.len() + 1);
    let mut is_answer = Vec::with_capacity(2 * group.len() + 1);
    for call in group {
        if call.is_asking {
            pipeline.cmd("ASKING");
            is_answer.push(false);
        }
        pipeline.add_command(call.command.clone());
        is_answer.push(true);
    }
    let patience = (deadline.saturating_duration_since(Instant::now()) / 2).as_millis() as u64;
    pipeline.cmd("WAIT").arg(replicas).arg(patience.max(1));
    is_answer.push(true);
    let answers = connection.send_packed_commands(&pipeline, 0, is_answer.len()).await?;
    Ok(answers.into_iter().zip(is_answer).filter_map(|(answer, is)| is.then_some(answer)).collect())
}
