//! The real engine as a part of the model: every order of the events of two callers on one key, first on one node
//! without faults, then with lost replies, late copies, crashes, lapses and takeovers between two nodes.

mod acts;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use idempotency_core::*;
use idempotency_engine::*;
use stateright::{Checker, Model, Property};
use time::OffsetDateTime;

use self::acts::lost;
use crate::monitor::{Monitor, Promise};

#[derive(Debug, Clone)]
struct Nodes {
    /// Which node each caller is on.
    callers: Vec<usize>,
    on_orphan: OnOrphan,
    /// The second caller sends another payload.
    stranger: bool,
    /// The second caller waits for what the first one makes of it.
    waits: bool,
    /// How many calls go wrong, and how many nodes crash or shut down.
    faults: u8,
    ends: u8,
    until: u8,
    /// Set when a claim is taken over: a model that never gets there proves nothing of it.
    taken_over: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Asker {
    Idle,
    Waiting,
    /// Went away while it waited.
    Gone,
    Holding(Owner),
    Settling,
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    engines: Vec<Engine>,
    /// Calls under way, at most one for each node: its lane lets one out at a time.
    calls: Vec<Option<Sent>>,
    /// Copies of calls whose sender has stopped waiting.
    late: Vec<Sent>,
    record: Option<Record>,
    askers: Vec<Asker>,
    /// What a resolver holds on behalf of an asker.
    resolving: Vec<Option<Owner>>,
    faults: u8,
    ends: u8,
    monitor: Monitor,
    /// A record was settled or released, and no hint has told of it yet.
    ended: bool,
    /// Something that no engine may do.
    wrong: Option<&'static str>,
}

/// A command on its way, in a form that can be hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Sent {
    Insert(Claim),
    Update(Update),
    Lookup,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Tick,
    Deadline(usize),
    Track(usize),
    GoAway(usize),
    NeverDelivered(usize),
    Complete(usize),
    Release(usize),
    DropPermit(usize),
    /// A resolver says that the work was done, that it was not, or that it does not know.
    ResolveDone(usize),
    ResolveNotDone(usize),
    ResolveUnknown(usize),
    /// A hint that says nothing, which the store may give at any time; the deadline comes later.
    Hint(usize),
    Serve(usize),
    ServeAndLoseTheReply(usize),
    HoldUp(usize),
    /// The backend sends a call once more by itself: the first copy was carried out, or is held up.
    ServeTwice(usize),
    HoldUpAndServe(usize),
    LandLate(usize),
    Crash(usize),
    ShutDown(usize),
}

const ID: RequestId = RequestId::from_bytes([7; 32]);
const LEASE: Duration = Duration::from_secs(3);
const RETENTION: Duration = Duration::from_secs(3);

fn at(seconds: u8) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds.into())
}

fn config() -> Config {
    Config {
        store_limit: Duration::from_secs(1),
        put_patience: Duration::from_secs(1),
        prune_every: None,
        prune_limit: 1,
        max_in_flight: 10,
        look_every: Duration::from_secs(2),
        resolve_limit: Duration::from_secs(2),
        ..Config::default()
    }
}

/// Also of the next owner that the engine makes of one whose claim was handed to a resolver.
fn number(owner: Owner) -> u8 {
    owner.as_bytes()[15] + 2 * owner.as_bytes()[7]
}

fn body(owner: u8) -> &'static str {
    ["", "body of 1", "body of 2", "body of 3", "body of 4", "body of 5", "body of 6"][usize::from(owner)]
}

