//! Random sequences of events on several keys, against a reference that knows nothing of lanes, stores and leases.

use std::{collections::HashMap, time::Duration};

use idempotency_core::*;
use idempotency_engine::*;
use proptest::prelude::*;
use time::OffsetDateTime;

const RETENTION: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Step {
    Track { key: u8, payload: u8, on_orphan: OnOrphan },
    Complete(usize),
    Halt(usize, HaltReason),
    Release(usize),
    Forget(u8),
    Lookup(u8),
    Prune,
    Pass(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let on_orphan = prop_oneof![Just(OnOrphan::Halt), Just(OnOrphan::Rerun)];
    let reason =
        prop_oneof![Just(HaltReason::Cancelled), Just(HaltReason::Panicked), Just(HaltReason::Unknown)];
    prop_oneof![
        6 => (0u8..3, 0u8..2, on_orphan).prop_map(|(key, payload, on_orphan)| Step::Track { key, payload, on_orphan }),
        3 => (0usize..8).prop_map(Step::Complete),
        2 => (0usize..8, reason).prop_map(|(permit, reason)| Step::Halt(permit, reason)),
        2 => (0usize..8).prop_map(Step::Release),
        1 => (0u8..3).prop_map(Step::Forget),
        1 => (0u8..3).prop_map(Step::Lookup),
        1 => Just(Step::Prune),
        3 => (0u64..40_000).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
    ]
}

/// The engine on a store that answers at once.
struct Tracker {
    engine: Engine,
    records: HashMap<RequestId, Record>,
    now: OffsetDateTime,
    next: u64,
}

impl Tracker {
    fn new() -> Self {
        let now = OffsetDateTime::UNIX_EPOCH;
        let config =
            Config { prune_every: Some(Duration::from_secs(30)), prune_limit: 2, ..Config::default() };
        Self { engine: Engine::new(config, now, 7), records: HashMap::new(), now, next: 0 }
    }

    /// Takes an event in, and lets the store answer whatever is asked of it.
    fn tell(&mut self, event: Event) -> Vec<(Caller, Answer)> {
        let (mut answers, mut events) = (Vec::new(), vec![event]);
        while let Some(event) = events.pop() {
            let mut commands = Vec::new();
            self.engine.handle(self.now, event, &mut commands);
            for command in commands {
                match command {
                    Command::Call { call, command } => {
                        let reply = Ok(self.store(command));
                        events.push(Event::Replied { call, reply });
                    }
                    Command::Answer(caller, answer) => answers.push((caller, answer)),
                    _ => {}
                }
            }
        }
        answers
    }

    fn store(&mut self, command: StoreCommand) -> StoreReply {
        match command {
            StoreCommand::Insert(claim) => {
                let step = Record::on_insert(self.records.get(&claim.id), &claim, self.now);
                self.write(claim.id, step.write);
                StoreReply::Inserted(step.answer)
            }
            StoreCommand::Update(update) => {
                let step = Record::on_update(self.records.get(&update.id), &update, self.now);
                self.write(update.id, step.write);
                StoreReply::Updated(step.answer)
            }
            StoreCommand::Lookup(id) => StoreReply::Found(
                self.records.get(&id).filter(|record| !record.is_expired(self.now)).cloned().map(Box::new),
            ),
            StoreCommand::Prune { limit } => {
                let expired: Vec<_> = self
                    .records
                    .iter()
                    .filter(|(_, record)| record.is_expired(self.now))
                    .map(|(id, _)| *id)
                    .collect();
                let deleted = expired.len().min(limit);
                expired.iter().take(limit).for_each(|id| drop(self.records.remove(id)));
                StoreReply::Pruned(Pruned { deleted, more: expired.len() > limit })
            }
            other => panic!("the engine does not call {}", other.name()),
        }
    }

    fn write(&mut self, id: RequestId, write: Write) {
        match write {
            Write::Keep => {}
            Write::Put(record) => drop(self.records.insert(id, record)),
            Write::Delete => drop(self.records.remove(&id)),
        }
    }

    fn ask(&mut self, event: impl FnOnce(Caller) -> Event) -> Answer {
        let caller = Caller(self.next);
        self.next += 1;
        let mut answers = self.tell(event(caller));
        assert_eq!(answers.len(), 1, "one answer to one question: {answers:?}");
        let (answered, answer) = answers.remove(0);
        assert_eq!(answered, caller);
        answer
    }

    fn settle(&mut self, update: Update) -> Answer {
        self.ask(|caller| Event::Settle { update: update.into(), caller: Some(caller) })
    }

    /// Time passes, and whatever is due on the way is done when it is due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) =
            self.engine.deadline().map(OffsetDateTime::from).filter(|deadline| *deadline <= until)
        {
            self.now = self.now.max(deadline);
            assert_eq!(self.tell(Event::Deadline { entropy: 42 }), [], "nobody waits for anything");
        }
        self.now = until;
    }
}

/// What the reference knows of a key.
#[derive(Debug, Clone)]
enum Known {
    Running { permit: usize },
    Completed { body: String, expires_at: OffsetDateTime },
    Halted { reason: HaltReason, expires_at: OffsetDateTime },
}

