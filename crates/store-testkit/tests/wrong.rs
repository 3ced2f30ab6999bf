//! Stores that are wrong on purpose: each fails the cases that name its fault, and no unrelated one.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use idempotency_core::{
    Capabilities, Change, Claim, Inserted, Pruned, Record, RequestId, SecretCheck, Setup, State, Store,
    StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated, Write,
};
use idempotency_store_testkit::OnManualClock;
use time::OffsetDateTime;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Looks first and writes later.
    LookUpThenInsert,
    /// Takes a result from anybody.
    UnconditionalComplete,
    /// Takes a release from anybody.
    UnconditionalRelease,
    /// Prunes by the age of the claim.
    NaivePrune,
    /// Replays what has expired until it is pruned.
    ServesTheExpired,
    /// Takes a repeated claim for somebody else's.
    ForgetsLostReplies,
    /// Gives an orphan to anybody.
    TakeoverByAnybody,
    /// Gives an orphan to a claim with another payload.
    IgnoresThePayload,
    /// Answers a batch in another order.
    MixesUpBatches,
    /// Keeps no more of a response than a page.
    CutsResponses,
    /// Takes any secret.
    AnySecret,
    /// Says that it is shared, and goes by the clock of whoever asks.
    ApplicationClock,
    /// Says that it pushes, and tells nobody.
    NeverPushes,
    /// Says that what has expired vanishes by itself, and waits for a prune.
    KeepsTheExpired,
}

const FAULTS: [(Fault, &[&str]); 14] = [
    (
        Fault::LookUpThenInsert,
        &["i1_of_many_claims_at_once_one_is_claimed", "i1_of_many_takeovers_at_once_one_is_claimed"],
    ),
    (
        Fault::UnconditionalComplete,
        &[
            "i5_another_owner_is_fenced_in_every_state",
            "i3_a_completed_record_stays_as_it_is",
            "i5_a_halted_record_stays_halted",
            "i5_an_owner_of_an_earlier_generation_is_fenced",
            "i5_a_caller_that_was_taken_over_is_fenced",
            "i5_of_two_settles_at_once_one_is_applied",
            "a_repeated_settle_after_a_lost_reply_is_known",
        ],
    ),
    (
        Fault::UnconditionalRelease,
        &[
            "i5_another_owner_is_fenced_in_every_state",
            "i3_a_completed_record_stays_as_it_is",
            "i5_a_halted_record_stays_halted",
            "i5_an_owner_of_an_earlier_generation_is_fenced",
            "i5_a_caller_that_was_taken_over_is_fenced",
            "a_batch_is_answered_in_order",
        ],
    ),
    (
        Fault::NaivePrune,
        &[
            "trap_prune_deletes_no_running_request",
            "i12_a_renewed_claim_outlives_its_first_lease",
            "i12_prune_deletes_only_what_has_expired",
        ],
    ),
    (
        Fault::ServesTheExpired,
        &[
            "i7_an_expired_record_is_free",
            "i7_an_expired_record_is_not_looked_up",
            "i7_what_has_expired_is_not_found",
        ],
    ),
    (Fault::ForgetsLostReplies, &["i1_a_repeated_claim_after_a_lost_reply_is_claimed_again"]),
    (
        Fault::TakeoverByAnybody,
        &["i8_a_lapsed_claim_is_taken_over_by_whoever_names_its_owner", "i8_a_halted_record_is_taken_over"],
    ),
    (Fault::IgnoresThePayload, &["i4_a_claim_with_another_fingerprint_takes_nothing_over"]),
    (Fault::MixesUpBatches, &["a_batch_is_answered_in_order", "a_poisoned_member_fails_alone"]),
    (
        Fault::CutsResponses,
        &[
            "i3_big_and_binary_responses_come_back_byte_for_byte",
            "i12_a_response_past_all_limits_is_kept_whole_or_refused",
            "a_slow_member_fails_nobody",
        ],
    ),
    (Fault::AnySecret, &["i6_another_secret_is_refused"]),
    (
        Fault::ApplicationClock,
        &["i8_a_shared_store_decides_by_its_own_clock", "i1_two_handles_of_a_shared_store_are_one"],
    ),
    (
        Fault::NeverPushes,
        &["whoever_watches_an_id_hears_that_it_is_settled", "what_is_not_offered_is_refused_as_unsupported"],
    ),
    (Fault::KeepsTheExpired, &["i7_what_expires_natively_vanishes_by_itself"]),
];

/// Cases that a fault may fail or not, since they try everything or since it depends on who is faster.
const ANY: [&str; 2] =
    ["every_sequence_of_operations_is_answered_like_the_table", "i5_of_a_takeover_and_a_late_put_one_wins"];

pub(crate) struct Wrong {
    fault: Fault,
    records: Mutex<HashMap<RequestId, Record>>,
    secret: Mutex<Option<SecretCheck>>,
}

impl Wrong {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { fault, records: Mutex::default(), secret: Mutex::default() }
    }

    fn records(&self) -> MutexGuard<'_, HashMap<RequestId, Record>> {
        self.records.lock().unwrap()
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// The time that expiry is judged by.
    fn judged(&self, now: OffsetDateTime, record: Option<&Record>) -> OffsetDateTime {
        match record {
            Some(record) if self.is(Fault::ServesTheExpired) && record.is_expired(now) => {
                record.expires_at - time::Duration::NANOSECOND
            }
            _ => now,
        }
    }
}

