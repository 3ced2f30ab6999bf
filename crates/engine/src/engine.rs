use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher},
    mem,
};

use foldhash::quality::RandomState;
use idempotency_core::{Claim, RequestId, StoreCommand, StoreError, StoreReply};
use time::OffsetDateTime;

use crate::{
    Answer, Call, Caller, Command, Config, Event, Refused,
    lane::{Context, Counted, Lane},
    moment::Moment,
    pruning::Pruning,
    tenants::Tenants,
};

/// How many lanes one [`Event::Deadline`] serves at most, so that requests pass in between.
const LANES_A_TICK: usize = 256;

/// Decides. See the [crate](crate).
///
/// `Clone`, `Eq` and `Hash`, so that a model checker can hold it as a part of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    config: Config,
    /// Only ids that something is going on for.
    lanes: HashMap<RequestId, Box<Lane>, RandomState>,
    deadlines: BTreeSet<(Moment, RequestId)>,
    pruning: Pruning,
    drain: Option<Drain>,
    /// Reads under way on behalf of callers.
    lookups: usize,
    totals: Totals,
    tenants: Tenants,
    down: Option<Down>,
}

/// A backend that is not asked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Down {
    pub(crate) until: Moment,
    /// It is there, and refuses.
    pub(crate) refuses: bool,
}

/// A shutdown under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Drain {
    caller: Caller,
    /// When what still runs is halted; `None` once that is done.
    halt_at: Option<Moment>,
    /// When to stop waiting for the store.
    give_up: Moment,
    /// The caller has its answer.
    done: bool,
}

/// Sums over all lanes, kept up to date with each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Totals {
    counted: Counted,
    live: usize,
    busy: usize,
}

impl Totals {
    fn of(lane: &Lane) -> Self {
        Self { counted: lane.counted(), live: lane.is_live().into(), busy: lane.is_busy().into() }
    }

    /// Of all but this lane.
    fn elsewhere(&self, lane: Self) -> Counted {
        Counted {
            weight: self.counted.weight - lane.counted.weight,
            waiting: self.counted.waiting - lane.counted.waiting,
            deferred: self.counted.deferred - lane.counted.deferred,
        }
    }

    fn replace(&mut self, before: Self, after: Self) {
        let elsewhere = self.elsewhere(before);
        self.counted = Counted {
            weight: elsewhere.weight + after.counted.weight,
            waiting: elsewhere.waiting + after.counted.waiting,
            deferred: elsewhere.deferred + after.counted.deferred,
        };
        self.live = self.live - before.live + after.live;
        self.busy = self.busy - before.busy + after.busy;
    }
}

/// How much is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Load {
    /// Ids that something is going on for.
    pub lanes: usize,
    /// Claims whose permit lives in this process.
    pub live: usize,
    /// Claims that count against `max_in_flight`: live, on their way, or to be laid to rest.
    pub in_flight: usize,
    /// Callers that wait for what somebody else makes of it.
    pub waiting: usize,
    /// Bytes of results that the store did not take so far.
    pub deferred_bytes: usize,
}

impl Engine {
    /// An engine with nothing going on.
    ///
    /// `entropy`: random bits, for the jitter of the first prune.
    pub fn new(config: Config, now: OffsetDateTime, entropy: u64) -> Self {
        let pruning = Pruning::new(&config, now.into(), entropy);
        Self {
            config,
            lanes: HashMap::default(),
            deadlines: BTreeSet::new(),
            pruning,
            drain: None,
            lookups: 0,
            totals: Totals::default(),
            tenants: Tenants::default(),
            down: None,
        }
    }

