//! The protocol between callers and one store, as a model: callers that crash, lose replies and repeat themselves,
//! messages that arrive late, leases that lapse, records that expire and are pruned, takeovers, an operator who
//! forgets, a shutdown. One id, logical time. What the store does is the real table of `core`; what a caller makes of
//! a record is the engine's real verdict.

mod arrival;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use idempotency_core::*;
use idempotency_engine::OnOrphan;
use stateright::{Checker, HasDiscoveries, Model, Property};
use time::OffsetDateTime;

use self::arrival::send;
use crate::monitor::{Monitor, Promise};

pub(crate) const LEASE: u64 = 2;
pub(crate) const RETENTION: u64 = 2;

/// What is wrong with the store, or with what callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    LookUpThenInsert,
    UnconditionalComplete,
    CounterAsFence,
    NaivePrune,
    ExpiryIgnoredOnRead,
    HaltWrittenOnLapse,
    ReleaseOnDrop,
    RepeatedClaimOfSettledIsClaimed,
}

/// A small world, explored to its end.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) fault: Fault,
    pub(crate) callers: u8,
    /// How many of the callers, from the last, send another payload.
    pub(crate) strangers: u8,
    pub(crate) on_orphan: OnOrphan,
    pub(crate) renewal: bool,
    /// Operators and shutdowns.
    pub(crate) operations: bool,
    /// How often a call may be repeated while its first copy is still under way.
    pub(crate) repeats: u8,
    pub(crate) until: u8,
    /// Bits of [`Reached`].
    pub(crate) reached: Arc<AtomicU8>,
}

/// States that a model must get to, or it proves nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reached {
    LatePutAfterTakeover = 1,
    ClaimAfterPrune = 2,
    LateCopyAfterRelease = 4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Caller {
    Idle,
    /// Waits for the answer to its claim, perhaps one that takes over from `from`.
    Claiming {
        from: Option<u8>,
    },
    Working,
    /// Waits until its result is stored.
    Settling(Word),
    /// Its result is stored, as far as it knows.
    Settled,
    /// Has its answer, or is dead.
    Over,
}

/// What a caller sends to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Word {
    Claim {
        from: Option<u8>,
    },
    /// The second half of a claim that is not atomic.
    BlindWrite,
    Renew,
    Complete,
    Halt,
    Shutdown,
    Release,
    /// By an operator, who read this owner.
    Forget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Message {
    caller: u8,
    word: Word,
    /// What the sender believes to own the record by.
    token: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    now: u8,
    record: Option<Record>,
    callers: Vec<Caller>,
    /// What each caller owns the record by: a number of its own, or the counter of the row.
    tokens: Vec<u8>,
    /// Sorted: in which order they were sent does not matter.
    under_way: Vec<Message>,
    repeated: u8,
    lost: u8,
    operated: u8,
    renewed_at: u8,
    /// A prune that has chosen what to delete and not deleted it yet.
    chosen_to_prune: bool,
    was_pruned: bool,
    released: Vec<u8>,
    pub(crate) monitor: Monitor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Tick,
    Claim(u8),
    Arrive(usize),
    /// It arrives and is done, and its reply is lost.
    ArriveUnanswered(usize),
    Repeat(u8),
    GiveUp(u8),
    Renew(u8),
    Complete(u8),
    Release(u8),
    DropPermit(u8),
    Crash(u8),
    Shutdown(u8),
    ClaimAgain(u8),
    Forget,
    Prune,
    ChooseToPrune,
    DeleteChosen,
}

fn at(time: u8) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(time.into())
}

fn owner(token: u8) -> Owner {
    Owner::from_u128(token.into())
}

fn token(owner: Owner) -> u8 {
    owner.as_bytes()[15]
}

pub(crate) fn body(caller: u8) -> &'static str {
    ["body of 0", "body of 1", "body of 2"][usize::from(caller)]
}