impl Model for Nodes {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let nodes = self.callers.iter().max().map_or(0, |node| node + 1);
        vec![World {
            now: 0,
            engines: vec![Engine::new(config(), at(0), 0); nodes],
            calls: vec![None; nodes],
            late: Vec::new(),
            record: None,
            askers: vec![Asker::Idle; self.callers.len()],
            resolving: vec![None; self.callers.len()],
            faults: 0,
            ends: 0,
            monitor: Monitor::default(),
            ended: false,
            wrong: None,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.wrong.is_some() || world.monitor.broken.is_some() {
            return;
        }
        if world.now < self.until {
            steps.push(Step::Tick);
        }
        for (caller, asker) in world.askers.iter().enumerate() {
            match asker {
                Asker::Idle => steps.push(Step::Track(caller)),
                Asker::Waiting => steps.push(Step::GoAway(caller)),
                Asker::Holding(_) => steps.extend([
                    Step::NeverDelivered(caller),
                    Step::Complete(caller),
                    Step::Release(caller),
                    Step::DropPermit(caller),
                ]),
                Asker::Gone | Asker::Settling | Asker::Over => {}
            }
            if world.resolving[caller].is_some() {
                steps.extend([
                    Step::ResolveDone(caller),
                    Step::ResolveNotDone(caller),
                    Step::ResolveUnknown(caller),
                ]);
            }
        }
        for node in 0..world.engines.len() {
            if world.engines[node].deadline().is_some_and(|deadline| deadline <= at(world.now).into()) {
                steps.push(Step::Deadline(node));
            }
            if world.engines[node].load().waiting > 0 && world.calls[node].is_none() && world.ended {
                steps.push(Step::Hint(node));
            }
            if world.calls[node].is_some() {
                steps.push(Step::Serve(node));
                if world.faults < self.faults {
                    steps.extend([
                        Step::ServeAndLoseTheReply(node),
                        Step::HoldUp(node),
                        Step::ServeTwice(node),
                        Step::HoldUpAndServe(node),
                    ]);
                }
            }
            if world.ends < self.ends && world.engines[node].load().lanes > 0 {
                steps.extend([Step::Crash(node), Step::ShutDown(node)]);
            }
        }
        steps.extend((0..world.late.len()).map(Step::LandLate));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        let world = &mut next;
        match step {
            Step::Tick => world.now += 1,
            Step::Deadline(node) => self.tell(world, node, Event::Deadline { entropy: 0 }),
            Step::Track(caller) => {
                world.askers[caller] = Asker::Waiting;
                let event = Event::Track { caller: Caller(caller as u64), track: self.track(caller) };
                self.tell(world, self.callers[caller], event);
            }
            Step::GoAway(caller) => {
                world.askers[caller] = Asker::Gone;
                let event = Event::Gone { id: ID, caller: Caller(caller as u64) };
                self.tell(world, self.callers[caller], event);
            }
            Step::NeverDelivered(caller) => {
                let Asker::Holding(owner) = world.askers[caller] else { return None };
                world.askers[caller] = Asker::Over;
                world.monitor.never_begun();
                self.tell(world, self.callers[caller], Event::Undelivered { id: ID, owner });
            }
            Step::Complete(caller) => {
                let Asker::Holding(owner) = world.askers[caller] else { return None };
                let response = body(number(owner)).into();
                self.settle(world, caller, Change::Complete { response, retention: RETENTION }, true);
            }
            Step::Release(caller) => self.settle(world, caller, Change::Release, true),
            Step::DropPermit(caller) => {
                let Asker::Holding(owner) = world.askers[caller] else { return None };
                world.monitor.holder_died(number(owner));
                let change = Change::Halt { reason: HaltReason::Cancelled, retention: RETENTION };
                self.settle(world, caller, change, false);
            }
            Step::ResolveDone(caller) => {
                let owner = world.resolving[caller]?;
                let response = body(number(owner)).into();
                self.resolved(world, caller, Change::Complete { response, retention: RETENTION });
            }
            Step::ResolveNotDone(caller) => self.resolved(world, caller, Change::Release),
            Step::ResolveUnknown(caller) => {
                let change = Change::Halt { reason: HaltReason::Unresolved, retention: RETENTION };
                self.resolved(world, caller, change);
            }
            Step::Hint(node) => {
                world.ended = false;
                self.tell(world, node, Event::Hinted { id: ID });
            }
            Step::Serve(node) => {
                let sent = world.calls[node].take()?;
                let reply = self.apply(world, &sent);
                self.reply(world, node, Ok(reply));
            }
            Step::ServeAndLoseTheReply(node) => {
                world.faults += 1;
                let sent = world.calls[node].take()?;
                self.apply(world, &sent);
                self.reply(world, node, Err(lost()));
            }
            // It runs into its limit, and a copy of it arrives some time later.
            Step::HoldUp(node) => {
                world.faults += 1;
                let sent = world.calls[node].take()?;
                world.late.push(sent);
                self.reply(world, node, Err(lost()));
            }
            Step::ServeTwice(node) => {
                world.faults += 1;
                let sent = world.calls[node].take()?;
                self.apply(world, &sent);
                self.serve_again(world, node, &sent);
            }
            Step::HoldUpAndServe(node) => {
                world.faults += 1;
                let sent = world.calls[node].take()?;
                world.late.push(sent.clone());
                self.serve_again(world, node, &sent);
            }
            Step::LandLate(index) => {
                let sent = world.late.remove(index);
                self.apply(world, &sent);
            }
            Step::Crash(node) => self.crash(world, node),
            Step::ShutDown(node) => {
                world.ends += 1;
                let until = at(world.now) + Duration::from_secs(1);
                self.tell(world, node, Event::Shutdown { caller: Caller(99), until });
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("I1", |_, world: &World| world.monitor.broken != Some(Promise::I1)),
            Property::always("I3 to I12", |_, world: &World| {
                world.monitor.broken.is_none_or(|promise| promise == Promise::I1)
            }),
            Property::always("every answer goes to somebody who waits", |_, world: &World| {
                world.wrong.is_none()
            }),
            Property::always("whoever waits is waited for", |model: &Self, world: &World| {
                (0..world.engines.len()).all(|node| {
                    let engine = &world.engines[node];
                    let quiet = world.calls[node].is_none() && engine.deadline().is_none();
                    let waits = |caller: usize| {
                        model.callers[caller] == node
                            && matches!(world.askers[caller], Asker::Waiting | Asker::Gone | Asker::Settling)
                    };
                    !quiet || (engine.load() == Load::default() && !(0..world.askers.len()).any(waits))
                })
            }),
            Property::sometimes("one completes and the other gets the response", |_, world: &World| {
                world.askers.iter().all(|asker| *asker == Asker::Over)
                    && matches!(&world.record, Some(record) if matches!(record.state, State::Completed(_)))
            }),
            Property::sometimes("nothing is left", |_, world: &World| {
                world.askers.iter().all(|asker| *asker == Asker::Over)
                    && world.record.is_none()
                    && world.engines.iter().all(|engine| engine.load() == Load::default())
            }),
        ]
    }
}

fn explore(name: &str, model: Nodes) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    let discoveries = checker.discoveries();
    for property in
        ["I1", "I3 to I12", "every answer goes to somebody who waits", "whoever waits is waited for"]
    {
        if let Some(path) = discoveries.get(property) {
            panic!("{name}: not so: {property}: {:?}", path.clone().into_actions());
        }
    }
    for reached in ["one completes and the other gets the response", "nothing is left"] {
        assert!(discoveries.contains_key(reached), "{name}: never: {reached}");
    }
    eprintln!("engine {name}: {} states, 0 violations", checker.unique_state_count());
}

fn one_node() -> Nodes {
    Nodes {
        callers: vec![0, 0],
        on_orphan: OnOrphan::Halt,
        stranger: false,
        waits: false,
        faults: 0,
        ends: 0,
        until: 0,
        taken_over: Arc::default(),
    }
}

#[test]
fn every_order_of_the_events_of_two_callers_on_one_key() {
    for on_orphan in [OnOrphan::Halt, OnOrphan::Rerun] {
        for stranger in [false, true] {
            explore("one node, every order", Nodes { on_orphan, stranger, ..one_node() });
        }
    }
}

#[test]
fn one_node_with_a_lost_reply_or_a_late_copy_and_time() {
    for on_orphan in [OnOrphan::Halt, OnOrphan::Rerun] {
        explore("one node, a fault", Nodes { on_orphan, faults: 1, until: 3, ..one_node() });
    }
}

#[test]
fn one_node_that_crashes_or_shuts_down() {
    explore("one node, an end", Nodes { on_orphan: OnOrphan::Rerun, ends: 1, until: 4, ..one_node() });
}

#[test]
fn one_caller_waits_for_another_in_every_order() {
    for on_orphan in [OnOrphan::Halt, OnOrphan::Rerun] {
        for stranger in [false, true] {
            let model = Nodes { on_orphan, stranger, waits: true, until: 3, ..one_node() };
            explore("one node, one waits", model);
        }
    }
}

#[test]
fn one_caller_waits_for_another_with_a_fault_or_an_end() {
    let waits = Nodes { on_orphan: OnOrphan::Rerun, waits: true, until: 3, ..one_node() };
    explore("one node, one waits, a fault", Nodes { faults: 1, ..waits.clone() });
    explore("one node, one waits, an end", Nodes { ends: 1, ..waits });
}

#[test]
fn two_nodes_where_one_waits_for_the_other() {
    let waits = Nodes { callers: vec![0, 1], waits: true, until: 3, ..one_node() };
    explore("two nodes, one waits", waits.clone());
    let model = Nodes { on_orphan: OnOrphan::Rerun, ends: 1, ..waits };
    let taken_over = model.taken_over.clone();
    explore("two nodes, one waits, an end", model);
    assert!(taken_over.load(Ordering::Relaxed));
}

#[test]
fn two_nodes_with_a_resolver() {
    let model = Nodes { callers: vec![0, 1], on_orphan: OnOrphan::Resolve, until: 3, ..one_node() };
    let taken_over = model.taken_over.clone();
    explore("two nodes, a resolver", model);
    assert!(taken_over.load(Ordering::Relaxed));
}

/// The second one crashes or shuts down while its resolver asks.
#[test]
fn one_node_with_a_resolver_that_ends() {
    let model = Nodes { on_orphan: OnOrphan::Resolve, ends: 1, until: 2, ..one_node() };
    explore("one node, a resolver, an end", model);
}

#[test]
fn two_nodes_with_a_lapse_and_a_takeover() {
    let model = Nodes { callers: vec![0, 1], on_orphan: OnOrphan::Rerun, ends: 1, until: 3, ..one_node() };
    let taken_over = model.taken_over.clone();
    explore("two nodes, an end", model);
    assert!(taken_over.load(Ordering::Relaxed));
}