    /// Takes one event and appends what is to be done about it.
    ///
    /// Its cost does not grow with the number of keys in flight or stored, but for the logarithm of the deadlines.
    pub fn handle(&mut self, now: OffsetDateTime, event: Event, out: &mut Vec<Command>) {
        let at = At { now, moment: now.into() };
        match event {
            Event::Track { caller, track: _ } if self.drain.is_some() => {
                out.push(Command::Answer(caller, Answer::Tracked(Err(Refused::ShuttingDown))));
            }
            Event::Track { caller, track } => {
                self.with_lane(track.claim.id, at, out, |lane, cx| lane.track(caller, track, cx));
            }
            Event::Gone { id, caller } => self.with_lane(id, at, out, |lane, cx| lane.gone(caller, cx)),
            Event::Undelivered { id, owner } => {
                self.with_lane(id, at, out, |lane, cx| lane.undelivered(owner, cx));
            }
            Event::Settle { update, caller } => {
                self.with_lane(update.id, at, out, |lane, cx| lane.settle(update, caller, cx));
            }
            Event::Forget { caller, id, owner } => {
                self.with_lane(id, at, out, |lane, cx| lane.forget(caller, owner, cx));
            }
            Event::Lookup { caller, id } => {
                self.lookups += 1;
                out.push(Command::Call { call: Call::Lookup(caller), command: StoreCommand::Lookup(id) });
            }
            Event::Scan { caller, cursor, limit } => {
                self.lookups += 1;
                let command = StoreCommand::Scan { cursor, limit };
                out.push(Command::Call { call: Call::Scan(caller), command });
            }
            Event::Prune { caller } => self.pruning.ask(&self.config, caller, out),
            Event::Replied { call: Call::Lane(id), reply } => {
                self.with_lane(id, at, out, |lane, cx| lane.replied(reply, cx));
            }
            Event::Replied { call: Call::Lookup(caller), reply } => {
                self.lookups -= 1;
                let found = self.read(reply.and_then(StoreReply::found));
                out.push(Command::Answer(caller, Answer::Found(found)));
            }
            Event::Replied { call: Call::Scan(caller), reply } => {
                self.lookups -= 1;
                let page = self.read(reply.and_then(StoreReply::page));
                out.push(Command::Answer(caller, Answer::Page(page)));
            }
            Event::Replied { call: Call::Prune, reply } => {
                self.pruning.replied(&self.config, reply, self.drain.is_some(), out);
            }
            Event::Resent { id } => self.with_lane(id, at, out, |lane, _| lane.resent()),
            Event::Hinted { id } => self.with_lane(id, at, out, |lane, cx| lane.hinted(cx)),
            Event::Down { until, refuses } => self.down = Some(Down { until: until.into(), refuses }),
            Event::Up => self.down = None,
            Event::Adopt(adopted) => {
                self.with_lane(adopted.claim.id, at, out, |lane, cx| lane.adopt(*adopted, cx));
            }
            Event::Unwanted { claim } => {
                self.with_lane(claim.id, at, out, |lane, cx| lane.unwanted(claim, true, true, cx));
            }
            Event::Deadline { entropy } => self.tick(at, entropy, out),
            Event::Shutdown { caller, until } => self.shutdown(caller, until.into(), at, out),
        }
        self.finish_drain(at, out);
    }

    /// When the next [`Event::Deadline`] is due. It may come late; then what is due is done late.
    pub fn deadline(&self) -> Option<Moment> {
        let drain = self.drain.as_ref().filter(|drain| !drain.done);
        let drain = drain.map(|drain| drain.halt_at.unwrap_or(drain.give_up));
        let lane = self.deadlines.first().map(|(moment, _)| *moment);
        let pruning = self.pruning.deadline().filter(|_| self.drain.is_none());
        [drain, lane, pruning].into_iter().flatten().min()
    }

    /// How much is going on.
    pub fn load(&self) -> Load {
        let Counted { weight, waiting, deferred } = self.totals.counted;
        Load {
            lanes: self.lanes.len(),
            live: self.totals.live,
            in_flight: weight,
            waiting,
            deferred_bytes: deferred,
        }
    }