fn write(records: &mut HashMap<RequestId, Record>, id: RequestId, write: Write) {
    match write {
        Write::Keep => {}
        Write::Put(record) => drop(records.insert(id, record)),
        Write::Delete => drop(records.remove(&id)),
    }
}

#[async_trait]
impl Store for Wrong {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        let mut secret = self.secret.lock().unwrap();
        if *secret.get_or_insert(setup.secret_check) != setup.secret_check && !self.is(Fault::AnySecret) {
            return Err(StoreError::new(StoreErrorKind::WrongSecret, "another secret").not_applied());
        }
        Ok(())
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        let records = self.records();
        let record = records.get(id);
        let now = self.judged(now, record);
        Ok(record.filter(|record| !record.is_expired(now)).cloned())
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        let mut claim = claim.clone();
        let found = self.records().get(&claim.id).cloned();
        let now = self.judged(now, found.as_ref());
        if self.is(Fault::LookUpThenInsert) {
            // Whoever comes in between has looked, too, also where all threads share one core.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        if self.is(Fault::TakeoverByAnybody)
            && let Some(found) = &found
        {
            claim.takes_over = Some(found.owner);
        }
        if self.is(Fault::IgnoresThePayload)
            && let Some(found) = &found
        {
            claim.fingerprint = found.fingerprint;
        }
        if self.is(Fault::ForgetsLostReplies)
            && let Some(found) = &found
            && found.owner == claim.owner
            && !found.is_expired(now)
        {
            return Ok(Inserted::Exists(found.clone().into()));
        }
        let mut records = self.records();
        let found = if self.is(Fault::LookUpThenInsert) { found } else { records.get(&claim.id).cloned() };
        let step = Record::on_insert(found.as_ref(), &claim, now);
        write(&mut records, claim.id, step.write);
        Ok(step.answer)
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        let mut records = self.records();
        let found = records.get(&update.id).cloned();
        let now = self.judged(now, found.as_ref());
        let alive = found.as_ref().filter(|record| !record.is_expired(now));
        match (&update.change, alive) {
            (Change::Complete { response, retention }, Some(alive))
                if self.is(Fault::UnconditionalComplete) =>
            {
                let mut record = alive.clone();
                record.state = State::Completed(response.clone());
                record.expires_at = now + *retention;
                records.insert(update.id, record);
                return Ok(Updated::Applied);
            }
            (Change::Release, Some(_)) if self.is(Fault::UnconditionalRelease) => {
                records.remove(&update.id);
                return Ok(Updated::Applied);
            }
            _ => {}
        }
        let mut step = Record::on_update(found.as_ref(), update, now);
        if let Write::Put(record) = &mut step.write
            && let State::Completed(response) = &record.state
            && let Some(bytes) = response.bytes()
            && self.is(Fault::CutsResponses)
        {
            let body = idempotency_core::Body::Kept(bytes.slice(..bytes.len().min(4096)));
            record.state =
                State::Completed(idempotency_core::StoredResponse::from_parts(response.digest(), body));
        }
        write(&mut records, update.id, step.write);
        Ok(step.answer)
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        let mut records = self.records();
        let is_due = |record: &Record| match self.is(Fault::NaivePrune) {
            // As old as a claim of these cases may get.
            true => record.claimed_at + std::time::Duration::from_secs(4) <= now,
            false => record.is_expired(now),
        };
        let due: Vec<RequestId> =
            records.iter().filter(|(_, record)| is_due(record)).map(|(id, _)| *id).collect();
        for id in due.iter().take(limit) {
            records.remove(id);
        }
        Ok(Pruned { deleted: due.len().min(limit), more: due.len() > limit })
    }

    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        let mut replies = Vec::new();
        for command in batch {
            replies.push(command.call(self, now).await);
        }
        if self.is(Fault::MixesUpBatches) {
            replies.reverse();
        }
        replies
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.shared = self.is(Fault::ApplicationClock);
        capabilities.push = self.is(Fault::NeverPushes);
        capabilities.native_expiry = self.is(Fault::KeepsTheExpired);
        capabilities
    }
}

/// The cases that a store with this fault fails.
fn failed(fault: Fault) -> Vec<&'static str> {
    let mut failed = Vec::new();
    macro_rules! case {
        ($module:ident, $name:ident, $failed:expr) => {
            let factory = OnManualClock::new(move || Wrong::new(fault));
            let case =
                || idempotency_store_testkit::run(idempotency_store_testkit::cases::$module::$name(factory));
            if catch_unwind(AssertUnwindSafe(case)).is_err() {
                $failed.push(stringify!($name));
            }
        };
    }
    idempotency_store_testkit::for_each_case!(case, failed);
    failed
}

#[test]
fn every_wrong_store_fails_the_cases_that_name_its_fault_and_no_unrelated_one() {
    let mut wrong = Vec::new();
    for (fault, expected) in FAULTS {
        let found = failed(fault);
        eprintln!("{fault:?}: {}", found.join(", "));
        let found: Vec<&str> = found.into_iter().filter(|case| !ANY.contains(case)).collect();
        let missed: Vec<_> = expected.iter().filter(|case| !found.contains(case)).collect();
        let unrelated: Vec<_> = found.iter().filter(|case| !expected.contains(case)).collect();
        if !missed.is_empty() || !unrelated.is_empty() {
            wrong.push(format!("{fault:?}: not failed {missed:?}, failed {unrelated:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
