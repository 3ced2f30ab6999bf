use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use idempotency_core::{
    Change, Claim, Fingerprint, HaltReason, Inserted, Meta, Owner, Record, RequestId, SecretCheck, Setup,
    State, Store, StoredResponse, Update, Updated,
};
use time::OffsetDateTime;

use crate::StoreFactory;

/// A store that is set up, and words to speak to it in. Ids and owners are numbers here.
pub(crate) struct World<F: StoreFactory> {
    pub(crate) factory: F,
    pub(crate) store: F::Store,
    since: OffsetDateTime,
    /// Microseconds that were let pass on purpose.
    passed: AtomicU64,
}

/// Ticks of a lease; [`RETENTION`] more and a claim has expired.
pub(crate) const LEASE: u32 = 2;
pub(crate) const RETENTION: u32 = 2;

/// What an instant may be off that a store with a clock of its own answers, besides what the calls take.
const CLOCKS_APART: Duration = Duration::from_millis(50);

/// Longer than any case takes.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn id(number: u8) -> RequestId {
    RequestId::from_bytes([number; 32])
}

pub(crate) fn owner(number: u8) -> Owner {
    Owner::from_bytes([number; 16])
}

pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint::derive(None, [&b"payload"[..]])
}

pub(crate) fn setup(now: OffsetDateTime) -> Setup {
    Setup::new(SecretCheck::unkeyed(), now)
}

impl<F: StoreFactory> World<F> {
    pub(crate) async fn new(factory: F) -> Self {
        let store = factory.open().await;
        store.setup(&setup(factory.now())).await.expect("an empty store can be set up");
        Self::of(factory, store)
    }

    /// Around a store that was set up.
    pub(crate) fn of(factory: F, store: F::Store) -> Self {
        Self { since: factory.now(), passed: AtomicU64::new(0), factory, store }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.factory.now()
    }

    pub(crate) fn ticks(&self, count: u32) -> Duration {
        self.factory.tick() * count
    }

    pub(crate) async fn pass(&self, ticks: u32) {
        let time = self.ticks(ticks);
        self.passed.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        self.factory.pass(time).await;
    }

    pub(crate) fn claim(&self, id_number: u8, owner_number: u8) -> Claim {
        let mut claim = self.long_claim(id_number, owner_number);
        (claim.lease, claim.retention) = (self.ticks(LEASE), self.ticks(RETENTION));
        claim
    }

    /// A claim that nothing makes lapse or expire while a case runs.
    pub(crate) fn long_claim(&self, id_number: u8, owner_number: u8) -> Claim {
        let mut claim = Claim::new(id(id_number), owner(owner_number), fingerprint());
        (claim.lease, claim.retention) = (Duration::from_secs(60 * 60), LONG);
        claim.meta = Meta::new(vec![owner_number; 3]).expect("three bytes");
        claim
    }

    pub(crate) fn takeover(&self, id_number: u8, owner_number: u8, from: u8) -> Claim {
        let mut claim = self.claim(id_number, owner_number);
        claim.takes_over = Some(owner(from));
        claim
    }

    pub(crate) async fn insert(&self, claim: &Claim) -> Inserted {
        self.store.insert(claim, self.now()).await.expect("an insert")
    }

    /// Claims, as the first one must be able to.
    pub(crate) async fn claimed(&self, claim: &Claim) {
        assert_eq!(self.insert(claim).await, Inserted::Claimed);
    }

    /// What a claim hears that is not given the id.
    pub(crate) async fn existing(&self, claim: &Claim) -> Record {
        match self.insert(claim).await {
            Inserted::Exists(record) => *record,
            other => panic!("somebody else has it, and the answer was {other:?}"),
        }
    }

    pub(crate) async fn update(&self, id_number: u8, owner_number: u8, change: Change) -> Updated {
        let update = Update::new(id(id_number), owner(owner_number), change);
        self.store.update(&update, self.now()).await.expect("an update")
    }

    pub(crate) async fn lookup(&self, id_number: u8) -> Option<Record> {
        self.store.lookup(&id(id_number), self.now()).await.expect("a lookup")
    }

