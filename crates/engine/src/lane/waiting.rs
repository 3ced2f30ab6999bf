//! Callers that wait for what somebody else makes of it, here or on another node: woken by its end, not by asking again.

use std::collections::VecDeque;

use idempotency_core::{Fingerprint, Record, State, StoreCommand, StoreError, StoreReply};
use time::OffsetDateTime;

use super::{Context, Lane};
use crate::{
    Caller, Tracked,
    job::{Claiming, Job},
    moment::Moment,
    verdict::{Verdict, verdict},
};

/// Those who wait, the least patient first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Waiters {
    waiting: VecDeque<Box<Claiming>>,
    /// What was read last of the record that they wait for, if it is not this node's.
    seen: Option<Seen>,
    /// When it is read next.
    look_at: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    fingerprint: Fingerprint,
    since: OffsetDateTime,
    lease_until: Moment,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether callers wait for a record with this fingerprint: one more need not ask.
    pub(super) fn wait_for(&self, fingerprint: &Fingerprint) -> bool {
        !self.is_empty() && self.seen.as_ref().is_some_and(|seen| seen.fingerprint == *fingerprint)
    }

    /// Not later than this.
    pub(super) fn look_at(&mut self, moment: Moment) {
        if !self.is_empty() {
            self.look_at = Some(self.look_at.map_or(moment, |at| at.min(moment)));
        }
    }

    /// When the least patient one has waited long enough.
    pub(super) fn first_until(&self) -> Option<Moment> {
        self.waiting.front().and_then(|waiter| waiter.wait_until)
    }

    fn add(&mut self, claiming: Box<Claiming>) {
        let at = self.waiting.partition_point(|waiter| waiter.wait_until <= claiming.wait_until);
        self.waiting.insert(at, claiming);
    }

    /// Whether this one waited.
    pub(super) fn remove(&mut self, caller: Caller) -> bool {
        let at = self.waiting.iter().position(|waiter| waiter.caller == Some(caller));
        at.and_then(|at| self.waiting.remove(at)).is_some()
    }

    /// All of them; nothing is known any more.
    pub(super) fn take(&mut self) -> VecDeque<Box<Claiming>> {
        std::mem::take(self).waiting
    }

    /// What is known of the work of another node.
    pub(super) fn processing(&self, cx: &Context<'_>) -> Tracked {
        let left = self.seen.as_ref().map_or(cx.config.store_limit, |seen| cx.moment.until(seen.lease_until));
        let retry_after = if left.is_zero() { cx.config.store_limit } else { left };
        Tracked::Processing { since: self.seen.as_ref().map(|seen| seen.since), retry_after }
    }
}

impl Lane {
    /// Waits if its caller wants to and there is room, else hears that somebody is at work.
    pub(super) fn wait_or_hear(
        &mut self,
        claiming: Box<Claiming>,
        processing: Tracked,
        cx: &mut Context<'_>,
    ) {
        let here = self.waiters.len();
        let has_room =
            here < cx.config.max_waiters_per_key && cx.elsewhere.waiting + here < cx.config.max_waiters;
        let waits = claiming.wait_until.is_some_and(|until| until > cx.moment) && !claiming.uncertain;
        if waits && has_room && !cx.draining {
            self.waiters.add(claiming);
        } else {
            cx.tracked(claiming.caller, Ok(processing));
        }
    }

    /// A resolver works on behalf of this caller, who hears what it leads to, whatever room there is.
    pub(super) fn wait_for_resolver(&mut self, mut claiming: Box<Claiming>, cx: &Context<'_>) {
        let settled = cx.config.resolve_limit + cx.config.track_patience();
        claiming.wait_until = Some(cx.moment.after(settled));
        self.waiters.add(claiming);
    }

    /// When the store is asked on behalf of those who wait; not as long as what they wait for lives here.
    pub(super) fn looks_at(&self) -> Option<Moment> {
        self.waiters.look_at.filter(|_| self.claim.is_none() && !self.waiters.is_empty())
    }

