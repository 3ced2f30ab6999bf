mod answering;
mod asking;
mod drive;
mod ending;
mod mailbox;
mod swapping;
mod vigil;

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{Actor, AsyncContext, Context};
use foldhash::quality::RandomState;
use idempotency_core::{
    Clock, Fingerprint, Owner, Page, Record, RequestId, SecretCheck, Setup, StoreCommand, StoreReply, Tenant,
};
use idempotency_engine::{self as engine, Call, Caller, Command, Engine, Event};
use rand::{Rng, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;
use tokio::{runtime, sync::oneshot, time::Instant};
use tracing::Span;

pub(crate) use self::asking::outcome;
use self::{asking::Asking, drive::Drive, swapping::Swapping};
use crate::{
    Error, Forgotten, Resolver, Settled, StatusReport, Tracked,
    backend::{Backend, FirstSetup, Returned},
    builder::OnHappened,
    cache::ReadCache,
    estate::{SentClaim, SharedEstate},
    hints::Hints,
    inbox::{Inbox, Input, Reply, Slot},
    meters::Meters,
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
/// ran": a [`PutResponse`](crate::PutResponse) that is sent to the address of an actor that has died takes its permit along, and
/// its request is halted as cancelled. [`Permit::complete`](crate::Permit::complete) and the handle do not have that gap.
pub struct RequestTracker {
    engine: Engine,
    /// What it has from the one before it, and has not looked at yet.
    inherited: Option<Vec<Event>>,
    commands: Vec<Command>,
    callers: HashMap<Caller, Waiting, RandomState>,
    asking: Asking,
    random: StdRng,
    backend: Backend,
    inbox: Inbox,
    /// What the next actor goes on with, should this one die.
    estate: SharedEstate,
    parts: Parts,
    meters: Meters,
    swapping: Option<Swapping>,
    /// How many there were before it.
    number: u64,
    /// Calls that were answered for good in this round.
    answered: Vec<RequestId>,
    /// Told of its orderly end; dropped without a word at any other.
    stopped: Option<oneshot::Sender<()>>,
}

/// Who waits for an answer of the engine.
enum Waiting {
    Track { track: Tracking, reply: Reply<Result<Tracked, Error>> },
    Settle { id: RequestId, reply: Reply<Result<Settled, Error>> },
    Lookup { id: RequestId, reply: Reply<Result<Option<Record>, Error>> },
    Scan(Reply<Result<Page, Error>>),
    Forget(Reply<Result<Forgotten, Error>>),
    Prune(Reply<Result<usize, Error>>),
    Shutdown,
}

/// What is needed of a `Track` to make its permit.
struct Tracking {
    id: RequestId,
    fingerprint: Fingerprint,
    tenant: Option<Tenant>,
    resolver: Option<Resolver>,
    slot: Option<Slot>,
}

/// What the builder hands over, to each actor anew.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) config: engine::Config,
    pub(crate) defaults: Defaults,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where the code of stores and resolvers runs.
    pub(crate) runtime: runtime::Handle,
    pub(crate) secret_check: SecretCheck,
    pub(crate) on_happened: OnHappened,
    /// For simulations: owners and jitter come from it.
    pub(crate) seed: Option<u64>,
    pub(crate) cache: ReadCache,
    /// Nothing else lives on its thread.
    pub(crate) has_a_thread: bool,
}

impl RequestTracker {
    /// On the thread that it is to live on.
    pub(crate) fn new(parts: Parts, estate: SharedEstate, stopped: oneshot::Sender<()>) -> Self {
        let now = parts.clock.now();
        // The one before this may have died with the answer to a `Forget`.
        parts.cache.clear();
        let (inbox, number) = (estate.borrow().inbox.clone(), estate.borrow().replaced);
        let mut random = match parts.seed {
            Some(seed) => StdRng::seed_from_u64(seed.wrapping_add(number)),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        let (backend, events) = {
            let estate = estate.borrow();
            let backend = Backend::new(
                estate.backend.clone(),
                Setup::new(parts.secret_check, now),
                parts.config.store_limit,
                (estate.started.is_some(), estate.restarts),
                StdRng::from_rng(&mut random),
                Hints::new(inbox.clone(), parts.runtime.clone()),
            );
            (backend, estate.inherited())
        };
        let engine = Engine::new(parts.config.clone(), now, random.next_u64());
        let tracker = Self {
            engine,
            inherited: Some(events),
            commands: Vec::new(),
            callers: HashMap::default(),
            asking: Asking::default(),
            random,
            backend,
            inbox,
            estate,
            parts,
            meters: Meters::new(),
            swapping: None,
            number,
            answered: Vec::new(),
            stopped: Some(stopped),
        };
        tracker.meters.replaced(number);
        tracker
    }

    /// On the actor's own task: should the same bug be in it again, another one is started again.
    fn inherit(&mut self, now: OffsetDateTime) {
        let Some(events) = self.inherited.take() else { return };
        for event in events {
            self.decide(now, event);
        }
        self.go_on_shutting_down(now);
    }

    fn next_input(&self) -> Option<Input> {
        self.estate.borrow_mut().taken.pop_front()
    }

    fn take_in(&mut self, input: Input, now: OffsetDateTime) {
        match input {
            Input::Track { caller, mut track, reply, slot } => {
                let (id, span) = (track.id, mem::replace(&mut track.span, Span::none()));
                match track.resolve(&self.parts.defaults, Owner::from_u128(random_u128(&mut self.random))) {
                    Ok((track, resolver)) => {
                        self.asking.begin(id, caller, span);
                        let (fingerprint, tenant) = (track.claim.fingerprint, track.tenant);
                        let tracking = Tracking { id, fingerprint, tenant, resolver, slot };
                        self.callers.insert(caller, Waiting::Track { track: tracking, reply });
                        self.decide(now, Event::Track { caller, track });
                    }
                    Err(invalid) => {
                        self.meters.request(invalid.outcome());
                        answer(reply, Err(invalid));
                    }
                }
            }
            Input::Gone { id, caller } => {
                // Answered already: then its permit comes back as undelivered.
                if self.callers.contains_key(&caller) {
                    self.decide(now, Event::Gone { id, caller });
                }
            }
            Input::Undelivered { id, owner } => {
                if let Some(live) = self.estate.borrow_mut().live.get_mut(&owner) {
                    live.is_undelivered = true;
                }
                self.decide(now, Event::Undelivered { id, owner });
            }
            Input::Settle { update, reply, span } => {
                let (id, update) = (update.id, Arc::new(update));
                // It must not die with this actor.
                self.estate.borrow_mut().unsettled.insert(update.owner, update.clone());
                let caller = reply.map(|reply| self.wait(Waiting::Settle { id, reply: Some(reply) }));
                if let Some(caller) = caller {
                    self.asking.begin(id, caller, span);
                }
                self.decide(now, Event::Settle { update, caller });
            }
            Input::Lookup { id, reply } => {
                let caller = self.wait(Waiting::Lookup { id, reply });
                self.decide(now, Event::Lookup { caller, id });
            }
            Input::Scan { cursor, limit, reply } => {
                let caller = self.wait(Waiting::Scan(reply));
                self.decide(now, Event::Scan { caller, cursor, limit });
            }
            Input::Forget { id, owner, reason, reply } => {
                let caller = self.wait(Waiting::Forget(reply));
                tracing::info!(%id, reason, "an operator forgets a record");
                self.decide(now, Event::Forget { caller, id, owner });
            }
            Input::Prune { reply } => {
                let caller = self.wait(Waiting::Prune(reply));
                self.decide(now, Event::Prune { caller });
            }
            Input::Status { reply } => answer(reply, Ok(self.status())),
            Input::Shutdown { grace, reply } => self.begin_shutdown(now, grace, reply),
            Input::AskSwap { backend, policy, reply } => self.ask_swap(backend, policy, reply),
            Input::Swap { actor, step } if actor == self.number => self.swap(step),
            // Of an actor before this one, which knew what had been written meanwhile.
            Input::Swap { .. } => {}
            Input::Hinted { id } => self.decide(now, Event::Hinted { id }),
            Input::Abandoned => self.estate.borrow_mut().abandon(),
        }
    }

    fn wait(&mut self, waiting: Waiting) -> Caller {
        let caller = self.inbox.next_caller();
        self.callers.insert(caller, waiting);
        caller
    }

    /// Nobody waits under this name any more.
    fn waited(&mut self, caller: Caller) -> Option<Waiting> {
        let waiting = self.callers.remove(&caller)?;
        if let Waiting::Track { track: Tracking { id, .. }, .. } | Waiting::Settle { id, .. } = &waiting {
            self.asking.end(id, caller);
        }
        Some(waiting)
    }

    fn decide(&mut self, now: OffsetDateTime, event: Event) {
        self.engine.handle(now, event, &mut self.commands);
    }

    /// Does what the engine decided. True if calls went to the store, whose answers must be polled for; those that it gave at
    /// once have returned.
    fn carry_out(
        &mut self,
        ctx: &mut Context<Self>,
        now: OffsetDateTime,
        returned: &mut Vec<Returned>,
    ) -> bool {
        let mut commands = mem::take(&mut self.commands);
        let since = Instant::now();
        for command in commands.drain(..) {
            match command {
                Command::Call { call, command } => {
                    if let Some(id) = command.id() {
                        tracing::trace!(%id, call = command.name(), "to the store");
                    }
                    if let StoreCommand::Insert(claim) = &command {
                        let sent = SentClaim { claim: claim.clone(), answered: false };
                        self.estate.borrow_mut().sent.insert(claim.id, sent);
                    }
                    let span = self.asking.call(&command);
                    self.backend.call(call, command, since, span);
                }
                Command::Answer(caller, answer) => self.answer(ctx, now, caller, answer),
                Command::Dismiss(caller) => drop(self.waited(caller)),
                Command::Held { owner, until } => {
                    if let Some(live) = self.estate.borrow().live.get(&owner) {
                        live.lease.keep(until);
                    }
                }
                Command::Lost { id, owner } => {
                    tracing::warn!(%id, "the lease of a claim was lost while its caller works");
                    self.meters.leases_lost.increment(1);
                    if let Some(live) = self.estate.borrow().live.get(&owner) {
                        live.lease.lose();
                    }
                }
                Command::Ended { owner } => drop(self.estate.borrow_mut().live.remove(&owner)),
                Command::Settled { owner } => drop(self.estate.borrow_mut().unsettled.remove(&owner)),
                Command::BodyLetGo { owner } => {
                    let mut estate = self.estate.borrow_mut();
                    if let Some(update) = estate.unsettled.get_mut(&owner) {
                        Arc::make_mut(update).change.let_body_go();
                    }
                }
                Command::Resolve { caller, permit } => self.resolve(now, caller, permit),
                Command::Happened(id, what) => self.happened(id, what),
            }
        }
        self.commands = commands;
        let mut estate = self.estate.borrow_mut();
        for id in self.answered.drain(..) {
            // Unless it was sent again.
            if let Entry::Occupied(sent) = estate.sent.entry(id)
                && sent.get().answered
            {
                sent.remove();
            }
        }
        estate.restarts = self.backend.restarts();
        drop(estate);
        self.backend.send(now, &self.meters, returned)
    }

    fn measure(&self) {
        self.meters.load(self.engine.load(), self.inbox.queued());
        self.meters.backend(self.backend.is_up(), self.backend.is_open(), self.backend.restarts());
    }

    fn status(&self) -> StatusReport {
        let load = self.engine.load();
        StatusReport {
            live: load.live,
            in_flight: load.in_flight,
            queued: self.inbox.queued(),
            waiting: load.waiting,
            deferred_bytes: load.deferred_bytes,
            lanes: load.lanes,
            backend_up: self.backend.is_up(),
            breaker_open: self.backend.is_open(),
            restarts: self.backend.restarts(),
            last_failure: self.backend.last_failure(),
            replaced: self.number,
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
        ctx.spawn(Drive::new(self.parts.has_a_thread));
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
    fn returned(&mut self, now: OffsetDateTime, Returned { call, reply, resent }: Returned) {
        if let Err(error) = &reply {
            match call {
                Call::Lane(id) => tracing::warn!(%id, %error, "a store call failed"),
                Call::Lookup(_) | Call::Scan(_) | Call::Prune => {
                    tracing::warn!(%error, "a store call failed")
                }
            }
        }
        if let Call::Lane(id) = call
            && reply.as_ref().map_or_else(|error| error.was_not_applied() || !error.is_retryable(), |_| true)
            && let Some(sent) = self.estate.borrow_mut().sent.get_mut(&id)
        {
            sent.answered = true;
            self.answered.push(id);
        }
        if let Ok(StoreReply::Pruned(pruned)) = &reply {
            self.meters.pruned.increment(pruned.deleted as u64);
        }
        if let (Call::Lane(id), true) = (call, resent) {
            self.decide(now, Event::Resent { id });
        }
        self.decide(now, Event::Replied { call, reply });
    }

    fn report_start(&mut self, ctx: &mut Context<Self>, first_setup: FirstSetup) {
        let Some(started) = self.estate.borrow_mut().started.take() else { return };
        match first_setup {
            FirstSetup::Succeeded => {
                if started.send(Ok(())).is_ok() {
                    tracing::info!("the tracker runs");
                } else {
                    // Whoever called `spawn` went away meanwhile. Nobody can ever ask us anything.
                    self.estate.borrow_mut().abandon();
                }
            }
            FirstSetup::Failed(error) => {
                tracing::error!(%error, "the tracker does not start");
                let _ = started.send(Err(Error::setup(error)));
                self.end(ctx);
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