const ID: RequestId = RequestId::from_bytes([7; 32]);

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let count = usize::from(self.callers);
        vec![World {
            now: 0,
            record: None,
            callers: vec![Caller::Idle; count],
            tokens: (1..=self.callers).map(|number| 10 * number).collect(),
            under_way: Vec::new(),
            repeated: 0,
            lost: 0,
            operated: 0,
            renewed_at: 0,
            chosen_to_prune: false,
            was_pruned: false,
            released: Vec::new(),
            monitor: Monitor::default(),
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        // What follows a broken promise says nothing more.
        if world.monitor.broken.is_some() {
            return;
        }
        let now = at(world.now);
        if world.now < self.until {
            steps.push(Step::Tick);
        }
        for index in 0..world.under_way.len() {
            // Copies of one message are all the same.
            if index == 0 || world.under_way[index] != world.under_way[index - 1] {
                steps.push(Step::Arrive(index));
                if world.lost < 2 {
                    steps.push(Step::ArriveUnanswered(index));
                }
            }
        }
        let may_operate = self.operations && world.operated < 1;
        for (index, caller) in (0..self.callers).zip(&world.callers) {
            match caller {
                // Callers that are alike come in order; the other orders are the same with other names.
                Caller::Idle => {
                    let next = world.callers.iter().position(|caller| *caller == Caller::Idle);
                    if self.strangers > 0 || next == Some(index.into()) {
                        steps.push(Step::Claim(index));
                    }
                }
                Caller::Claiming { .. } => steps.extend([Step::GiveUp(index), Step::Crash(index)]),
                Caller::Working => {
                    steps.extend([Step::Complete(index), Step::Crash(index)]);
                    steps.extend([Step::DropPermit(index), Step::Release(index)]);
                    let renewing = world.under_way.iter().any(|message| message.word == Word::Renew);
                    if self.renewal && world.renewed_at < world.now && !renewing {
                        steps.push(Step::Renew(index));
                    }
                    if may_operate {
                        steps.push(Step::Shutdown(index));
                    }
                }
                // A claim repeated by somebody who did not hear that it was answered.
                Caller::Settled if world.repeated < self.repeats => steps.push(Step::ClaimAgain(index)),
                // One that crashes while it settles is one that never hears again.
                Caller::Settling(_) | Caller::Settled | Caller::Over => {}
            }
            let waits = matches!(caller, Caller::Claiming { .. } | Caller::Settling(_));
            if waits && world.repeated < self.repeats {
                steps.push(Step::Repeat(index));
            }
        }
        if may_operate && world.record.is_some() {
            steps.push(Step::Forget);
        }
        if self.fault == Fault::NaivePrune {
            match &world.record {
                Some(record) if record.is_expired(now) && !world.chosen_to_prune => {
                    steps.push(Step::ChooseToPrune)
                }
                _ => {}
            }
            if world.chosen_to_prune {
                steps.push(Step::DeleteChosen);
            }
        } else if world.record.as_ref().is_some_and(|record| record.is_expired(now)) {
            steps.push(Step::Prune);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        let world = &mut next;
        let now = at(world.now);
        let message = |world: &World, caller: u8, word| Message {
            caller,
            word,
            token: world.tokens[usize::from(caller)],
        };
        let say = |world: &mut World, caller: u8, word| {
            world.callers[usize::from(caller)] = Caller::Settling(word);
            send(world, message(world, caller, word));
        };
        match step {
            Step::Tick => world.now += 1,
            Step::Claim(caller) => {
                world.callers[usize::from(caller)] = Caller::Claiming { from: None };
                send(world, message(world, caller, Word::Claim { from: None }));
            }
            Step::Arrive(index) => {
                let arrived = world.under_way.remove(index);
                self.arrive(world, arrived, true);
            }
            Step::ArriveUnanswered(index) => {
                let arrived = world.under_way.remove(index);
                world.lost += 1;
                self.arrive(world, arrived, false);
            }
            Step::Repeat(caller) => {
                world.repeated += 1;
                let word = match world.callers[usize::from(caller)] {
                    Caller::Claiming { from } => Word::Claim { from },
                    Caller::Settling(word) => word,
                    _ => return None,
                };
                send(world, message(world, caller, word));
            }
            // Nobody wants the claim any more. It is not known whether it was made.
            Step::GiveUp(caller) => say(world, caller, Word::Release),
            Step::Renew(caller) => {
                world.renewed_at = world.now;
                send(world, message(world, caller, Word::Renew));
            }
            Step::Complete(caller) => say(world, caller, Word::Complete),
            Step::Release(caller) => say(world, caller, Word::Release),
            Step::DropPermit(caller) => {
                world.monitor.holder_died(caller);
                let word = if self.fault == Fault::ReleaseOnDrop { Word::Release } else { Word::Halt };
                say(world, caller, word);
            }
            Step::Crash(caller) => {
                if world.callers[usize::from(caller)] == Caller::Working {
                    world.monitor.holder_died(caller);
                }
                world.callers[usize::from(caller)] = Caller::Over;
            }
            // The tracker halts what runs; its caller knows nothing of it, and may still put.
            Step::Shutdown(caller) => {
                world.operated += 1;
                send(world, message(world, caller, Word::Shutdown));
            }
            Step::ClaimAgain(caller) => {
                world.repeated += 1;
                world.callers[usize::from(caller)] = Caller::Claiming { from: None };
                send(world, message(world, caller, Word::Claim { from: None }));
            }
            Step::Forget => {
                world.operated += 1;
                let read = token(world.record.as_ref()?.owner);
                send(world, Message { caller: 0, word: Word::Forget, token: read });
            }
            Step::Prune | Step::DeleteChosen => {
                world.monitor.pruned(world.record.as_ref(), now);
                world.record = None;
                world.was_pruned = true;
                world.chosen_to_prune = false;
            }
            Step::ChooseToPrune => world.chosen_to_prune = true,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn keeps(promise: Promise) -> impl Fn(&World) -> bool {
            move |world| world.monitor.broken != Some(promise)
        }
        vec![
            Property::always("I1", |_, world| keeps(Promise::I1)(world)),
            Property::always("I3", |_, world| keeps(Promise::I3)(world)),
            Property::always("I4", |_, world| keeps(Promise::I4)(world)),
            Property::always("I5", |_, world| keeps(Promise::I5)(world)),
            Property::always("I7", |_, world| keeps(Promise::I7)(world)),
            Property::always("I8", |_, world| keeps(Promise::I8)(world)),
            Property::always("I10", |_, world| keeps(Promise::I10)(world)),
            Property::always("I12", |_, world| keeps(Promise::I12)(world)),
        ]
    }
}

pub(crate) fn two_callers_and_everything() -> Protocol {
    Protocol {
        fault: Fault::None,
        callers: 2,
        strangers: 0,
        on_orphan: OnOrphan::Rerun,
        renewal: true,
        operations: true,
        repeats: 1,
        until: 4,
        reached: Arc::default(),
    }
}

/// Explores a model to its end and returns how many states it has.
pub(crate) fn explore(name: &str, model: Protocol) -> usize {
    let checker = model.checker().threads(2).spawn_bfs().join();
    if let Some((promise, path)) = checker.discoveries().into_iter().next() {
        panic!("{name}: {promise} is broken by {:?}", path.into_actions());
    }
    assert!(checker.is_done(), "{name}: explored to its end");
    let count = checker.unique_state_count();
    eprintln!("model  {name}: {count} states, depth {}, 0 violations", checker.max_depth());
    count
}

/// The first counterexample: the promise it breaks, and how.
pub(crate) fn counterexample(model: Protocol) -> Option<(&'static str, Vec<Step>)> {
    let checker = model.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let mut found: Vec<_> = checker.discoveries().into_iter().collect();
    found.sort_by_key(|(promise, _)| *promise);
    let (promise, path) = found.into_iter().next()?;
    Some((promise, path.into_actions()))
}

#[test]
fn two_callers_with_everything_break_no_promise() {
    let model = two_callers_and_everything();
    let reached = model.reached.clone();
    explore("two callers, everything, rerun", model);
    for interesting in
        [Reached::LatePutAfterTakeover, Reached::ClaimAfterPrune, Reached::LateCopyAfterRelease]
    {
        let was_reached = reached.load(Ordering::Relaxed) & interesting as u8 != 0;
        assert!(was_reached, "{interesting:?} was not reached");
        eprintln!("model  reached: {interesting:?}");
    }
}

#[test]
fn two_callers_under_the_halting_policy_break_no_promise() {
    let model = Protocol { on_orphan: OnOrphan::Halt, operations: false, ..two_callers_and_everything() };
    explore("two callers, halt", model);
}

#[test]
fn three_callers_without_renewal_break_no_promise() {
    let model = Protocol {
        callers: 3,
        renewal: false,
        operations: false,
        repeats: 0,
        until: 4,
        ..two_callers_and_everything()
    };
    explore("three callers, no renewal", model);
}

#[test]
fn a_caller_with_another_payload_breaks_no_promise() {
    let model = Protocol { strangers: 1, operations: false, ..two_callers_and_everything() };
    explore("two callers, two payloads", model);
}
