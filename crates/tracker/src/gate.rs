//! What stands between the backend actor and its store: the time of a call and how many run at once are bounded here,
//! batches are gathered, and panics are caught.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::WeakRecipient;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Either, join_all, select},
};
use idempotency_core::{Capabilities, Store, StoreCommand, StoreError, StoreErrorKind, StoreReply};
use time::OffsetDateTime;
use tokio::{
    runtime,
    sync::{oneshot, watch},
};

use crate::{
    StoreBatch,
    store_actor::{Panicked, StoreReplies},
};

/// How many commands a batch has at most.
pub(crate) const MAX_BATCH: usize = 512;
/// How many single commands are under way at most.
const MAX_SINGLES: usize = 1024;

pub(crate) struct Gate<S> {
    store: Arc<S>,
    capabilities: Capabilities,
    limit: Duration,
    /// Where the store's own code runs: never the tracker's thread.
    runtime: runtime::Handle,
    /// Where its time is measured: the tracker's thread, whatever the store does to the other one.
    timers: runtime::Handle,
    /// Closes before those timers are gone.
    ended: watch::Receiver<()>,
    actor: WeakRecipient<Panicked>,
    panicked: AtomicBool,
    waiting: Mutex<Waiting>,
}

/// A store that never waits.
pub(crate) trait AtOnce: Send + Sync {
    /// On the tracker's thread.
    fn run_at_once(&self, batch: &StoreBatch) -> StoreReplies;

    /// A call has panicked, and the actor ends.
    fn has_panicked(&self) -> bool;
}

/// What a store answers.
type Replies = Vec<Result<StoreReply, StoreError>>;

/// A batch and who gets its answers.
type Submitted = (StoreBatch, oneshot::Sender<StoreReplies>);

/// How many answers of a gathered batch are whose.
type Share = (usize, oneshot::Sender<StoreReplies>);

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Submitted>,
    /// Tasks that work the queue off.
    running: usize,
}

