use std::{
    collections::VecDeque,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, WeakAddr, dev::MessageResponse,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use idempotency_core::{Store, StoreCommand, StoreError, StoreErrorKind, StoreReply};
use time::OffsetDateTime;
use tokio::{runtime, sync::oneshot};

/// The answers to a [`StoreBatch`]: one for each command, in their order.
pub type StoreReplies = Vec<Result<StoreReply, StoreError>>;

/// The one message that a backend actor understands.
///
/// ```
/// use actix::{Actor, Context, Handler, MessageResult};
/// use idempotency_core::{StoreError, StoreErrorKind};
/// use idempotency_tracker::StoreBatch;
///
/// /// A backend that has nothing and takes nothing.
/// struct Nowhere;
///
/// impl Actor for Nowhere {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<StoreBatch> for Nowhere {
///     type Result = MessageResult<StoreBatch>;
///
///     fn handle(&mut self, batch: StoreBatch, _: &mut Self::Context) -> Self::Result {
///         let refused = || StoreError::new(StoreErrorKind::Unavailable, "nowhere to be found").not_applied();
///         MessageResult(batch.commands.iter().map(|_| Err(refused())).collect())
///     }
/// }
/// ```
///
/// The commands of a batch are independent of each other. A backend that does not batch gets one at a time.
#[derive(Debug, Message)]
#[rtype(result = "StoreReplies")]
pub struct StoreBatch {
    /// What to do.
    pub commands: Vec<StoreCommand>,
    /// The tracker's time.
    pub now: OffsetDateTime,
}

/// The child of the tracker that a [`Store`] lives behind: gathers what waits into batches where the store says that
/// it batches, bounds the time of every call and how many run at once, and dies of a panic in the store, so that the
/// tracker replaces it and sets the store up anew.
pub(crate) struct StoreActor<S: Store> {
    gate: Arc<Gate<S>>,
}

/// How many commands a batch has at most, and how many batches are under way at most: while one is being written the
/// next is gathered, and a third would only make them smaller.
const MAX_BATCH: usize = 512;
const MAX_BATCHES: usize = 2;
/// How many single commands are under way at most.
const MAX_SINGLES: usize = 1024;

impl<S: Store> StoreActor<S> {
    pub(crate) fn start(store: Arc<S>, limit: Duration, runtime: runtime::Handle) -> Addr<Self> {
        Self::create(|ctx| {
            let gate = Gate {
                store,
                limit,
                runtime,
                timers: runtime::Handle::current(),
                actor: ctx.address().downgrade(),
                dying: AtomicBool::new(false),
                waiting: Mutex::default(),
            };
            Self { gate: Arc::new(gate) }
        })
    }
}

impl<S: Store> Actor for StoreActor<S> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The engine bounds what is in flight; a full mailbox would only park senders.
        ctx.set_mailbox_capacity(1 << 20);
    }
}

impl<S: Store> Handler<StoreBatch> for StoreActor<S> {
    type Result = Replying<S>;

    fn handle(&mut self, batch: StoreBatch, ctx: &mut Self::Context) -> Self::Result {
        if !self.gate.store.capabilities().immediate {
            return Replying::Later(self.gate.clone(), batch);
        }
        let replies = self.gate.run_at_once(&batch);
        if self.gate.dying.load(Ordering::Relaxed) {
            ctx.stop();
        }
        Replying::Now(replies)
    }
}

/// A call has panicked. Nobody knows what it left behind, so the store is set up anew behind a new actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Panicked;

impl<S: Store> Handler<Panicked> for StoreActor<S> {
    type Result = ();

