//! From a result to a settled record, and laying ghosts to rest.

use std::collections::VecDeque;

use idempotency_core::{
    Change, Claim, Owner, Record, State, StoreError, StoreErrorKind, StoreReply, Updated,
};

use super::{Context, Lane, out_of_step};
use crate::{
    Answer, Caller, Command, Forgotten, Happened, Settled,
    ghost::Ghost,
    job::{Job, Settling},
    live_claim::{Ending, LiveClaim},
    verdict::{Verdict, verdict},
};

/// What a record takes up beside its body and its meta, about: its share of a tenant's bytes.
const SIZE_OF_A_RECORD: usize = 256;

pub(super) fn size_of_body(change: &Change) -> usize {
    match change {
        Change::Complete { response, .. } => response.bytes().map_or(0, |bytes| bytes.len()),
        _ => 0,
    }
}

impl Lane {
    pub(super) fn settle_replied(
        &mut self,
        settling: Settling,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        match reply {
            Ok(StoreReply::Updated(updated)) => self.settled(settling, updated, cx),
            Ok(_) => self.settle_failed(settling, &out_of_step(), cx),
            Err(error) => self.settle_failed(settling, &error, cx),
        }
    }

    fn settled(&mut self, settling: Settling, updated: Updated, cx: &mut Context<'_>) {
        let released = settling.update.change == Change::Release;
        let answer = match updated {
            Updated::Applied | Updated::AlreadyApplied => Settled::Stored,
            // The repetition of a release whose reply was lost finds what it left.
            Updated::NotFound if released && settling.resent => Settled::Stored,
            Updated::NotFound => Settled::Gone,
            Updated::Fenced => Settled::Superseded,
        };
        cx.answer(settling.caller, Answer::Settled(answer));
        cx.out.push(Command::Settled { owner: settling.owner() });
        match answer {
            Settled::Superseded => cx.happened(Happened::Superseded),
            Settled::Gone => cx.happened(Happened::Gone),
            Settled::Stored | Settled::Deferred => {}
        }
        if settling.attempts > 0 {
            self.deferred = self.deferred.saturating_sub(size_of_body(&settling.update.change));
        }
        if self.claim.as_ref().is_none_or(|live| live.claim.owner != settling.owner()) {
            return;
        }
        let Some(live) = self.end_claim(cx) else { return };
        if released && live.uncertain {
            // A late copy of the insert would block an id that is free.
            let ghost = Ghost { change: Change::Release, ..Ghost::of(&live.claim, false, true, cx.moment) };
            self.haunt(ghost, cx);
        }
        if answer == Settled::Stored && !released {
            self.stored(&live, &settling.update.change, cx);
        }
    }

    /// Whoever waits here hears what was stored, without a look at it.
    fn stored(&mut self, live: &LiveClaim, change: &Change, cx: &mut Context<'_>) {
        let bytes = SIZE_OF_A_RECORD + live.claim.meta.as_bytes().len() + size_of_body(change);
        let (Change::Complete { retention, .. } | Change::Halt { retention, .. }) = change else { return };
        cx.stored = Some((bytes as u64, *retention));
        if self.waiters.is_empty() && self.queue.is_empty() {
            return;
        }
        let state = match change {
            Change::Complete { response, .. } => State::Completed(response.clone()),
            Change::Halt { reason, .. } => State::Halted(*reason),
            _ => return,
        };
        let Claim { owner, fingerprint, ref meta, .. } = *live.claim;
        let expires_at = cx.moment.after(*retention).into();
        let record = Record::new(owner, fingerprint, live.since.into(), expires_at, meta.clone(), state);
        for job in std::mem::take(&mut self.queue) {
            match job {
                Job::Claim(claiming) if !claiming.uncertain => {
                    match verdict(&record, &claiming.claim, claiming.on_orphan, cx.now) {
                        Verdict::Answer(answer) => cx.tracked(claiming.caller, Ok(answer)),
                        Verdict::TakeOver => self.queue.push_back(Job::Claim(claiming)),
                    }
                }
                job => self.queue.push_back(job),
            }
        }
        self.hear(&record, cx);
    }

