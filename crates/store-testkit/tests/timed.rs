//! The checker on histories of the real table with time: leases lapse, records expire, requests and replies are lost, and
//! lost requests arrive late. None of them may be judged wrong.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use idempotency_core::{
    Change, Claim, Fingerprint, HaltReason, Inserted, Owner, Record, RequestId, Scheme, State,
    StoredResponse, Update, Updated, Write,
};
use idempotency_store_testkit::history::{Answer, Call, Operation, Stage, check};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;

const HISTORIES: u64 = 30_000;
const CALLERS: usize = 4;
const STEPS: usize = 120;
const ID: [u8; 32] = [1; 32];

/// What a store may do wrong with time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Takes a claim for an orphan before its lease has lapsed.
    TakesOverTooEarly,
    /// Shows what has expired.
    ShowsTheExpired,
    /// Says that it has renewed a lease, and has not.
    LosesRenewals,
    /// Forgets what has not expired.
    ForgetsTooEarly,
}

/// One record by the one table. Its clock counts in nanoseconds.
#[derive(Default)]
struct Store {
    record: Option<Record>,
    wrong: Option<Wrong>,
    /// Who has had a record. A copy of an insert that comes after its end would be a second claim of the same owner, of which
    /// the checker knows nothing.
    lived: HashSet<Owner>,
}

impl Store {
    fn owner(&self, now: OffsetDateTime) -> Option<Owner> {
        self.record.as_ref().filter(|record| !record.is_expired(now)).map(|record| record.owner)
    }

    /// `None`: it is not carried out.
    fn call(&mut self, operation: &Operation, now: u64) -> Option<Answer> {
        let later = match (self.wrong, operation) {
            (Some(Wrong::TakesOverTooEarly), Operation::Insert { takes_over: Some(_), .. }) => 20,
            (Some(Wrong::ForgetsTooEarly), Operation::Insert { .. } | Operation::Lookup) => 20,
            _ => 0,
        };
        let shown = match (self.wrong, operation) {
            (Some(Wrong::ShowsTheExpired), Operation::Lookup) => now.saturating_sub(40),
            _ => now + later,
        };
        let loses = self.wrong == Some(Wrong::LosesRenewals) && matches!(operation, Operation::Renew { .. });
        let before = loses.then(|| self.record.clone());
        let answer = self.carry_out(operation, shown);
        if let Some(before) = before {
            self.record = before;
        }
        answer
    }

    fn carry_out(&mut self, operation: &Operation, now: u64) -> Option<Answer> {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_nanos(now);
        let update = |owner, change| Update::new(RequestId::from_bytes(ID), owner, change);
        let update = match *operation {
            Operation::Insert { owner, payload, takes_over, lease, retention } => {
                if self.lived.contains(&owner) && self.owner(now) != Some(owner) {
                    return None;
                }
                let fingerprint = Fingerprint::from_parts(Scheme(0), [payload as u8; 32]);
                let mut claim = Claim::new(RequestId::from_bytes(ID), owner, fingerprint);
                (claim.takes_over, claim.lease, claim.retention) = (takes_over, lease, retention);
                let step = Record::on_insert(self.record.as_ref(), &claim, now);
                self.write(step.write);
                self.lived.extend(self.owner(now));
                return Some(match step.answer {
                    Inserted::Claimed => Answer::Claimed,
                    Inserted::Exists(record) => exists(&record),
                    Inserted::Busy => unreachable!("the table knows no such answer"),
                });
            }
            Operation::Lookup => {
                let record = self.record.as_ref().filter(|record| !record.is_expired(now));
                return Some(record.map_or(Answer::Nothing, exists));
            }
            Operation::Work { .. } => return Some(Answer::Done),
            Operation::Renew { owner, lease, retention } => update(owner, Change::Renew { lease, retention }),
            Operation::Complete { owner, response, retention } => {
                let response = StoredResponse::new(vec![response as u8]);
                update(owner, Change::Complete { response, retention })
            }
            Operation::Halt { owner, at_shutdown, retention } => {
                let reason = if at_shutdown { HaltReason::Shutdown } else { HaltReason::Cancelled };
                update(owner, Change::Halt { reason, retention })
            }
            Operation::Release { owner } => update(owner, Change::Release),
            Operation::Forget { owner } => update(owner, Change::Forget),
        };
        let step = Record::on_update(self.record.as_ref(), &update, now);
        self.write(step.write);
        Some(match step.answer {
            Updated::Applied => Answer::Applied,
            Updated::AlreadyApplied => Answer::AlreadyApplied,
            Updated::Fenced | Updated::NotFound => Answer::Refused,
        })
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Keep => {}
            Write::Put(record) => self.record = Some(record),
            Write::Delete => self.record = None,
        }
    }
}

fn exists(record: &Record) -> Answer {
    let stage = match &record.state {
        State::Processing { .. } => Stage::Processing,
        State::Completed(response) => Stage::Completed(response.bytes().expect("a body")[0].into()),
        State::Halted(_) => Stage::Halted,
    };
    Answer::Exists { owner: record.owner, payload: record.fingerprint.as_bytes()[0].into(), stage }
}

/// Where a call is.
enum Waits {
    /// On its way to the store.
    Sent(usize, Operation),
    /// On its way back.
    Done(usize, Operation, Option<Answer>),
}