    /// The ids that something is going on for, in no order.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.lanes.keys().copied()
    }

    /// The claims whose permit lives in this process, in no order.
    pub fn live(&self) -> impl Iterator<Item = &Claim> {
        self.lanes.values().filter_map(|lane| lane.live())
    }

    /// Whether the permit of this id's claim lives in this process.
    pub fn is_live(&self, id: &RequestId) -> bool {
        self.lanes.get(id).is_some_and(|lane| lane.is_live())
    }

    /// Whether a shutdown has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    fn with_lane(
        &mut self,
        id: RequestId,
        at: At,
        out: &mut Vec<Command>,
        handle: impl FnOnce(&mut Lane, &mut Context<'_>),
    ) {
        let lane = self.lanes.entry(id).or_default();
        let (was_idle, before, among_tenants) = (lane.is_idle(), Totals::of(lane), lane.among_tenants());
        let mut cx = Context {
            config: &self.config,
            id,
            now: at.now,
            moment: at.moment,
            elsewhere: self.totals.elsewhere(before),
            tenants: &self.tenants,
            among_tenants,
            stored: None,
            draining: self.drain.is_some(),
            down: self.down,
            out,
        };
        handle(lane, &mut cx);
        lane.pump(&mut cx);
        let stored = cx.stored;
        self.totals.replace(before, Totals::of(lane));
        self.tenants.replace(among_tenants, lane.among_tenants());
        if let (Some((bytes, retention)), (Some(tenant), _)) = (stored, lane.among_tenants()) {
            self.tenants.store(tenant, bytes, at.moment, retention);
        }

        // A deadline that moved back stays noted where it was and finds nothing to do, and the first one is noted as early as
        // that of a result would be: most claims are settled long before, and then it was never moved.
        let mut deadline = lane.deadline();
        if was_idle {
            deadline = deadline.min(Some(at.moment.after(self.config.put_patience)));
        }
        if deadline.is_none() || lane.armed.is_none_or(|armed| deadline < Some(armed)) {
            if let Some(armed) = mem::replace(&mut lane.armed, deadline) {
                self.deadlines.remove(&(armed, id));
            }
            self.deadlines.extend(deadline.map(|deadline| (deadline, id)));
        }
        if lane.is_idle() {
            self.lanes.remove(&id);
        }
    }

    fn tick(&mut self, at: At, entropy: u64, out: &mut Vec<Command>) {
        // Chosen first, so that each lane has its turn once: one that is due again at once cannot starve the others.
        let due = self.deadlines.iter().take_while(|(moment, _)| *moment <= at.moment).take(LANES_A_TICK);
        for (moment, id) in due.copied().collect::<Vec<_>>() {
            self.deadlines.remove(&(moment, id));
            self.with_lane(id, at, out, |lane, cx| {
                lane.armed = None;
                lane.tick(cx);
            });
        }
        if let Some(drain) = &mut self.drain {
            if drain.halt_at.take_if(|halt_at| *halt_at <= at.moment).is_some() {
                self.with_every_lane(at, out, |lane, cx| lane.halt_for_shutdown(cx));
            }
        } else {
            self.pruning.tick(&self.config, at.moment, entropy, out);
        }
    }

    fn shutdown(&mut self, caller: Caller, until: Moment, at: At, out: &mut Vec<Command>) {
        if self.drain.is_some() {
            // The first one is under way; this one changes nothing and has nothing to wait for.
            out.push(Command::Answer(caller, Answer::Drained(self.totals.live)));
            return;
        }
        let last_calls = self.config.put_patience + self.config.track_patience();
        self.drain =
            Some(Drain { caller, halt_at: Some(until), give_up: until.after(last_calls), done: false });
        self.with_every_lane(at, out, |lane, cx| lane.drain(cx));
    }

    /// Only a shutdown walks over all lanes; in the order of their ids, so that the same events give the same
    /// commands.
    fn with_every_lane(&mut self, at: At, out: &mut Vec<Command>, handle: fn(&mut Lane, &mut Context<'_>)) {
        let mut ids: Vec<RequestId> = self.lanes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.with_lane(id, at, out, handle);
        }
    }

    fn finish_drain(&mut self, at: At, out: &mut Vec<Command>) {
        let Some(drain) = &mut self.drain else { return };
        let quiet = self.totals.busy == 0 && self.lookups == 0 && !self.pruning.is_running();
        let over = quiet || (drain.halt_at.is_none() && drain.give_up <= at.moment);
        if over && !drain.done {
            drain.done = true;
            let caller = drain.caller;
            if !quiet {
                self.with_every_lane(at, out, |lane, cx| lane.tell_unstored(cx));
            }
            out.push(Command::Answer(caller, Answer::Drained(self.totals.live)));
        }
    }

    fn read<T>(&self, read: Result<T, StoreError>) -> Result<T, Refused> {
        read.map_err(|error| Refused::Unavailable {
            retry_after: self.config.store_limit,
            source: Some(error),
        })
    }
}

/// The order of a map is nobody's business: equal engines hash alike.
impl Hash for Engine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { config, lanes, deadlines, pruning, drain, lookups, totals, tenants, down } = self;
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        lanes.iter().fold(0_u64, |sum, lane| sum.wrapping_add(hasher.hash_one(lane))).hash(state);
        (config, deadlines, pruning, drain, lookups, totals, tenants, down).hash(state);
    }
}

#[derive(Debug, Clone, Copy)]
struct At {
    now: OffsetDateTime,
    moment: Moment,
}