impl<S: Store> Gate<S> {
    pub(crate) fn new(
        store: Arc<S>,
        limit: Duration,
        runtime: runtime::Handle,
        ended: watch::Receiver<()>,
        actor: WeakRecipient<Panicked>,
    ) -> Self {
        Self {
            capabilities: store.capabilities(),
            store,
            limit,
            runtime,
            timers: runtime::Handle::current(),
            ended,
            actor,
            panicked: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn is_immediate(&self) -> bool {
        self.capabilities.immediate
    }

    /// Queues a batch and, if fewer tasks run than may, starts one that works the queue off.
    pub(crate) fn submit(self: Arc<Self>, batch: StoreBatch, reply: oneshot::Sender<StoreReplies>) {
        let at_once = match self.capabilities.batches {
            0 => MAX_SINGLES,
            batches => batches,
        };
        let mut waiting = self.lock();
        waiting.batches.push_back((batch, reply));
        if waiting.running < at_once {
            waiting.running += 1;
            drop(waiting);
            // Made here, not in the task: a runtime that is gone never polls it.
            let worker = Worker { gate: self.clone(), retired: false };
            drop(self.runtime.spawn(worker.work_off()));
        }
    }

    /// The next batch and who waits for how many of its answers.
    fn gather(&self, waiting: &mut Waiting) -> Option<(StoreBatch, Vec<Share>)> {
        let most = if self.capabilities.batches > 0 { MAX_BATCH } else { 1 };
        let (mut batch, reply) = waiting.batches.pop_front()?;
        let mut shares = vec![(batch.commands.len(), reply)];
        while let Some((next, _)) = waiting.batches.front()
            && batch.commands.len() + next.commands.len() <= most
            && let Some((next, reply)) = waiting.batches.pop_front()
        {
            shares.push((next.commands.len(), reply));
            batch.commands.extend(next.commands);
            // Leases count from the moment of sending, so the later moment is the safe one for all.
            batch.now = batch.now.max(next.now);
        }
        Some((batch, shares))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every command answered.
    fn run<'a>(&'a self, commands: &'a [StoreCommand], now: OffsetDateTime) -> BoxFuture<'a, StoreReplies> {
        async move {
            match self.try_together(commands, now).await {
                Ok(replies) if !failed_as_a_whole(&replies) => replies.into(),
                failed => self.repeat(commands, now, &failed).await,
            }
        }
        .boxed()
    }

    /// What failed as a whole is repeated in parts, so that only the guilty command fails. Every command bears it, but who
    /// sent it must know: a copy of the first time may have been carried out, or be carried out later.
    async fn repeat(
        &self,
        commands: &[StoreCommand],
        now: OffsetDateTime,
        failed: &Result<Replies, StoreError>,
    ) -> StoreReplies {
        let parts = match failed {
            // Side by side, so that a slow one takes no time from the others.
            Err(error) if error.kind() == StoreErrorKind::TimedOut => {
                join_all(commands.chunks(1).map(|command| self.run(command, now))).await
            }
            Ok(_) | Err(_) => {
                let (one, other) = commands.split_at(commands.len() / 2);
                vec![self.run(one, now).await, self.run(other, now).await]
            }
        };
        let resent = may_be_applied(failed) || parts.iter().any(|part| part.resent);
        parts.into_iter().flatten().collect::<StoreReplies>().resent(resent)
    }

    /// One call of the store. An error is that of the whole batch; a single command has its error as its answer.
    async fn try_together(
        &self,
        commands: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Result<Replies, StoreError> {
        if let [command] = commands {
            let call = async { vec![command.call(&*self.store, now).await] };
            return Ok(self.guarded(call, 1).await.unwrap_or_else(|error| vec![Err(error)]));
        }
        // Called inside the future, so that a panic before its first await is caught too.
        self.guarded(async { self.store.apply(commands, now).await }, commands.len()).await
    }

    /// A call of the store, within its time limit, its panics caught.
    async fn guarded(
        &self,
        call: impl Future<Output = Replies> + Send,
        count: usize,
    ) -> Result<Replies, StoreError> {
        let call = AssertUnwindSafe(call).catch_unwind();
        let answer = if self.is_immediate() { call.await } else { self.in_time(call).await? };
        match answer {
            Ok(replies) if replies.len() == count => Ok(replies),
            Ok(replies) => {
                let message = format!("{} answers to {count} commands", replies.len());
                Err(StoreError::new(StoreErrorKind::Other, message))
            }
            Err(_) => Err(self.dies()),
        }
    }

    /// Of a panic, whose message went to the panic hook already.
    fn dies(&self) -> StoreError {
        if !self.panicked.swap(true, Ordering::Relaxed)
            && let Some(actor) = self.actor.upgrade()
        {
            actor.do_send(Panicked);
        }
        StoreError::new(StoreErrorKind::Panicked, "the store panicked")
    }

    async fn in_time<T>(&self, call: impl Future<Output = T>) -> Result<T, StoreError> {
        let mut ended = self.ended.clone();
        let in_time = {
            let _timers = self.timers.enter();
            tokio::time::timeout(self.limit, call)
        };
        // The end is looked at first: once it has come the timer must not be asked any more.
        match select(pin!(ended.changed()), pin!(in_time)).await {
            Either::Left(_) => Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "the tracker ended while the call was under way",
            )),
            Either::Right((Ok(answer), _)) => Ok(answer),
            Either::Right((Err(_), _)) => {
                let message = format!("no answer within {} ms", self.limit.as_millis());
                Err(StoreError::new(StoreErrorKind::TimedOut, message))
            }
        }
    }
}

impl<S: Store> AtOnce for Gate<S> {
    fn run_at_once(&self, batch: &StoreBatch) -> StoreReplies {
        // On a budget of its own: what the tracker has used up of its task's must not make the store wait.
        let run = tokio::task::unconstrained(self.run(&batch.commands, batch.now));
        // Once more around it: also what is dropped unfinished must not panic in the tracker.
        let error = match catch_unwind(AssertUnwindSafe(|| run.now_or_never())) {
            Ok(Some(replies)) => return replies,
            Ok(None) => {
                let message = "the store says that it answers at once, and did not";
                StoreError::new(StoreErrorKind::Misconfigured, message)
            }
            Err(_) => self.dies(),
        };
        batch.commands.iter().map(|_| Err(error.clone())).collect()
    }

    fn has_panicked(&self) -> bool {
        self.panicked.load(Ordering::Relaxed)
    }
}

/// A task that works the queue off. If its runtime drops it, nobody is left waiting for ever.
struct Worker<S: Store> {
    gate: Arc<Gate<S>>,
    retired: bool,
}

impl<S: Store> Worker<S> {
    async fn work_off(mut self) {
        while let Some((batch, shares)) = self.next() {
            match self.gate.try_together(&batch.commands, batch.now).await {
                Ok(replies) if !failed_as_a_whole(&replies) => hand_out(replies.into(), shares),
                // What is slow or guilty is dealt with aside: the next batch need not wait for it.
                failed => drop(self.gate.runtime.spawn(deal_with(self.gate.clone(), batch, shares, failed))),
            }
        }
    }

    /// Retires when there is nothing to do; under the same lock, or a batch that comes just then would find nobody.
    fn next(&mut self) -> Option<(StoreBatch, Vec<Share>)> {
        let mut waiting = self.gate.lock();
        let next = self.gate.gather(&mut waiting);
        if next.is_none() {
            waiting.running -= 1;
            self.retired = true;
        }
        next
    }
}

async fn deal_with<S: Store>(
    gate: Arc<Gate<S>>,
    batch: StoreBatch,
    shares: Vec<Share>,
    failed: Result<Replies, StoreError>,
) {
    hand_out(gate.repeat(&batch.commands, batch.now, &failed).await, shares);
}

impl<S: Store> Drop for Worker<S> {
    fn drop(&mut self) {
        if !self.retired {
            let mut waiting = self.gate.lock();
            waiting.running -= 1;
            // The runtime is gone. Whoever waits hears that his answer will not come.
            let left =
                if waiting.running == 0 { std::mem::take(&mut waiting.batches) } else { VecDeque::new() };
            drop(waiting);
            drop(left);
        }
    }
}

fn hand_out(replies: StoreReplies, shares: Vec<Share>) {
    let resent = replies.resent;
    let mut replies = replies.into_iter();
    for (count, reply) in shares {
        let share = replies.by_ref().take(count).collect::<StoreReplies>();
        let _ = reply.send(share.resent(resent));
    }
}

/// Whether something of what failed was carried out, or may be later.
fn may_be_applied(failed: &Result<Replies, StoreError>) -> bool {
    let may_be = |error: &StoreError| !error.was_not_applied();
    match failed {
        Ok(replies) => replies.iter().any(|reply| reply.as_ref().map_or_else(may_be, |_| true)),
        Err(error) => may_be(error),
    }
}

/// Whether nothing of a batch was answered, for a reason that may lie in one of its commands: a store that cannot be
/// reached at all is not asked again in halves.
fn failed_as_a_whole(replies: &Replies) -> bool {
    let may_be_one = |error: &StoreError| {
        !matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::TimedOut | StoreErrorKind::Full)
    };
    replies.len() > 1 && replies.iter().all(|reply| reply.as_ref().is_err_and(may_be_one))
}