fn id(key: u8) -> RequestId {
    RequestId::from_bytes([key; 32])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_answers_as_the_reference_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut tracker = Tracker::new();
        let mut known: HashMap<u8, (u8, Known)> = HashMap::new();
        // Key and owner of every permit that is still held.
        let mut permits: Vec<Option<(u8, Owner)>> = Vec::new();

        for step in steps {
            let now = tracker.now;
            known.retain(|_, (_, state)| match state {
                Known::Running { .. } => true,
                Known::Completed { expires_at, .. } | Known::Halted { expires_at, .. } => *expires_at > now,
            });
            let held = |permits: &mut Vec<Option<(u8, Owner)>>, index: usize| {
                let held: Vec<usize> = (0..permits.len()).filter(|index| permits[*index].is_some()).collect();
                (!held.is_empty()).then(|| held[index % held.len()]).and_then(|index| permits[index].take())
            };
            match step {
                Step::Track { key, payload, on_orphan } => {
                    let fingerprint = Fingerprint::from_parts(Scheme::RAW, [payload; 32]);
                    let owner = Owner::from_u128(permits.len() as u128 + 1);
                    let mut claim = Claim::new(id(key), owner, fingerprint);
                    claim.retention = RETENTION;
                    let work_limit = Duration::from_secs(1_000_000);
                    let track = Track { work_limit, on_orphan, ..Track::new(claim) };
                    let answer = tracker.ask(|caller| Event::Track { caller, track });
                    let Answer::Tracked(Ok(answer)) = answer else { panic!("{answer:?}") };
                    let expected = match known.get(&key) {
                        None => "init".to_owned(),
                        Some((other, _)) if *other != payload => "mismatch".to_owned(),
                        Some((_, Known::Running { .. })) => "processing".to_owned(),
                        Some((_, Known::Completed { body, .. })) => format!("cached {body}"),
                        Some((_, Known::Halted { reason, .. })) if on_orphan == OnOrphan::Rerun && reason.is_orphan() => {
                            "init after an orphan".to_owned()
                        }
                        Some((_, Known::Halted { reason, .. })) => format!("halted {reason}"),
                    };
                    let heard = match &answer {
                        Tracked::Init(granted) if granted.claim.takes_over.is_none() => "init".to_owned(),
                        Tracked::Init(_) => "init after an orphan".to_owned(),
                        Tracked::Processing { .. } => "processing".to_owned(),
                        Tracked::Cached { response, .. } => {
                            format!("cached {}", String::from_utf8_lossy(response.bytes().unwrap()))
                        }
                        Tracked::Halted { reason, .. } => format!("halted {reason}"),
                        Tracked::Mismatch { .. } => "mismatch".to_owned(),
                    };
                    prop_assert_eq!(heard, expected);
                    if let Tracked::Init(granted) = answer {
                        known.insert(key, (payload, Known::Running { permit: permits.len() }));
                        permits.push(Some((key, granted.claim.owner)));
                    }
                }
                Step::Complete(index) => {
                    if let Some((key, owner)) = held(&mut permits, index) {
                        let body = format!("{owner:?}");
                        let change = Change::Complete { response: body.clone().into(), retention: RETENTION };
                        let answer = tracker.settle(Update::new(id(key), owner, change));
                        prop_assert_eq!(answer, Answer::Settled(Settled::Stored));
                        known.get_mut(&key).unwrap().1 = Known::Completed { body, expires_at: now + RETENTION };
                    }
                }
                Step::Halt(index, reason) => {
                    if let Some((key, owner)) = held(&mut permits, index) {
                        let change = Change::Halt { reason, retention: RETENTION };
                        let answer = tracker.settle(Update::new(id(key), owner, change));
                        prop_assert_eq!(answer, Answer::Settled(Settled::Stored));
                        known.get_mut(&key).unwrap().1 = Known::Halted { reason, expires_at: now + RETENTION };
                    }
                }
                Step::Release(index) => {
                    if let Some((key, owner)) = held(&mut permits, index) {
                        let change = Change::Release;
                        let answer = tracker.settle(Update::new(id(key), owner, change));
                        prop_assert_eq!(answer, Answer::Settled(Settled::Stored));
                        known.remove(&key);
                    }
                }
                Step::Forget(key) => {
                    let owner = tracker.records.get(&id(key)).map_or_else(|| Owner::from_u128(0), |record| record.owner);
                    let answer = tracker.ask(|caller| Event::Forget { caller, id: id(key), owner });
                    let expected = match known.get(&key) {
                        None => Forgotten::NotFound,
                        Some((_, Known::Running { permit })) => {
                            prop_assert!(permits[*permit].is_some());
                            Forgotten::Refused
                        }
                        Some(_) => Forgotten::Forgotten,
                    };
                    prop_assert_eq!(answer, Answer::Forgotten(Ok(expected)));
                    if expected == Forgotten::Forgotten {
                        known.remove(&key);
                    }
                }
                Step::Lookup(key) => {
                    let answer = tracker.ask(|caller| Event::Lookup { caller, id: id(key) });
                    let Answer::Found(Ok(found)) = answer else { panic!("{answer:?}") };
                    prop_assert_eq!(found.is_some(), known.contains_key(&key));
                }
                Step::Prune => {
                    let answer = tracker.ask(|caller| Event::Prune { caller });
                    prop_assert!(matches!(answer, Answer::Pruned(Ok(_))));
                    prop_assert_eq!(tracker.records.len(), known.len(), "exactly what has expired is gone");
                }
                Step::Pass(time) => tracker.pass(time),
            }
            let live = permits.iter().flatten().count();
            prop_assert_eq!(tracker.engine.load().live, live);
            prop_assert_eq!(tracker.engine.load().lanes, live, "nothing is kept of an idle key");
        }
    }
}
