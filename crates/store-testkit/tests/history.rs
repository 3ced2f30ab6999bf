//! The checker of histories against stateright's tester, which tries every order.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use idempotency_core::{
    Change, Claim, Clock, Fingerprint, HaltReason, Inserted, Owner, Record, RequestId, State, Store,
    SystemClock, Update,
};
use idempotency_store_memory::MemoryStore;
use idempotency_store_testkit::{
    Fault, FaultPlan, FaultyStore,
    history::{Answer, Call, Operation, RecordedStore, Recorder, Stage, check, read},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::wrong::{self, Wrong};

const HISTORIES: u64 = 100_000;
const THREADS: usize = 3;
const CALLS: usize = 5;

fn owner(number: usize) -> Owner {
    Owner::from_bytes([number as u8; 16])
}

/// A record of one id without time: what the promises leave of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Spec(Option<Live>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Live {
    owner: Owner,
    payload: u64,
    stage: Stage,
    at_shutdown: bool,
}

impl Spec {
    fn of(&self, owner: Owner) -> Option<Live> {
        self.0.filter(|live| live.owner == owner)
    }

    fn exists(live: Live) -> Answer {
        Answer::Exists { owner: live.owner, payload: live.payload, stage: live.stage }
    }

    fn settle(&mut self, owner: Owner, stage: Stage, at_shutdown: bool) -> Answer {
        let live = self.0.as_mut().filter(|live| live.owner == owner);
        let Some(live) = live else { return Answer::Refused };
        match live.stage {
            Stage::Processing => {}
            Stage::Halted if live.at_shutdown && stage != Stage::Halted => {}
            Stage::Halted if stage == Stage::Halted => return Answer::AlreadyApplied,
            same if same == stage => return Answer::AlreadyApplied,
            _ => return Answer::Refused,
        }
        (live.stage, live.at_shutdown) = (stage, at_shutdown);
        Answer::Applied
    }
}

impl SequentialSpec for Spec {
    type Op = Operation;
    type Ret = Answer;

    fn invoke(&mut self, operation: &Operation) -> Answer {
        match *operation {
            Operation::Insert { owner, payload, takes_over, .. } => {
                let claimed = Live { owner, payload, stage: Stage::Processing, at_shutdown: false };
                match self.0 {
                    Some(live) if live.owner == owner && live.stage == Stage::Processing => Answer::Claimed,
                    Some(live)
                        if takes_over == Some(live.owner)
                            && live.payload == payload
                            && live.stage == Stage::Halted =>
                    {
                        self.0 = Some(claimed);
                        Answer::Claimed
                    }
                    Some(live) => Self::exists(live),
                    None => {
                        self.0 = Some(claimed);
                        Answer::Claimed
                    }
                }
            }
            Operation::Renew { owner, .. } => match self.of(owner) {
                Some(live) if live.stage == Stage::Processing => Answer::Applied,
                _ => Answer::Refused,
            },
            Operation::Complete { owner, response, .. } => {
                self.settle(owner, Stage::Completed(response), false)
            }
            Operation::Halt { owner, at_shutdown, .. } => self.settle(owner, Stage::Halted, at_shutdown),
            Operation::Release { owner } => match self.of(owner) {
                Some(live) if live.stage == Stage::Processing => {
                    self.0 = None;
                    Answer::Applied
                }
                _ => Answer::Refused,
            },
            Operation::Forget { owner } => match self.of(owner) {
                Some(live) if live.stage != Stage::Processing => {
                    self.0 = None;
                    Answer::Applied
                }
                _ => Answer::Refused,
            },
            Operation::Lookup => self.0.map_or(Answer::Nothing, Self::exists),
            Operation::Work { .. } => Answer::Done,
        }
    }

    /// A refusal says no more than that the claim is not at work for its owner any more; whose it is it does not say.
    fn is_valid_step(&mut self, operation: &Operation, answer: &Answer) -> bool {
        if *answer != Answer::Refused {
            return self.invoke(operation) == *answer;
        }
        match *operation {
            Operation::Forget { .. } => true,
            Operation::Insert { .. } | Operation::Lookup | Operation::Work { .. } => false,
            _ => operation
                .owner()
                .is_none_or(|owner| self.of(owner).is_none_or(|live| live.stage != Stage::Processing)),
        }
    }
}

