//! An engine, the clock beside it, and short words for what it says.

use std::{sync::Arc, time::Duration};

use idempotency_core::{
    Change, Claim, Fingerprint, HaltReason, Inserted, Meta, Owner, Record, RequestId, State, StoreCommand,
    StoreError, StoreErrorKind, StoreReply, StoredResponse, Update, Updated,
};
use idempotency_engine::{
    Answer, Call, Caller, Command, Config, Engine, Event, OnConcurrent, OnOrphan, Refused, Track, Tracked,
};
use time::OffsetDateTime;

pub(crate) const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

/// An engine, and the clock beside it.
pub(crate) struct Desk {
    pub(crate) engine: Engine,
    pub(crate) now: OffsetDateTime,
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn id() -> RequestId {
    RequestId::from_bytes([1; 32])
}

pub(crate) fn claim(owner: u128) -> Claim {
    Claim::new(id(), Owner::from_u128(owner), Fingerprint::derive(None, [&b"10"[..]]))
}

/// Caller and owner have one number.
pub(crate) fn track(number: u64) -> Event {
    track_as(number, |_| {})
}

pub(crate) fn track_as(number: u64, change: impl FnOnce(&mut Track)) -> Event {
    let mut track = Track::new(claim(number.into()));
    change(&mut track);
    Event::Track { caller: Caller(number), track }
}

pub(crate) fn claim_of(track: &mut Track) -> &mut Claim {
    Arc::make_mut(&mut track.claim)
}

pub(crate) fn settle(owner: u128, change: Change) -> Event {
    let update = Update::new(id(), Owner::from_u128(owner), change).into();
    Event::Settle { update, caller: Some(Caller(100)) }
}

/// Waits for so many milliseconds.
pub(crate) fn wait(number: u64, at_most: u64) -> Event {
    track_as(number, |track| track.on_concurrent = OnConcurrent::Wait { at_most: ms(at_most) })
}

/// Works again after an orphan.
pub(crate) fn rerun(number: u64) -> Event {
    track_as(number, |track| track.on_orphan = OnOrphan::Rerun)
}

/// The same key for something else.
pub(crate) fn other_payload(number: u64) -> Event {
    track_as(number, |track| claim_of(track).fingerprint = Fingerprint::derive(None, [&b"11"[..]]))
}

pub(crate) fn gone(number: u64) -> Event {
    Event::Gone { id: id(), caller: Caller(number) }
}

pub(crate) fn resent() -> Event {
    Event::Resent { id: id() }
}

pub(crate) fn forget(owner: u128) -> Event {
    Event::Forget { caller: Caller(100), id: id(), owner: Owner::from_u128(owner) }
}

pub(crate) fn halt(reason: HaltReason) -> Change {
    Change::Halt { reason, retention: Duration::from_secs(60) }
}

pub(crate) fn complete() -> Change {
    Change::Complete { response: StoredResponse::new("done"), retention: Duration::from_secs(60) }
}

pub(crate) fn claimed() -> Result<StoreReply, StoreError> {
    Ok(StoreReply::Inserted(Inserted::Claimed))
}

pub(crate) fn updated(updated: Updated) -> Result<StoreReply, StoreError> {
    Ok(StoreReply::Updated(updated))
}

/// Nobody knows whether it was done.
pub(crate) fn lost() -> Result<StoreReply, StoreError> {
    Err(StoreError::new(StoreErrorKind::TimedOut, "late"))
}

/// Certainly not done, and not worth trying again.
pub(crate) fn refused(kind: StoreErrorKind) -> Result<StoreReply, StoreError> {
    Err(StoreError::new(kind, "no").not_applied())
}

pub(crate) fn not_sent() -> Result<StoreReply, StoreError> {
    Err(StoreError::new(StoreErrorKind::Unavailable, "down").not_applied())
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { prune_every: None, ..Config::default() };
        change(&mut config);
        Self { engine: Engine::new(config, START, 0), now: START }
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<String> {
        let mut out = Vec::new();
        self.engine.handle(self.now, event, &mut out);
        out.iter().map(|command| self.shown(command)).collect()
    }

    pub(crate) fn reply(&mut self, reply: Result<StoreReply, StoreError>) -> Vec<String> {
        self.tell(Event::Replied { call: Call::Lane(id()), reply })
    }

    /// What is done by itself up to this moment, at the moments at which the engine asks to be woken; each line begins with the
    /// milliseconds since the start.
    pub(crate) fn until(&mut self, at: u64) -> Vec<String> {
        let end = START + ms(at);
        let (mut done, mut rounds) = (Vec::new(), 0);
        while let Some(deadline) =
            self.engine.deadline().map(OffsetDateTime::from).filter(|deadline| *deadline <= end)
        {
            rounds = if deadline > self.now { 0 } else { rounds + 1 };
            assert!(rounds < 100, "it goes round in circles: {done:?}");
            self.now = self.now.max(deadline);
            let at = since_start(self.now);
            let told = self.tell(Event::Deadline { entropy: 0 });
            done.extend(told.into_iter().map(|line| format!("{at} {line}")));
        }
        self.now = end;
        done
    }

    /// Somebody else's record.
    pub(crate) fn found(&self, owner: u128, state: State) -> Result<StoreReply, StoreError> {
        let expires_at = self.now + Duration::from_secs(60);
        let fingerprint = claim(owner).fingerprint;
        let record =
            Record::new(Owner::from_u128(owner), fingerprint, START, expires_at, Meta::default(), state);
        Ok(StoreReply::Inserted(Inserted::Exists(record.into())))
    }

    pub(crate) fn running(&self, owner: u128, left: u64) -> Result<StoreReply, StoreError> {
        self.found(owner, State::Processing { lease_until: self.now + ms(left) })
    }

    fn shown(&self, command: &Command) -> String {
        let owner = |owner: &Owner| u128::from_be_bytes(*owner.as_bytes());
        match command {
            Command::Call { command: StoreCommand::Insert(claim), .. } => match &claim.takes_over {
                None => format!("insert {}", owner(&claim.owner)),
                Some(from) => format!("insert {} over {}", owner(&claim.owner), owner(from)),
            },
            Command::Call { command: StoreCommand::Update(update), .. } => {
                let said = format!("{} {}", update.change.name(), owner(&update.owner));
                match update.change {
                    Change::Halt { reason, .. } => format!("{said}, {reason}"),
                    _ => said,
                }
            }
            Command::Call { command, .. } => command.name().to_owned(),
            Command::Answer(Caller(caller), answer) => format!("{caller}: {}", self.answer(answer)),
            Command::Dismiss(Caller(caller)) => format!("{caller}: dismissed"),
            Command::Held { owner: held, until } => {
                format!("held {} to {}", owner(held), since_start(*until))
            }
            Command::Lost { owner: it, .. } => format!("lost {}", owner(it)),
            Command::Ended { owner: it } => format!("ended {}", owner(it)),
            Command::Settled { owner: it } => format!("settled {}", owner(it)),
            Command::BodyLetGo { owner: it } => format!("let go of the body of {}", owner(it)),
            Command::Resolve { caller: Caller(caller), permit } => {
                format!("{caller}: resolve as {}", owner(&permit.claim.owner))
            }
            Command::Happened(_, what) => format!("{what:?}"),
        }
    }

    fn answer(&self, answer: &Answer) -> String {
        match answer {
            Answer::Tracked(Ok(Tracked::Init(granted))) => {
                let owner = u128::from_be_bytes(*granted.claim.owner.as_bytes());
                let (held, work) = (since_start(granted.held_until), since_start(granted.work_until));
                format!("init {owner}, held to {held}, work to {work}")
            }
            Answer::Tracked(Ok(Tracked::Processing { retry_after, .. })) => {
                format!("processing, {}", retry_after.as_millis())
            }
            Answer::Tracked(Ok(Tracked::Cached { .. })) => "cached".to_owned(),
            Answer::Tracked(Ok(Tracked::Halted { reason, .. })) => format!("halted, {reason}"),
            Answer::Tracked(Ok(Tracked::Mismatch { .. })) => "mismatch".to_owned(),
            Answer::Tracked(Err(Refused::Unavailable { retry_after, source })) => {
                let why = source
                    .as_ref()
                    .map_or_else(|| "refused".to_owned(), |error| format!("{:?}", error.kind()));
                format!("unavailable, {}, {why}", retry_after.as_millis())
            }
            Answer::Tracked(Err(refused)) => format!("{refused:?}"),
            Answer::Settled(settled) => format!("{settled:?}"),
            answer => format!("{answer:?}"),
        }
    }

    /// A claim that was asked for and made at the start, by owner 1.
    pub(crate) fn claimed() -> Self {
        let mut desk = Self::new();
        assert_eq!(desk.tell(track(1)), ["insert 1"]);
        assert_eq!(desk.reply(claimed()), ["1: init 1, held to 13500, work to 900000"]);
        desk
    }
}

pub(crate) fn since_start(moment: impl Into<OffsetDateTime>) -> i128 {
    (moment.into() - START).whole_milliseconds()
}