#[derive(Default)]
struct Caller {
    waits: Option<Waits>,
    /// What no answer came to, and is said again.
    again: Option<Operation>,
    /// Its last claim, and what it heard of those of others.
    claim: Option<Owner>,
    heard: Vec<(Owner, u64)>,
}

impl Caller {
    fn asks(&mut self, next: &mut u8, random: &mut StdRng) -> Operation {
        if let Some(again) = self.again.take() {
            return again;
        }
        let lease = Duration::from_nanos(random.random_range(3..12));
        let retention = Duration::from_nanos(random.random_range(5..30));
        if let Some(owner) = self.claim
            && random.random_bool(0.8)
        {
            return match random.random_range(0..10) {
                0..=2 => Operation::Renew { owner, lease, retention },
                3..=5 => Operation::Complete { owner, response: owner.as_bytes()[0].into(), retention },
                6..=7 => Operation::Halt { owner, at_shutdown: random.random_bool(0.3), retention },
                8 => Operation::Release { owner },
                _ => Operation::Forget { owner },
            };
        }
        let heard = (!self.heard.is_empty()).then(|| self.heard[self.heard.len() - 1]);
        match (random.random_range(0..8), heard) {
            (0, Some((owner, _))) => Operation::Forget { owner },
            (1..=2, _) => Operation::Lookup,
            _ => {
                *next += 1;
                let payload = heard.map_or(1, |(_, payload)| payload) + u64::from(random.random_bool(0.05));
                let takes_over = heard.map(|(owner, _)| owner).filter(|_| random.random_bool(0.8));
                Operation::Insert {
                    owner: Owner::from_bytes([*next; 16]),
                    payload,
                    takes_over,
                    lease,
                    retention,
                }
            }
        }
    }

    fn hears(&mut self, operation: Operation, answer: Answer) {
        match (operation, answer) {
            (Operation::Insert { owner, payload, .. }, Answer::Claimed) => {
                self.claim = Some(owner);
                self.heard.push((owner, payload));
            }
            (_, Answer::Exists { owner, payload, .. }) => self.heard.push((owner, payload)),
            _ => {}
        }
    }
}

fn history(seed: u64, wrong: Option<Wrong>) -> Vec<Call> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut store = Store { wrong, ..Store::default() };
    let mut callers = <[Caller; CALLERS]>::default();
    let (mut calls, mut late): (Vec<Call>, Vec<Operation>) = (Vec::new(), Vec::new());
    let (mut now, mut next) = (0, 0);
    for _ in 0..STEPS {
        now += random.random_range(0..3);
        if !late.is_empty() && random.random_bool(0.1) {
            let copy = late.swap_remove(random.random_range(0..late.len()));
            store.call(&copy, now);
        }
        let caller = &mut callers[random.random_range(0..CALLERS)];
        match caller.waits.take() {
            None => {
                let operation = caller.asks(&mut next, &mut random);
                caller.waits = Some(Waits::Sent(calls.len(), operation));
                calls.push(Call { id: RequestId::from_bytes(ID), operation, began: now, ended: None });
            }
            Some(Waits::Sent(_, operation)) if random.random_bool(0.05) => {
                late.push(operation);
                caller.again = random.random_bool(0.7).then_some(operation);
            }
            Some(Waits::Sent(call, operation)) => {
                let answer = store.call(&operation, now);
                caller.waits = Some(Waits::Done(call, operation, answer));
            }
            Some(Waits::Done(call, operation, Some(answer))) if !random.random_bool(0.05) => {
                calls[call].ended = Some((now, answer));
                caller.hears(operation, answer);
            }
            Some(Waits::Done(_, operation, _)) => {
                caller.again = random.random_bool(0.7).then_some(operation);
            }
        }
    }
    calls
}

#[test]
fn no_history_of_the_real_table_is_judged_wrong_whatever_lapses_expires_or_is_lost() {
    let (mut claims, mut unanswered) = (0, 0);
    for seed in 0..HISTORIES {
        let calls = history(seed, None);
        match check(&calls) {
            Ok(summary) => {
                claims += summary.claims;
                unanswered += summary.unanswered;
            }
            Err(violation) => {
                let listed: Vec<String> = calls
                    .iter()
                    .map(|call| format!("{} {:?} {:?}", call.began, call.operation, call.ended))
                    .collect();
                panic!("seed {seed}: {violation}\n{}", listed.join("\n"));
            }
        }
    }
    eprintln!(
        "{HISTORIES} histories with time: {claims} claims, {unanswered} calls unanswered, none judged wrong"
    );
    assert!(claims > 2 * HISTORIES as usize && unanswered > HISTORIES as usize);
}

/// A store that is wrong with time is caught; not by each short history, since what lapses is a right and no duty.
#[test]
fn stores_that_are_wrong_with_time_are_caught_with_the_promise_that_they_break() {
    for (wrong, promise) in [
        (Wrong::TakesOverTooEarly, "I1"),
        (Wrong::ShowsTheExpired, "I7"),
        (Wrong::LosesRenewals, "I1"),
        (Wrong::ForgetsTooEarly, "I1"),
    ] {
        let mut caught = HashMap::<&str, usize>::new();
        for seed in 0..2_000 {
            if let Err(violation) = check(&history(seed, Some(wrong))) {
                *caught.entry(violation.promise).or_default() += 1;
            }
        }
        eprintln!("{wrong:?}: of 2000 histories caught {caught:?}");
        assert!(caught.get(promise).is_some_and(|count| *count > 20), "{wrong:?}: {caught:?}");
    }
}
