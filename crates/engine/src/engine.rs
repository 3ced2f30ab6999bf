use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash, Hasher},
    mem,
};

use idempotency_core::{Claim, RequestId, StoreCommand, StoreError, StoreReply};
use time::OffsetDateTime;

use crate::{
    Answer, Call, Caller, Command, Config, Event, Refused,
    lane::{Context, Lane},
    moment::Moment,
    pruning::Pruning,
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
    lanes: HashMap<RequestId, Lane>,
    deadlines: BTreeSet<(Moment, RequestId)>,
    pruning: Pruning,
    drain: Option<Drain>,
    /// Reads under way on behalf of callers.
    lookups: usize,
    totals: Totals,
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
    weight: usize,
    live: usize,
    busy: usize,
}

impl Totals {
    fn of(lane: &Lane) -> Self {
        Self { weight: lane.weight(), live: lane.is_live().into(), busy: lane.is_busy().into() }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.weight = self.weight - before.weight + after.weight;
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
}

impl Engine {
    /// An engine with nothing going on.
    ///
    /// `entropy`: random bits, for the jitter of the first prune.
    pub fn new(config: Config, now: OffsetDateTime, entropy: u64) -> Self {
        let pruning = Pruning::new(&config, now.into(), entropy);
        Self {
            config,
            lanes: HashMap::new(),
            deadlines: BTreeSet::new(),
            pruning,
            drain: None,
            lookups: 0,
            totals: Totals::default(),
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
            Event::Settle { id, owner, change, caller } => {
                self.with_lane(id, at, out, |lane, cx| lane.settle(owner, change, caller, cx));
            }
            Event::Forget { caller, id, owner } => {
                self.with_lane(id, at, out, |lane, cx| lane.forget(caller, owner, cx));
            }
            Event::Lookup { caller, id } => {
                self.lookups += 1;
                out.push(Command::Call { call: Call::Lookup(caller), command: StoreCommand::Lookup(id) });
            }
            Event::Prune { caller } => self.pruning.ask(&self.config, caller, out),
            Event::Replied { call: Call::Lane(id), reply } => {
                self.with_lane(id, at, out, |lane, cx| lane.replied(reply, cx));
            }
            Event::Replied { call: Call::Lookup(caller), reply } => {
                self.lookups -= 1;
                self.found(caller, reply, out);
            }
            Event::Replied { call: Call::Prune, reply } => {
                self.pruning.replied(&self.config, reply, self.drain.is_some(), out);
            }
            Event::Deadline { entropy } => self.tick(at, entropy, out),
            Event::Shutdown { caller, until } => self.shutdown(caller, until.into(), at, out),
        }
        self.finish_drain(at, out);
    }

    /// When the next [`Event::Deadline`] is due. It may come late; then what is due is done late.
    pub fn deadline(&self) -> Option<OffsetDateTime> {
        let drain = self.drain.as_ref().filter(|drain| !drain.done);
        let drain = drain.map(|drain| drain.halt_at.unwrap_or(drain.give_up));
        let lane = self.deadlines.first().map(|(moment, _)| *moment);
        let pruning = self.pruning.deadline().filter(|_| self.drain.is_none());
        [drain, lane, pruning].into_iter().flatten().min().map(OffsetDateTime::from)
    }

    /// How much is going on.
    pub fn load(&self) -> Load {
        Load { lanes: self.lanes.len(), live: self.totals.live, in_flight: self.totals.weight }
    }

    /// The ids that something is going on for, in no order.
    pub fn ids(&self) -> impl Iterator<Item = RequestId> {
        self.lanes.keys().copied()
    }

    /// The claims whose permit lives in this process, in no order.
    pub fn live(&self) -> impl Iterator<Item = &Claim> {
        self.lanes.values().filter_map(Lane::live)
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
        let before = Totals::of(lane);
        let mut cx = Context {
            config: &self.config,
            id,
            now: at.now,
            moment: at.moment,
            elsewhere: self.totals.weight - before.weight,
            draining: self.drain.is_some(),
            out,
        };
        handle(lane, &mut cx);
        lane.pump(&mut cx);
        self.totals.replace(before, Totals::of(lane));

        // A deadline that moved back stays noted where it was and finds nothing to do: most claims are settled long
        // before, and then it was moved once instead of three times.
        let deadline = lane.deadline();
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
        match &mut self.drain {
            None => self.pruning.tick(&self.config, at.moment, entropy, out),
            Some(drain) => {
                if drain.halt_at.take_if(|halt_at| *halt_at <= at.moment).is_some() {
                    self.with_every_lane(at, out, |lane, cx| lane.halt_for_shutdown(cx));
                }
            }
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
            out.push(Command::Answer(drain.caller, Answer::Drained(self.totals.live)));
        }
    }

    fn found(&self, caller: Caller, reply: Result<StoreReply, StoreError>, out: &mut Vec<Command>) {
        let found = reply.and_then(StoreReply::found).map_err(|error| Refused::Unavailable {
            retry_after: self.config.store_limit,
            source: Some(error),
        });
        out.push(Command::Answer(caller, Answer::Found(found)));
    }
}

/// The order of a map is nobody's business: equal engines hash alike.
impl Hash for Engine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { config, lanes, deadlines, pruning, drain, lookups, totals } = self;
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        lanes.iter().fold(0_u64, |sum, lane| sum.wrapping_add(hasher.hash_one(lane))).hash(state);
        (config, deadlines, pruning, drain, lookups, totals).hash(state);
    }
}

#[derive(Debug, Clone, Copy)]
struct At {
    now: OffsetDateTime,
    moment: Moment,
}
