mod drive;
mod mailbox;
mod swapping;

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt, mem,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context};
use idempotency_core::{Capabilities, Clock, Owner, Record, RequestId, SecretCheck, StoreError, StoreReply};
use idempotency_engine::{self as engine, Answer, Call, Caller, Command, Engine, Event};
use rand::{Rng, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use self::{drive::Drive, swapping::Swapping};
use crate::{
    Error, Forgotten, Lease, Permit, Settled, ShutdownReport, StatusReport, Tracked,
    backend::{Backend, FirstSetup, StartBackend},
    inbox::{Inbox, Input, Reply, Slot},
    track::Defaults,
};

/// How long claims may take to settle by themselves once the last handle is gone.
const ABANDONED_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// **The** actor: owns the engine, schedules prune ticks and supervises its backend actor.
///
/// Made by [`Builder::spawn`](crate::Builder::spawn). Most callers use the [`TrackerHandle`](crate::TrackerHandle);
/// its [`addr`](crate::TrackerHandle::addr) takes the same messages from actors:
///
/// ```
/// use actix::{Addr, MailboxError};
/// use idempotency_tracker::{Error, RequestTracker, Track, Tracked};
///
/// async fn ask(tracker: &Addr<RequestTracker>, track: Track) -> Result<Result<Tracked, Error>, MailboxError> {
///     tracker.send(track).await
/// }
/// ```
///
/// Two things differ there: `max_queued` does not bound it, and a permit that is never read *halts* its request,
/// since only the handle can tell that its caller never had it. `MailboxError::Closed` means "unknown whether it
/// ran".
pub struct RequestTracker {
    engine: Engine,
    commands: Vec<Command>,
    callers: HashMap<Caller, Waiting>,
    leases: HashMap<Owner, Lease>,
    defaults: Defaults,
    clock: Arc<dyn Clock>,
    random: StdRng,
    backend: Backend,
    inbox: Inbox,
    receiver: Option<mpsc::UnboundedReceiver<Input>>,
    /// From the mailbox: taken in with what comes from the inbox.
    raw: Rc<RefCell<Vec<Input>>>,
    started: Option<oneshot::Sender<Result<(), Error>>>,
    swapping: Option<Swapping>,
    /// Where the code of stores runs.
    runtime: runtime::Handle,
    secret_check: SecretCheck,
    store_limit: Duration,
    /// Those who wait for the shutdown; `None` before it has begun.
    shutdown: Option<Vec<oneshot::Sender<Result<ShutdownReport, Error>>>>,
    abandoned: bool,
    /// Dropped with the actor, however it ends: its thread waits for that.
    _stopped: oneshot::Sender<()>,
}

/// Who waits for an answer of the engine.
enum Waiting {
    Track { track: Tracking, reply: Reply<Result<Tracked, Error>> },
    Settle(Reply<Result<Settled, Error>>),
    Lookup(Reply<Result<Option<Record>, Error>>),
    Forget(Reply<Result<Forgotten, Error>>),
    Prune(Reply<Result<usize, Error>>),
    Shutdown,
}

/// What is needed of a `Track` to make its permit.
struct Tracking {
    id: RequestId,
    retention: Duration,
    slot: Option<Slot>,
}

/// What the builder hands over.
pub(crate) struct Parts {
    pub(crate) config: engine::Config,
    pub(crate) defaults: Defaults,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inbox: Inbox,
    pub(crate) receiver: mpsc::UnboundedReceiver<Input>,
    pub(crate) start_backend: StartBackend,
    pub(crate) runtime: runtime::Handle,
    pub(crate) capabilities: Capabilities,
    pub(crate) secret_check: SecretCheck,
    pub(crate) started: oneshot::Sender<Result<(), Error>>,
    pub(crate) stopped: oneshot::Sender<()>,
}

impl RequestTracker {
    /// On the thread that it is to live on.
    pub(crate) fn new(parts: Parts) -> Self {
        let now = parts.clock.now();
        let store_limit = parts.config.store_limit;
        let backend =
            Backend::new(parts.start_backend, parts.capabilities, parts.secret_check, store_limit, now);
        Self {
            engine: Engine::new(parts.config, now, rand::random()),
            commands: Vec::new(),
            callers: HashMap::new(),
            leases: HashMap::new(),
            defaults: parts.defaults,
            clock: parts.clock,
            random: StdRng::from_rng(&mut rand::rng()),
            backend,
            inbox: parts.inbox,
            receiver: Some(parts.receiver),
            raw: Rc::default(),
            started: Some(parts.started),
            swapping: None,
            runtime: parts.runtime,
            secret_check: parts.secret_check,
            store_limit,
            shutdown: None,
            abandoned: false,
            _stopped: parts.stopped,
        }
    }

    fn take_in(&mut self, input: Input, now: OffsetDateTime) {
        match input {
            Input::Track { caller, track, reply, slot } => {
                let id = track.id;
                match track.resolve(&self.defaults, Owner::from_u128(random_u128(&mut self.random))) {
                    Ok(track) => {
                        let tracking = Tracking { id, retention: track.claim.retention, slot };
                        self.callers.insert(caller, Waiting::Track { track: tracking, reply });
                        self.decide(now, Event::Track { caller, track });
                    }
                    Err(invalid) => answer(reply, Err(invalid)),
                }
            }
            Input::Gone { id, caller } => {
                // Answered already: then its permit comes back as undelivered.
                if self.callers.contains_key(&caller) {
                    self.decide(now, Event::Gone { id, caller });
                }
            }
            Input::Undelivered { id, owner } => self.decide(now, Event::Undelivered { id, owner }),
            Input::Settle { id, owner, change, reply } => {
                let caller = reply.map(|reply| self.wait(Waiting::Settle(Some(reply))));
                self.decide(now, Event::Settle { id, owner, change, caller });
            }
            Input::Lookup { id, reply } => {
                let caller = self.wait(Waiting::Lookup(reply));
                self.decide(now, Event::Lookup { caller, id });
            }
            Input::Forget { id, owner, reply } => {
                let caller = self.wait(Waiting::Forget(reply));
                tracing::info!(%id, "an operator forgets a record");
                self.decide(now, Event::Forget { caller, id, owner });
            }
            Input::Prune { reply } => {
                let caller = self.wait(Waiting::Prune(reply));
                self.decide(now, Event::Prune { caller });
            }
            Input::Status { reply } => answer(reply, Ok(self.status())),
            Input::Shutdown { grace, reply } => self.begin_shutdown(now, grace, reply),
            Input::Swap(step) => self.swap(step),
            Input::Abandoned => self.abandoned = true,
        }
    }

    fn wait(&mut self, waiting: Waiting) -> Caller {
        let caller = self.inbox.next_caller();
        self.callers.insert(caller, waiting);
        caller
    }

    fn decide(&mut self, now: OffsetDateTime, event: Event) {
        self.engine.handle(now, event, &mut self.commands);
    }

    fn begin_shutdown(
        &mut self,
        now: OffsetDateTime,
        grace: Duration,
        reply: Reply<Result<ShutdownReport, Error>>,
    ) {
        if let Some(waiting) = &mut self.shutdown {
            // The first one set the time; all hear how it ends.
            waiting.extend(reply);
            return;
        }
        tracing::info!(?grace, live = self.engine.load().live, "shutting down");
        self.shutdown = Some(reply.into_iter().collect());
        let caller = self.wait(Waiting::Shutdown);
        let grace = time::Duration::try_from(grace).unwrap_or(time::Duration::MAX);
        self.decide(now, Event::Shutdown { caller, until: now.saturating_add(grace) });
    }

    /// Does what the engine decided. True if calls went to the store, whose answers must be polled for.
    fn carry_out(&mut self, ctx: &mut Context<Self>, now: OffsetDateTime) -> bool {
        let mut commands = mem::take(&mut self.commands);
        for command in commands.drain(..) {
            match command {
                Command::Call { call, command } => {
                    if let Some(id) = command.id() {
                        tracing::trace!(%id, call = command.name(), "to the store");
                    }
                    self.backend.call(call, command);
                }
                Command::Answer(caller, answer) => self.answer(ctx, now, caller, answer),
                Command::Dismiss(caller) => drop(self.callers.remove(&caller)),
                Command::Held { owner, until } => {
                    if let Some(lease) = self.leases.get(&owner) {
                        lease.keep(until);
                    }
                }
                Command::Lost { id, owner } => {
                    tracing::warn!(%id, "the lease of a claim was lost while its caller works");
                    if let Some(lease) = self.leases.get(&owner) {
                        lease.lose();
                    }
                }
                Command::Ended { owner } => {
                    self.leases.remove(&owner);
                }
            }
        }
        self.commands = commands;
        self.backend.send(now)
    }

    fn answer(&mut self, ctx: &mut Context<Self>, now: OffsetDateTime, caller: Caller, answered: Answer) {
        let Some(waiting) = self.callers.remove(&caller) else { return };
        match (waiting, answered) {
            (Waiting::Track { track, reply }, Answer::Tracked(tracked)) => {
                let tracked = tracked.map(|tracked| self.tracked(&track, tracked)).map_err(Error::from);
                match &tracked {
                    Ok(tracked) => tracing::debug!(id = %track.id, outcome = tracked.outcome(), "tracked"),
                    Err(error) => tracing::debug!(id = %track.id, %error, "not tracked"),
                }
                answer(reply, tracked);
            }
            (Waiting::Settle(reply), Answer::Settled(settled)) => answer(reply, Ok(settled)),
            (Waiting::Lookup(reply), Answer::Found(found)) => answer(reply, found.map_err(Error::from)),
            (Waiting::Forget(reply), Answer::Forgotten(forgotten)) => {
                answer(reply, forgotten.map_err(Error::from));
            }
            (Waiting::Prune(reply), Answer::Pruned(deleted)) => answer(reply, deleted.map_err(Error::from)),
            (Waiting::Shutdown, Answer::Drained(unsettled)) => self.close(ctx, now, unsettled),
            // The engine answers what it was asked.
            _ => {}
        }
    }

    fn tracked(&mut self, track: &Tracking, tracked: engine::Tracked) -> Tracked {
        match tracked {
            engine::Tracked::Init { owner, held_until, took_over } => {
                let lease = Lease::new(self.clock.clone(), held_until);
                self.leases.insert(owner, lease.clone());
                let permit =
                    Permit::new(track.id, owner, track.retention, took_over, lease, self.inbox.clone());
                // With a slot it came through the handle, whose future will say that it was delivered.
                Tracked::Init(if track.slot.is_some() { permit.undelivered() } else { permit })
            }
            engine::Tracked::Processing { since, retry_after } => Tracked::Processing { since, retry_after },
            engine::Tracked::Cached { response, expires_at } => Tracked::Cached { response, expires_at },
            engine::Tracked::Halted { reason, expires_at } => Tracked::Halted { reason, expires_at },
            engine::Tracked::Mismatch { expires_at } => Tracked::Mismatch { expires_at },
        }
    }

    /// All is settled that can be: closes the store, then tells those who wait, then stops.
    fn close(&mut self, ctx: &mut Context<Self>, now: OffsetDateTime, unsettled: usize) {
        let closing = actix::fut::wrap_future::<_, Self>(self.backend.close(now));
        ctx.spawn(closing.map(move |closed, this, ctx| {
            match closed.map(|mut replies| replies.pop()) {
                Ok(Some(Ok(_))) => tracing::info!(unsettled, "shut down"),
                Ok(Some(Err(error))) => {
                    tracing::warn!(unsettled, %error, "shut down; the store did not close in order")
                }
                Ok(None) | Err(_) => {
                    tracing::warn!(unsettled, "shut down; the store did not answer to its closing")
                }
            }
            for reply in this.shutdown.iter_mut().flat_map(|waiting| waiting.drain(..)) {
                let _ = reply.send(Ok(ShutdownReport { unsettled }));
            }
            ctx.stop();
        }));
    }

    fn status(&self) -> StatusReport {
        let load = self.engine.load();
        StatusReport {
            live: load.live,
            in_flight: load.in_flight,
            queued: self.inbox.queued(),
            lanes: load.lanes,
            backend_up: self.backend.is_up(),
            restarts: self.backend.restarts(),
            draining: self.engine.is_draining(),
            capabilities: self.backend.capabilities(),
            swapping: self.swapping.as_ref().map(|swapping| swapping.copied.load(Ordering::Relaxed)),
        }
    }
}

impl Actor for RequestTracker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Admission is ours, in the handle; a full mailbox would only park senders.
        ctx.set_mailbox_capacity(1 << 20);
        if let Some(receiver) = self.receiver.take() {
            ctx.spawn(Drive::new(receiver));
        }
    }
}