/// A caller, who knows what it was told.
#[derive(Default)]
struct Caller {
    /// What it waits for: the number of the call, what it asked, and what will be answered once that is known.
    waits: Option<(usize, Operation, Option<Answer>)>,
    /// Its last claim, and those of others that it heard of.
    claim: Option<(Owner, u64)>,
    heard: Vec<(Owner, u64)>,
    claims: usize,
    calls: usize,
    is_gone: bool,
}

impl Caller {
    fn asks(&mut self, number: usize, random: &mut StdRng) -> Operation {
        const FOR_EVER: Duration = Duration::MAX;
        let retention = FOR_EVER;
        if let Some((owner, _)) = self.claim
            && random.random_bool(0.7)
        {
            return match random.random_range(0..9) {
                0 => Operation::Renew { owner, lease: FOR_EVER, retention },
                1..=3 => {
                    // Rarely another response than the first.
                    let response = number as u64 * 10 + u64::from(random.random_bool(0.1));
                    Operation::Complete { owner, response, retention }
                }
                4..=5 => Operation::Halt { owner, at_shutdown: random.random_bool(0.3), retention },
                6..=7 => Operation::Release { owner },
                _ => Operation::Forget { owner },
            };
        }
        let heard = (!self.heard.is_empty()).then(|| self.heard[random.random_range(0..self.heard.len())]);
        match (random.random_range(0..8), heard) {
            (0, Some((owner, _))) => Operation::Forget { owner },
            (1..=2, _) => Operation::Lookup,
            _ => {
                self.claims += 1;
                let payload = heard
                    .filter(|_| random.random_bool(0.9))
                    .map_or_else(|| 1 + u64::from(random.random_bool(0.1)), |(_, payload)| payload);
                let takes_over = heard.map(|(owner, _)| owner).filter(|_| random.random_bool(0.8));
                let owner = owner(number * 16 + self.claims);
                Operation::Insert { owner, payload, takes_over, lease: FOR_EVER, retention }
            }
        }
    }

    fn hears(&mut self, operation: Operation, answer: Answer) {
        match (operation, answer) {
            (Operation::Insert { owner, payload, .. }, Answer::Claimed) => {
                self.claim = Some((owner, payload));
                self.heard.push((owner, payload));
            }
            (_, Answer::Exists { owner, payload, .. }) => self.heard.push((owner, payload)),
            _ => {}
        }
    }
}

/// Callers at work on one id, in a random order; of the store's answers so many are wrong.
fn history(seed: u64, wrong: f64) -> (Vec<Call>, LinearizabilityTester<usize, Spec>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Spec::default();
    let mut tester = LinearizabilityTester::new(Spec::default());
    let mut callers: [Caller; THREADS] = Default::default();
    let mut calls: Vec<Call> = Vec::new();
    let mut now = 0;
    while let Some(number) = pick(&callers, &mut random) {
        now += 1;
        let caller = &mut callers[number];
        let Some((call, operation, answer)) = caller.waits.take() else {
            let operation = caller.asks(number, &mut random);
            caller.waits = Some((calls.len(), operation, None));
            caller.calls += 1;
            calls.push(Call { id: RequestId::from_bytes([1; 32]), operation, began: now, ended: None });
            tester.on_invoke(number, operation).expect("one call at a time");
            continue;
        };
        match answer {
            None => {
                let before = store;
                let answer = store.invoke(&operation);
                if random.random_bool(wrong / 2.0) {
                    // Acknowledged and lost.
                    store = before;
                }
                caller.waits = Some((call, operation, Some(answer)));
            }
            Some(_) if random.random_bool(0.05) => caller.is_gone = true,
            Some(answer) => {
                let answer =
                    if random.random_bool(wrong) { lie(&operation, &calls, &mut random) } else { answer };
                calls[call].ended = Some((now, answer));
                caller.hears(operation, answer);
                tester.on_return(number, answer).expect("one call at a time");
            }
        }
    }
    (calls, tester)
}

fn pick(callers: &[Caller], random: &mut StdRng) -> Option<usize> {
    let at_work = |caller: &Caller| !caller.is_gone && (caller.waits.is_some() || caller.calls < CALLS);
    let those: Vec<usize> = (0..callers.len()).filter(|number| at_work(&callers[*number])).collect();
    (!those.is_empty()).then(|| those[random.random_range(0..those.len())])
}

