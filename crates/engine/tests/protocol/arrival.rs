//! What happens when a message arrives at the store, and when the answer gets back to its caller.

use std::{sync::atomic::Ordering, time::Duration};

use idempotency_core::*;
use idempotency_engine::{OnOrphan, Tracked, Verdict, verdict};
use time::OffsetDateTime;

use super::*;

impl Protocol {
    fn fingerprint(&self, caller: u8) -> Fingerprint {
        let stranger = caller + self.strangers >= self.callers;
        Fingerprint::from_parts(Scheme::RAW, [stranger.into(); 32])
    }

    fn claim(&self, world: &World, message: Message, from: Option<u8>) -> Claim {
        let mut claim = Claim::new(ID, owner(message.token), self.fingerprint(message.caller));
        claim.lease = Duration::from_secs(LEASE);
        claim.retention = Duration::from_secs(RETENTION);
        claim.takes_over = from.map(owner);
        if self.fault == Fault::CounterAsFence {
            // The row counts its owners, and starts again when it is gone.
            claim.owner = owner(world.record.as_ref().map_or(1, |record| token(record.owner) + 1));
        }
        claim
    }

    fn change(word: Word, caller: u8) -> Change {
        let (lease, retention) = (Duration::from_secs(LEASE), Duration::from_secs(RETENTION));
        match word {
            Word::Renew => Change::Renew { lease, retention },
            Word::Complete => Change::Complete { response: body(caller).into(), retention },
            Word::Halt => Change::Halt { reason: HaltReason::Cancelled, retention },
            Word::Shutdown => Change::Halt { reason: HaltReason::Shutdown, retention },
            Word::Release => Change::Release,
            Word::Forget => Change::Forget,
            Word::Claim { .. } | Word::BlindWrite => unreachable!("no update"),
        }
    }

    /// The store takes an insert in: the real table, or what is wrong with it.
    fn insert(&self, world: &World, claim: &Claim, now: OffsetDateTime) -> Transition<Inserted> {
        let stored = world.record.as_ref();
        let keep = |answer| Transition { write: Write::Keep, answer };
        match (self.fault, stored) {
            (Fault::ExpiryIgnoredOnRead, Some(record)) if record.is_expired(now) => {
                keep(Inserted::Exists(record.clone().into()))
            }
            (Fault::RepeatedClaimOfSettledIsClaimed, Some(record))
                if record.owner == claim.owner && record.state.is_settled() && !record.is_expired(now) =>
            {
                keep(Inserted::Claimed)
            }
            (Fault::HaltWrittenOnLapse, Some(record))
                if record.is_lapsed(now) && !record.is_expired(now) && record.owner != claim.owner =>
            {
                let mut halted = record.clone();
                halted.state = State::Halted(HaltReason::OwnerLost);
                Transition { write: Write::Put(halted.clone()), answer: Inserted::Exists(halted.into()) }
            }
            _ => Record::on_insert(stored, claim, now),
        }
    }

    fn update(&self, world: &World, update: &Update, now: OffsetDateTime) -> Transition<Updated> {
        if self.fault == Fault::UnconditionalComplete
            && let (Some(stored), Change::Complete { response, .. }) = (&world.record, &update.change)
        {
            let mut written = stored.clone();
            written.state = State::Completed(response.clone());
            return Transition { write: Write::Put(written), answer: Updated::Applied };
        }
        Record::on_update(world.record.as_ref(), update, now)
    }

    fn reach(&self, reached: Reached) {
        self.reached.fetch_or(reached as u8, Ordering::Relaxed);
    }