    pub(crate) async fn record(&self, id_number: u8) -> Record {
        self.lookup(id_number).await.expect("a record")
    }

    pub(crate) fn renew(&self) -> Change {
        Change::Renew { lease: self.ticks(LEASE), retention: self.ticks(RETENTION) }
    }

    pub(crate) fn complete(&self, response: impl Into<StoredResponse>) -> Change {
        Change::Complete { response: response.into(), retention: self.ticks(RETENTION) }
    }

    /// With a response that does not expire while a case runs.
    pub(crate) fn complete_for_long(&self, response: impl Into<StoredResponse>) -> Change {
        Change::Complete { response: response.into(), retention: LONG }
    }

    pub(crate) fn halt(&self, reason: HaltReason) -> Change {
        Change::Halt { reason, retention: self.ticks(RETENTION) }
    }

    /// One of each change.
    pub(crate) fn changes(&self) -> [Change; 5] {
        [
            self.renew(),
            self.complete("response"),
            self.halt(HaltReason::Unknown),
            Change::Release,
            Change::Forget,
        ]
    }

    /// Asserts that nothing of a record has changed.
    pub(crate) async fn unchanged(&self, id_number: u8, before: &Record) {
        let now = self.record(id_number).await;
        self.assert_same(&now, before);
    }

    /// Asserts that two records are the same one, to the instant where the clock is exact. A store with a clock of its own
    /// turns its times into the caller's at each answer, which need not give the same twice.
    #[track_caller]
    pub(crate) fn assert_same(&self, one: &Record, other: &Record) {
        if self.factory.is_exact() {
            assert_eq!(one, other);
            return;
        }
        for (one, other) in times(one).into_iter().zip(times(other)) {
            self.assert_near(one, other);
        }
        assert_eq!(without_times(one), without_times(other));
    }

    /// Asserts that an instant is so many ticks from now, exactly where the clock is.
    #[track_caller]
    pub(crate) fn assert_in(&self, instant: OffsetDateTime, ticks: u32) {
        self.assert_near(instant, self.now() + self.ticks(ticks));
    }

    /// Asserts that an instant is the expected one as far as the clock of the store tells: a store with a clock of its own
    /// says how far an instant is from its present, and the caller's may be later by what the calls took.
    #[track_caller]
    pub(crate) fn assert_near(&self, instant: OffsetDateTime, expected: OffsetDateTime) {
        let mut tolerance = Duration::ZERO;
        if !self.factory.is_exact() {
            let elapsed = Duration::try_from(self.now() - self.since).unwrap_or_default();
            let passed = Duration::from_micros(self.passed.load(Ordering::Relaxed));
            tolerance = CLOCKS_APART + elapsed.saturating_sub(passed);
        }
        let off = (instant - expected).abs();
        assert!(off <= tolerance, "{instant} is {off} off {expected}, {tolerance:?} is what it may be");
    }
}

/// The instants in a record.
fn times(record: &Record) -> [OffsetDateTime; 3] {
    let lease_until = match record.state {
        State::Processing { lease_until } => lease_until,
        State::Completed(_) | State::Halted(_) => record.expires_at,
    };
    [record.claimed_at, record.expires_at, lease_until]
}

/// What two answers must agree in to the letter where the clocks of store and caller are not the same.
pub(crate) fn without_times(record: &Record) -> Record {
    let mut record = record.clone();
    record.claimed_at = OffsetDateTime::UNIX_EPOCH;
    record.expires_at = OffsetDateTime::UNIX_EPOCH;
    if let State::Processing { lease_until } = &mut record.state {
        *lease_until = OffsetDateTime::UNIX_EPOCH;
    }
    record
}

pub(crate) fn response_of(record: &Record) -> &StoredResponse {
    match &record.state {
        State::Completed(response) => response,
        other => panic!("it was completed, and is {other:?}"),
    }
}

pub(crate) fn lease_until(record: &Record) -> OffsetDateTime {
    match record.state {
        State::Processing { lease_until } => lease_until,
        ref other => panic!("it was running, and is {other:?}"),
    }
}