    fn handle(&mut self, _: Panicked, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// An answer that is there, or that a task on the store's runtime will send. Spawning the task when actix hands over
/// the sender saves the way back through this actor.
pub(crate) enum Replying<S: Store> {
    Now(StoreReplies),
    Later(Arc<Gate<S>>, StoreBatch),
}

impl<S: Store> MessageResponse<StoreActor<S>, StoreBatch> for Replying<S> {
    fn handle(self, _: &mut Context<StoreActor<S>>, reply: Option<oneshot::Sender<StoreReplies>>) {
        let Some(reply) = reply else { return };
        match self {
            Self::Now(replies) => drop(reply.send(replies)),
            Self::Later(gate, batch) => gate.submit(batch, reply),
        }
    }
}

/// What stands between the actor and the store.
pub(crate) struct Gate<S: Store> {
    store: Arc<S>,
    limit: Duration,
    /// Where the store's own code runs: never the tracker's thread.
    runtime: runtime::Handle,
    /// Where its time is measured: the tracker's thread, whatever the store does to the other one.
    timers: runtime::Handle,
    actor: WeakAddr<StoreActor<S>>,
    dying: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// How many answers of a gathered batch are whose.
type Share = (usize, oneshot::Sender<StoreReplies>);

#[derive(Default)]
struct Waiting {
    batches: VecDeque<(StoreBatch, oneshot::Sender<StoreReplies>)>,
    running: usize,
}

impl<S: Store> Gate<S> {
    /// Queues a batch and, if fewer tasks run than may, starts one that works the queue off.
    fn submit(self: Arc<Self>, batch: StoreBatch, reply: oneshot::Sender<StoreReplies>) {
        let at_once = if self.store.capabilities().batches { MAX_BATCHES } else { MAX_SINGLES };
        let mut waiting = self.lock();
        waiting.batches.push_back((batch, reply));
        if waiting.running < at_once {
            waiting.running += 1;
            drop(waiting);
            let runtime = self.runtime.clone();
            drop(runtime.spawn(self.work_off()));
        }
    }

    async fn work_off(self: Arc<Self>) {
        while let Some((batch, replies_to)) = self.gather() {
            let mut replies = self.run(&batch).await.into_iter();
            for (count, reply) in replies_to {
                let _ = reply.send(replies.by_ref().take(count).collect());
            }
        }
    }

    /// The next batch and who waits for how many of its answers. `None` ends the task that asks.
    fn gather(&self) -> Option<(StoreBatch, Vec<Share>)> {
        let most = if self.store.capabilities().batches { MAX_BATCH } else { 1 };
        let mut waiting = self.lock();
        let Some((mut batch, reply)) = waiting.batches.pop_front() else {
            waiting.running -= 1;
            return None;
        };
        let mut replies_to = vec![(batch.commands.len(), reply)];
        while let Some((next, _)) = waiting.batches.front()
            && batch.commands.len() + next.commands.len() <= most
            && let Some((next, reply)) = waiting.batches.pop_front()
        {
            replies_to.push((next.commands.len(), reply));
            batch.commands.extend(next.commands);
            // Leases count from the moment of sending, so the later moment is the safe one for all.
            batch.now = batch.now.max(next.now);
        }
        Some((batch, replies_to))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the tracker's thread, for a store that never waits.
    fn run_at_once(&self, batch: &StoreBatch) -> StoreReplies {
        let unanswered = || {
            let message = "the store says that it answers at once, and did not";
            batch
                .commands
                .iter()
                .map(|_| Err(StoreError::new(StoreErrorKind::Misconfigured, message)))
                .collect()
        };
        self.run(batch).now_or_never().unwrap_or_else(unanswered)
    }

    /// Every command answered. A batch that fails as a whole is repeated in halves, so that only the guilty command
    /// fails; repetition is safe, since every command bears it.
    fn run<'a>(&'a self, batch: &'a StoreBatch) -> BoxFuture<'a, StoreReplies> {
        self.run_commands(&batch.commands, batch.now)
    }

    fn run_commands<'a>(
        &'a self,
        commands: &'a [StoreCommand],
        now: OffsetDateTime,
    ) -> BoxFuture<'a, StoreReplies> {
        async move {
            if let [command] = commands {
                let call = async { vec![command.call(&*self.store, now).await] };
                return self.guarded(call, 1).await.unwrap_or_else(|error| vec![Err(error)]);
            }
            match self.guarded(self.store.apply(commands, now), commands.len()).await {
                Ok(replies) if !failed_as_a_whole(&replies) => replies,
                Err(error) if error.kind() == StoreErrorKind::TimedOut => {
                    // One of them is slow. Side by side it takes no time from the others.
                    let singles = commands.chunks(1).map(|command| self.run_commands(command, now));
                    join_all(singles).await.concat()
                }
                Ok(_) | Err(_) => {
                    let (one, other) = commands.split_at(commands.len() / 2);
                    let mut replies = self.run_commands(one, now).await;
                    replies.extend(self.run_commands(other, now).await);
                    replies
                }
            }
        }
        .boxed()
    }

    /// A call of the store, within its time limit, its panics caught.
    async fn guarded(
        &self,
        call: impl Future<Output = StoreReplies> + Send,
        count: usize,
    ) -> Result<StoreReplies, StoreError> {
        let call = AssertUnwindSafe(call).catch_unwind();
        let answer = if self.store.capabilities().immediate {
            call.await
        } else {
            let within_limit = {
                let _timers = self.timers.enter();
                tokio::time::timeout(self.limit, call)
            };
            within_limit.await.map_err(|_| {
                let message = format!("no answer within {} ms", self.limit.as_millis());
                StoreError::new(StoreErrorKind::TimedOut, message)
            })?
        };
        match answer {
            Ok(replies) if replies.len() == count => Ok(replies),
            Ok(replies) => {
                let message = format!("{} answers to {count} commands", replies.len());
                Err(StoreError::new(StoreErrorKind::Other, message))
            }
            Err(_) => {
                // The message of the panic went to the panic hook already.
                if !self.dying.swap(true, Ordering::Relaxed)
                    && let Some(actor) = self.actor.upgrade()
                {
                    actor.do_send(Panicked);
                }
                Err(StoreError::new(StoreErrorKind::Panicked, "the store panicked"))
            }
        }
    }
}

/// Whether nothing of a batch was answered, for a reason that may lie in one of its commands: a store that cannot be
/// reached at all is not asked again in halves.
fn failed_as_a_whole(replies: &StoreReplies) -> bool {
    replies.len() > 1
        && replies.iter().all(|reply| {
            reply.as_ref().is_err_and(|error| {
                !matches!(
                    error.kind(),
                    StoreErrorKind::Unavailable | StoreErrorKind::TimedOut | StoreErrorKind::Full
                )
            })
        })
}

impl<S: Store> fmt::Debug for StoreActor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreActor").field("limit", &self.gate.limit).finish_non_exhaustive()
    }
}