    /// A message arrives at the store. `answered`: its reply gets back.
    pub(super) fn arrive(&self, world: &mut World, message: Message, answered: bool) {
        let now = at(world.now);
        match message.word {
            Word::Claim { from } => {
                if self.fault == Fault::LookUpThenInsert {
                    let free = world.record.as_ref().is_none_or(|record| record.is_expired(now));
                    if free {
                        return send(world, Message { word: Word::BlindWrite, ..message });
                    }
                }
                let claim = self.claim(world, message, from);
                let step = self.insert(world, &claim, now);
                self.note_claim(world, message, from.is_some(), &step.answer, now);
                write(world, step.write);
                if answered {
                    self.hear(world, message.caller, &claim, step.answer, now);
                }
            }
            Word::BlindWrite => {
                let claim = self.claim(world, message, None);
                self.note_claim(world, message, false, &Inserted::Claimed, now);
                write(world, Record::on_insert(None, &claim, now).write);
                if answered {
                    self.hear(world, message.caller, &claim, Inserted::Claimed, now);
                }
            }
            word => {
                let change = Self::change(word, message.caller);
                let update = Update::new(ID, owner(message.token), change);
                let step = self.update(world, &update, now);
                let before = world.record.clone();
                write(world, step.write);
                if word == Word::Forget {
                    if step.answer == Updated::Applied {
                        world.monitor.forgotten();
                    }
                    return;
                }
                let after = world.record.as_ref();
                let caller = message.caller;
                world.monitor.updated(caller, &update.change, before.as_ref(), after, step.answer, now);
                if word == Word::Release && step.answer == Updated::Applied {
                    world.released.push(caller);
                }
                if word == Word::Complete
                    && step.answer == Updated::Fenced
                    && before.is_some_and(|record| record.owner != owner(message.token))
                {
                    self.reach(Reached::LatePutAfterTakeover);
                }
                if answered && world.callers[usize::from(caller)] == Caller::Settling(word) {
                    // After a release an owner is never heard of again.
                    world.callers[usize::from(caller)] =
                        if word == Word::Release { Caller::Over } else { Caller::Settled };
                }
            }
        }
    }

    fn note_claim(
        &self,
        world: &mut World,
        message: Message,
        takes_over: bool,
        answer: &Inserted,
        now: OffsetDateTime,
    ) {
        let may_rerun = self.on_orphan == OnOrphan::Rerun;
        let before = world.record.as_ref();
        world.monitor.inserted(message.caller, takes_over, may_rerun, before, answer, now);
        if *answer == Inserted::Claimed {
            if world.was_pruned && world.record.is_none() {
                self.reach(Reached::ClaimAfterPrune);
            }
            if world.released.contains(&message.caller) {
                self.reach(Reached::LateCopyAfterRelease);
            }
        }
    }

    /// A caller that still waits hears the answer to its claim.
    fn hear(&self, world: &mut World, caller: u8, claim: &Claim, answer: Inserted, now: OffsetDateTime) {
        let index = usize::from(caller);
        let Caller::Claiming { .. } = world.callers[index] else { return };
        let record = match answer {
            Inserted::Claimed => {
                world.tokens[index] = token(claim.owner);
                world.callers[index] = Caller::Working;
                return world.monitor.init();
            }
            Inserted::Exists(record) => record,
            Inserted::Busy => unreachable!("this store has no transactions"),
        };
        let same = record.fingerprint == claim.fingerprint;
        world.callers[index] = Caller::Over;
        match verdict(&record, claim, self.on_orphan, now) {
            Verdict::TakeOver => {
                let from = Some(token(record.owner));
                world.callers[index] = Caller::Claiming { from };
                send(world, Message { caller, word: Word::Claim { from }, token: world.tokens[index] });
            }
            Verdict::Answer(Tracked::Mismatch { .. }) => {}
            Verdict::Answer(_) if !same => world.monitor.not_a_mismatch(),
            Verdict::Answer(Tracked::Cached { .. }) => world.monitor.replayed(&record, body),
            Verdict::Answer(Tracked::Processing { .. }) if record.is_lapsed(now) => world.monitor.stuck(),
            Verdict::Answer(_) => {}
        }
    }
}

pub(super) fn send(world: &mut World, message: Message) {
    let place = world.under_way.partition_point(|other| *other < message);
    world.under_way.insert(place, message);
}

fn write(world: &mut World, write: Write) {
    match write {
        Write::Keep => {}
        Write::Put(record) => world.record = Some(record),
        Write::Delete => world.record = None,
    }
}
