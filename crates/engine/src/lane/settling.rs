//! From a result to a settled record, and laying ghosts to rest.

use idempotency_core::{
    Change, Owner, StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};

use super::{Context, Lane, out_of_step};
use crate::{
    Answer, Caller, Forgotten, Settled,
    ghost::Ghost,
    job::{Job, Settling},
    live_claim::Ending,
};

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
        let released = settling.change == Change::Release;
        let answer = match updated {
            Updated::Applied | Updated::AlreadyApplied => Settled::Stored,
            // The repetition of a release whose reply was lost finds what it left.
            Updated::NotFound if released && settling.attempts > 0 => Settled::Stored,
            Updated::NotFound => Settled::Gone,
            Updated::Fenced => Settled::Superseded,
        };
        cx.answer(settling.caller, Answer::Settled(answer));
        if self.claim.as_ref().is_none_or(|live| live.claim.owner != settling.owner) {
            return;
        }
        if let Some(live) = self.end_claim(cx)
            && released
            && live.uncertain
        {
            // A late copy of the insert would block an id that is free.
            let ghost = Ghost { change: Change::Release, ..Ghost::of(&live.claim, true, cx.moment) };
            self.haunt(ghost, cx);
        }
    }

    /// Tried until it is applied, fenced or gone (I10).
    fn settle_failed(&mut self, mut settling: Settling, error: &StoreError, cx: &mut Context<'_>) {
        if let Change::Complete { response, .. } = &mut settling.change
            && matches!(error.kind(), StoreErrorKind::Full | StoreErrorKind::Invalid)
            && response.bytes().is_some()
        {
            // The store will not take this body, now or later. The fact that the work was done must get there.
            *response = response.clone().without_body();
            self.queue.push_front(Job::Settle(settling));
            return;
        }
        settling.not_before = cx.moment.after(cx.config.backoff(settling.attempts));
        settling.attempts = settling.attempts.saturating_add(1);
        if let Some(live) = self.claim.as_mut().filter(|live| live.claim.owner == settling.owner) {
            live.ending = Ending::Failing;
        }
        // A renewal that is due goes first: while the result fails, it alone keeps others from taking over.
        let renewals = self.queue.iter().take_while(|job| matches!(job, Job::Renew | Job::Reclaim)).count();
        self.queue.insert(renewals, Job::Settle(settling));
        self.answer_those_waiting(cx);
    }

    /// The result will take a while, so those who waited for it hear that it is on its way.
    fn answer_those_waiting(&mut self, cx: &mut Context<'_>) {
        let waiting = std::mem::take(&mut self.queue);
        for job in waiting {
            match job {
                Job::Claim(claiming) if !claiming.uncertain => match self.local_answer(&claiming.claim, cx) {
                    Some(answer) => cx.tracked(claiming.caller, Ok(answer)),
                    None => self.queue.push_back(Job::Claim(claiming)),
                },
                job => self.queue.push_back(job),
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
        self.send(job, StoreCommand::Update(Update::new(cx.id, owner, Change::Forget)), cx);
    }

    pub(super) fn forget_replied(
        caller: Option<Caller>,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        let answer = match reply {
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