/// Some answer of the right kind.
fn lie(operation: &Operation, calls: &[Call], random: &mut StdRng) -> Answer {
    let claims: Vec<(Owner, u64)> = calls
        .iter()
        .filter_map(|call| match call.operation {
            Operation::Insert { owner, payload, .. } => Some((owner, payload)),
            _ => None,
        })
        .collect();
    let exists = |random: &mut StdRng| {
        let (owner, payload) = claims[random.random_range(0..claims.len())];
        let stage = [Stage::Processing, Stage::Halted, Stage::Completed(random.random_range(0..3) * 10)];
        Answer::Exists { owner, payload, stage: stage[random.random_range(0..3)] }
    };
    let is_there = !claims.is_empty() && random.random_bool(0.6);
    match operation {
        Operation::Insert { .. } if is_there => exists(random),
        Operation::Insert { .. } => Answer::Claimed,
        Operation::Lookup if is_there => exists(random),
        Operation::Lookup => Answer::Nothing,
        Operation::Complete { .. } | Operation::Halt { .. } => {
            [Answer::Applied, Answer::AlreadyApplied, Answer::Refused][random.random_range(0..3)]
        }
        _ => [Answer::Applied, Answer::Refused][random.random_range(0..2)],
    }
}

#[test]
fn the_checker_agrees_with_the_tester_that_tries_every_order() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..HISTORIES {
        let (calls, tester) = history(seed, [0.0, 0.05, 0.15][(seed % 3) as usize]);
        let (ours, theirs) = (check(&calls), tester.is_consistent());
        if ours.is_ok() != theirs {
            let listed =
                calls.iter().map(|call| format!("{} {:?} {:?}", call.began, call.operation, call.ended));
            let listed: Vec<String> = listed.collect();
            panic!("seed {seed}: {ours:?}, and the tester says {theirs}:\n{}", listed.join("\n"));
        }
        if theirs {
            right += 1
        } else {
            wrong += 1
        }
        assert!(seed % 3 != 0 || theirs, "seed {seed}: a store that is right was judged wrong");
    }
    eprintln!("{HISTORIES} histories: {right} right and {wrong} wrong, and no disagreement");
    assert!(right > HISTORIES as usize / 3 && wrong > HISTORIES as usize / 10);
}