/// Permits outlive the actor that made them; nobody renews them any more.
impl Drop for RequestTracker {
    fn drop(&mut self) {
        self.leases.values().for_each(Lease::lose);
    }
}

impl fmt::Debug for RequestTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTracker")
            .field("load", &self.engine.load())
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl RequestTracker {
    fn returned(&mut self, now: OffsetDateTime, call: Call, reply: Result<StoreReply, StoreError>) {
        if let Err(error) = &reply {
            match call {
                Call::Lane(id) => tracing::warn!(%id, %error, "a store call failed"),
                Call::Lookup(_) | Call::Prune => tracing::warn!(%error, "a store call failed"),
            }
        }
        self.decide(now, Event::Replied { call, reply });
    }

    fn report_start(&mut self, ctx: &mut Context<Self>, first_setup: FirstSetup) {
        let Some(started) = self.started.take() else { return };
        match first_setup {
            FirstSetup::Succeeded => {
                if started.send(Ok(())).is_ok() {
                    tracing::info!("the tracker runs");
                } else {
                    // Whoever called `spawn` went away meanwhile. Nobody can ever ask us anything.
                    self.abandoned = true;
                }
            }
            FirstSetup::Failed(error) => {
                tracing::error!(%error, "the tracker does not start");
                let _ = started.send(Err(Error::setup(error)));
                ctx.stop();
            }
        }
    }
}

fn answer<T>(reply: Reply<T>, answer: T) {
    if let Some(reply) = reply {
        // Nobody may be there any more. A permit in the answer then sees to itself when it is dropped.
        let _ = reply.send(answer);
    }
}

fn random_u128(random: &mut StdRng) -> u128 {
    u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())
}