    pub(super) fn look(&mut self, cx: &mut Context<'_>) {
        self.waiters.look_at = Some(cx.moment.after(cx.config.look_every));
        self.send(Job::Look, StoreCommand::Watch(cx.id), cx);
    }

    pub(super) fn look_replied(&mut self, reply: Result<StoreReply, StoreError>, cx: &mut Context<'_>) {
        match reply.and_then(StoreReply::found) {
            Ok(Some(record)) => self.hear(&record, cx),
            // It is free: the first one tries, and the others wait for what he makes of it.
            Ok(None) => {
                self.waiters.seen = None;
                if let Some(first) = self.waiters.waiting.pop_front() {
                    self.try_again(first, None, cx);
                }
            }
            // Asked again when it is time.
            Err(_) => {}
        }
    }

    /// As if it came now, and takes over from this owner if there is one.
    fn try_again(&mut self, mut waiter: Box<Claiming>, from: Option<&Record>, cx: &Context<'_>) {
        waiter.begin_anew(cx.moment.after(cx.config.track_patience()), cx.moment);
        if let Some(orphan) = from {
            waiter.take_over(orphan);
        }
        self.queue.push_back(Job::Claim(waiter));
    }

    /// Everybody who waits here hears what became of a record, or goes on waiting.
    pub(super) fn hear(&mut self, record: &Record, cx: &mut Context<'_>) {
        let waiting = std::mem::take(&mut self.waiters.waiting);
        let mut takes_over = None;
        for waiter in waiting {
            match verdict(record, &waiter.claim, waiter.on_orphan, cx.now) {
                Verdict::Answer(Tracked::Processing { .. }) => self.waiters.waiting.push_back(waiter),
                Verdict::Answer(answer) => cx.tracked(waiter.caller, Ok(answer)),
                Verdict::TakeOver if takes_over.is_none() => takes_over = Some(waiter),
                Verdict::TakeOver => self.waiters.waiting.push_back(waiter),
            }
        }
        self.note(record, cx);
        if let Some(waiter) = takes_over {
            self.try_again(waiter, Some(record), cx);
        }
    }

    /// What was read last, and when it is worth reading it again without a hint: when its lease lapses, or now and then.
    pub(super) fn note(&mut self, record: &Record, cx: &Context<'_>) {
        let mut look_at = cx.moment.after(cx.config.look_every);
        self.waiters.seen = match record.state {
            State::Processing { lease_until } => {
                look_at = look_at.min(Moment::from(lease_until).max(cx.moment.after(cx.config.backoff(0))));
                Some(Seen {
                    fingerprint: record.fingerprint,
                    since: record.claimed_at,
                    lease_until: lease_until.into(),
                })
            }
            State::Completed(_) | State::Halted(_) => None,
        };
        // A hint that came before this answer is not forgotten.
        self.waiters.look_at = Some(self.waiters.look_at.map_or(look_at, |at| at.min(look_at)));
    }

    /// Those who came while the answer to another one was under way, and would wait for the same: they need not wait for the
    /// answers to those in front of them.
    pub(super) fn wait_together(&mut self, cx: &mut Context<'_>) {
        for job in std::mem::take(&mut self.queue) {
            match job {
                Job::Claim(claiming) if claiming.wait_until.is_some() && !claiming.uncertain => {
                    if let Some(asks) = self.answer_from_here(claiming, cx) {
                        self.queue.push_back(Job::Claim(asks));
                    }
                }
                job => self.queue.push_back(job),
            }
        }
    }

    pub(super) fn tick_waiters(&mut self, cx: &mut Context<'_>) {
        while self.waiters.first_until().is_some_and(|until| until <= cx.moment) {
            let processing = self.processing(cx);
            let Some(waiter) = self.waiters.waiting.pop_front() else { return };
            cx.tracked(waiter.caller, Ok(processing));
        }
    }
}