/// Callers that claim, work for too long now and then, settle in every way, repeat what they got no answer to, and take over
/// what they find orphaned.
async fn load(store: Arc<dyn Store>, clock: SystemClock, callers: u64, rounds: u64) {
    let callers = (0..callers).map(|caller| {
        let (store, clock) = (store.clone(), clock.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(caller);
            for round in 0..rounds {
                cycle(&*store, &clock, &mut random, Owner::from_u128(u128::from(caller << 32 | round))).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller");
    }
}

async fn cycle(store: &dyn Store, clock: &SystemClock, random: &mut StdRng, owner: Owner) {
    let (lease, retention) = (Duration::from_millis(20), Duration::from_millis(200));
    let id = RequestId::from_bytes([random.random_range(0..64); 32]);
    let payload = Fingerprint::derive(None, [&[u8::from(random.random_bool(0.1))][..]]);
    let mut claim = Claim::new(id, owner, payload);
    (claim.lease, claim.retention) = (lease, retention);
    match store.insert(&claim, clock.now()).await {
        Ok(Inserted::Claimed) => {}
        Ok(Inserted::Exists(record)) if is_orphaned(&record, clock) => {
            claim.takes_over = Some(record.owner);
            if !matches!(store.insert(&claim, clock.now()).await, Ok(Inserted::Claimed)) {
                return;
            }
        }
        Err(_) if matches!(store.insert(&claim, clock.now()).await, Ok(Inserted::Claimed)) => {}
        _ => {
            // Real time is the point: the load must outlast leases and retentions.
            tokio::time::sleep(Duration::from_millis(1)).await;
            return drop(store.lookup(&id, clock.now()).await);
        }
    }
    if random.random_bool(0.1) {
        tokio::time::sleep(Duration::from_millis(random.random_range(10..40))).await;
    }
    let change = match random.random_range(0..10) {
        0 => return,
        1 => Change::Halt { reason: HaltReason::Cancelled, retention },
        2 => Change::Release,
        3 => Change::Renew { lease, retention },
        _ => Change::Complete { response: owner.as_bytes().to_vec().into(), retention },
    };
    let update = Update::new(id, owner, change);
    if store.update(&update, clock.now()).await.is_err() {
        let _ = store.update(&update, clock.now()).await;
    }
    if random.random_bool(0.05) {
        let _ = store.prune(clock.now(), 10).await;
    }
}

fn is_orphaned(record: &Record, clock: &SystemClock) -> bool {
    record.is_lapsed(clock.now()) || matches!(record.state, State::Halted(HaltReason::Cancelled))
}

/// What callers saw of a store, and what the checker says of it.
fn judge(store: impl Store, rounds: u64) -> Result<idempotency_store_testkit::history::Summary, String> {
    let clock = SystemClock::new();
    let recorder = Recorder::on(clock.clone());
    let store = Arc::new(RecordedStore::new(store, recorder.clone()));
    idempotency_store_testkit::run(load(store, clock, 16, rounds));
    check(&recorder.calls()).map_err(|violation| {
        let those = recorder.calls().into_iter().filter(|call| call.id == violation.id).count();
        format!("{violation} (one of {those} calls)")
    })
}

#[test]
fn the_store_in_memory_passes_with_calls_that_fail_before_and_after_the_write() {
    let rounds = if std::env::var_os("IDEMPOTENCY_SOAK").is_some() { 30_000 } else { 1_000 };
    let plan = FaultPlan::new(7).faults([Fault::FailBefore, Fault::FailAfter]);
    let summary = judge(FaultyStore::new(MemoryStore::new(), plan), rounds).expect("a right store");
    eprintln!("{summary}");
    assert!(summary.calls > 16 * rounds as usize && summary.unanswered > 0);
}

#[test]
fn stores_that_are_wrong_are_caught_by_what_their_callers_saw() {
    for (fault, promises) in [
        (wrong::Fault::LookUpThenInsert, &["I1", "I5", "I3"][..]),
        // A put that is applied after a takeover looks like a completed claim that was taken over: I1.
        (wrong::Fault::UnconditionalComplete, &["I1", "I3", "I5"]),
        (wrong::Fault::UnconditionalRelease, &["I1", "I5", "I6"]),
        (wrong::Fault::ServesTheExpired, &["I7"]),
        (wrong::Fault::TakeoverByAnybody, &["I1", "I4"]),
    ] {
        let broken = judge(Wrong::new(fault), 1_000).expect_err("a wrong store");
        eprintln!("{fault:?}: {broken}");
        assert!(promises.contains(&&broken[..2]), "{fault:?}: {broken}");
    }
}

/// Written to by whoever has a clone.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<u8>>>);

impl io::Write for Notes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_written_as_lines_is_read_back() {
    let (clock, notes) = (SystemClock::new(), Notes::default());
    let (lines, memory) = (Recorder::to(notes.clone(), clock.clone()), Recorder::on(clock.clone()));
    let plan = FaultPlan::new(3).faults([Fault::FailBefore, Fault::FailAfter]);
    let store = RecordedStore::new(FaultyStore::new(MemoryStore::new(), plan), lines);
    let store = Arc::new(RecordedStore::new(store, memory.clone()));
    idempotency_store_testkit::run(load(store, clock, 1, 500));
    let written = notes.0.lock().unwrap().clone();
    // Each is noted a moment later by the one than by the other.
    let told = |calls: Vec<Call>| {
        let mut told: Vec<_> = calls
            .into_iter()
            .map(|call| (call.began, call.id, call.operation, call.ended.map(|ended| ended.1)))
            .collect();
        told.sort_by_key(|told| told.0);
        told.into_iter().map(|(_, id, operation, answer)| (id, operation, answer)).collect::<Vec<_>>()
    };
    let read_back = told(read(&written[..]).unwrap());
    assert!(read_back.len() > 500 && read_back.iter().any(|told| told.2.is_none()));
    assert_eq!(read_back, told(memory.calls()));
    // Cut off anywhere, it says less, and nothing else.
    for cut in (0..written.len()).step_by(997) {
        let calls = read(&written[..cut]).unwrap();
        assert!(check(&calls).is_ok(), "cut off at {cut}");
    }
}