    /// Tried until it is applied, fenced or gone (I10).
    fn settle_failed(&mut self, mut settling: Settling, error: &StoreError, cx: &mut Context<'_>) {
        if let Change::Complete { response, .. } = &settling.update.change
            && matches!(error.kind(), StoreErrorKind::Full | StoreErrorKind::Invalid)
            && response.bytes().is_some()
        {
            // The store will not take this body, now or later. The fact that the work was done must get there.
            let body = response.bytes().map_or(0, |bytes| bytes.len());
            settling.let_body_go();
            if settling.attempts > 0 {
                self.deferred = self.deferred.saturating_sub(body);
            }
            cx.let_body_go(settling.owner());
            self.queue.push_front(Job::Settle(settling));
            return;
        }
        if settling.attempts == 0 {
            self.defer(&mut settling, cx);
        }
        settling.not_before = cx.moment.after(cx.config.backoff(settling.attempts));
        settling.attempts = settling.attempts.saturating_add(1);
        settling.resent |= !error.was_not_applied();
        let is_live = self.claim.as_ref().is_some_and(|live| live.claim.owner == settling.owner());
        if let Some(live) = self.claim.as_mut().filter(|_| is_live) {
            live.ending = Ending::Failing;
        }
        // A renewal that is due goes first: while the result fails, it alone keeps others from taking over.
        let renewals = self.queue.iter().take_while(|job| matches!(job, Job::Renew | Job::Reclaim)).count();
        self.queue.insert(renewals, Job::Settle(settling));
        // Others wait for what somebody else makes of it, who has the record by now.
        if is_live {
            self.answer_those_waiting(cx);
        }
    }

    /// What is kept until the store takes it has room here, or else its body is let go of: that the work was done is kept.
    fn defer(&mut self, settling: &mut Settling, cx: &mut Context<'_>) {
        let body = size_of_body(&settling.update.change);
        if cx.elsewhere.deferred + self.deferred + body <= cx.config.max_deferred_bytes {
            self.deferred += body;
        } else if matches!(settling.update.change, Change::Complete { .. }) {
            settling.let_body_go();
            cx.let_body_go(settling.owner());
        }
    }

    /// The result will take a while, so those who waited for it hear it from here.
    fn answer_those_waiting(&mut self, cx: &mut Context<'_>) {
        let (asking, waiting) = (std::mem::take(&mut self.queue), self.waiters.take());
        // The result itself first: the answers are taken from it.
        let (asking, kept) =
            asking.into_iter().partition(|job| matches!(job, Job::Claim(it) if !it.uncertain));
        self.queue = kept;
        let asking: VecDeque<Job> = asking;
        let asking = asking.into_iter().filter_map(|job| match job {
            Job::Claim(claiming) => Some(claiming),
            _ => None,
        });
        for claiming in asking.chain(waiting) {
            if let Some(claiming) = self.answer_from_here(claiming, cx) {
                self.queue.push_back(Job::Claim(claiming));
            }
        }
    }

    pub(super) fn start_forgetting(
        &mut self,
        caller: Option<Caller>,
        owner: Owner,
        job: Job,
        cx: &mut Context<'_>,
    ) {
        // By the clock it may have lapsed; but its permit lives here.
        if self.claim.as_ref().is_some_and(|live| live.claim.owner == owner) {
            cx.answer(caller, Answer::Forgotten(Ok(Forgotten::Refused)));
            return;
        }
        let command = cx.update(owner, Change::Forget);
        self.send(job, command, cx);
    }

    pub(super) fn forget_replied(
        caller: Option<Caller>,
        resent: bool,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        let answer = match reply {
            // It was read before, so a copy has deleted it.
            Ok(StoreReply::Updated(Updated::NotFound)) if resent => Ok(Forgotten::Forgotten),
            Ok(StoreReply::Updated(Updated::Applied | Updated::AlreadyApplied)) => Ok(Forgotten::Forgotten),
            Ok(StoreReply::Updated(Updated::Fenced)) => Ok(Forgotten::Refused),
            Ok(StoreReply::Updated(Updated::NotFound)) => Ok(Forgotten::NotFound),
            Ok(_) => Err(cx.unavailable(Some(out_of_step()))),
            Err(error) => Err(cx.unavailable(Some(error))),
        };
        cx.answer(caller, Answer::Forgotten(answer));
    }

    pub(super) fn rest_replied(
        &mut self,
        mut ghost: Ghost,
        reply: Result<StoreReply, StoreError>,
        cx: &Context<'_>,
    ) {
        match reply {
            Ok(_) => self.haunt(ghost, cx),
            Err(error) if error.is_retryable() => {
                ghost.due = cx.moment.after(cx.config.backoff(ghost.attempts));
                ghost.attempts = ghost.attempts.saturating_add(1);
                self.ghosts.push(ghost);
            }
            // Its lease will lapse.
            Err(_) => {}
        }
    }

    /// Settles the ghost again one and three store limits after this: no copy is held up for longer.
    fn haunt(&mut self, mut ghost: Ghost, cx: &Context<'_>) {
        let limits = match ghost.repeats {
            0 => return,
            1 => 2,
            _ => 1,
        };
        ghost.repeats -= 1;
        ghost.attempts = 0;
        ghost.due = cx.moment.after(cx.config.store_limit * limits);
        self.ghosts.push(ghost);
    }
}
