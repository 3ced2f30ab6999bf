//! From a `Track` to a live claim, and keeping it alive.

use idempotency_core::{
    Change, Claim, Inserted, Record, StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};

use super::{Context, Lane, out_of_step};
use crate::{
    Command, Refused, Tracked,
    ghost::Ghost,
    job::{Claiming, Job},
    live_claim::{self, Ending, LiveClaim},
    moment::Moment,
    verdict::{Verdict, verdict},
};

/// How often one `Track` may lose the race for a record before it says that somebody is working.
const RACES: u8 = 3;

impl Lane {
    pub(super) fn start_claiming(&mut self, mut claiming: Claiming, cx: &mut Context<'_>) {
        cx.dismiss(&mut claiming);
        if cx.draining {
            cx.tracked(claiming.caller.take(), Err(Refused::ShuttingDown));
        } else if let Some(answer) = self.local_answer(&claiming.claim, cx) {
            cx.tracked(claiming.caller.take(), Ok(answer));
        }
        if claiming.caller.is_none() {
            if claiming.uncertain {
                self.unwanted(claiming.claim, true, cx);
            }
            return;
        }
        claiming.only_look = !claiming.uncertain && cx.elsewhere + self.weight() >= cx.config.max_in_flight;
        let command = if claiming.only_look {
            StoreCommand::Lookup(cx.id)
        } else {
            StoreCommand::Insert(claiming.claim.clone())
        };
        self.send(Job::Claim(claiming), command, cx);
    }

    pub(super) fn claim_replied(
        &mut self,
        mut claiming: Claiming,
        sent_at: Moment,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        cx.dismiss(&mut claiming);
        match reply {
            Ok(StoreReply::Inserted(Inserted::Claimed)) => self.claimed(claiming, sent_at, cx),
            Ok(StoreReply::Inserted(Inserted::Exists(record)) | StoreReply::Found(Some(record))) => {
                self.exists(claiming, record, cx);
            }
            Ok(StoreReply::Inserted(Inserted::Busy)) => {
                let answer = Tracked::Processing { since: None, retry_after: cx.config.store_limit };
                self.not_claimed(claiming, Ok(answer), cx);
            }
            Ok(StoreReply::Found(None)) => self.not_claimed(claiming, Err(Refused::Overloaded), cx),
            Ok(_) => self.claim_failed(claiming, out_of_step(), cx),
            Err(error) => self.claim_failed(claiming, error, cx),
        }
    }

    fn claimed(&mut self, mut claiming: Claiming, sent_at: Moment, cx: &mut Context<'_>) {
        if claiming.caller.is_none() || cx.draining {
            cx.tracked(claiming.caller.take(), Err(Refused::ShuttingDown));
            self.unwanted(claiming.claim, claiming.uncertain, cx);
            return;
        }
        if live_claim::held_until(&claiming.claim, sent_at) <= cx.moment {
            // The answer took longer than the lease: somebody may have taken over. The repetition tells.
            claiming.uncertain = true;
            self.queue.push_front(Job::Claim(claiming));
            return;
        }
        let Claiming { caller, claim, work_limit, uncertain, .. } = claiming;
        let live = LiveClaim::new(claim, sent_at, work_limit, uncertain);
        let init = Tracked::Init {
            owner: live.claim.owner,
            held_until: live.held_until.into(),
            took_over: live.claim.takes_over.is_some(),
        };
        self.claim = Some(live);
        cx.tracked(caller, Ok(init));
    }

    fn exists(&mut self, mut claiming: Claiming, record: Record, cx: &mut Context<'_>) {
        let raced_out = claiming.races >= RACES;
        let ghost = self.ghosts.iter().position(|ghost| ghost.owner == record.owner);
        if let (Some(index), false) = (ghost, raced_out) {
            // A late copy of ours, which nobody works under.
            claiming.races += 1;
            self.queue.push_front(Job::Claim(claiming));
            self.queue.push_front(Job::LayToRest(self.ghosts.remove(index)));
            return;
        }
        let answer = match verdict(&record, &claiming.claim, claiming.on_orphan, cx.now) {
            Verdict::Answer(answer) => Ok(answer),
            Verdict::TakeOver if claiming.only_look => Err(Refused::Overloaded),
            Verdict::TakeOver if raced_out => {
                Ok(Tracked::Processing { since: Some(record.claimed_at), retry_after: cx.config.store_limit })
            }
            Verdict::TakeOver => {
                claiming.races += 1;
                claiming.claim.takes_over = Some(record.owner);
                claiming.claim.meta = record.meta;
                self.queue.push_front(Job::Claim(claiming));
                return;
            }
        };
        self.not_claimed(claiming, answer, cx);
    }

    fn claim_failed(&mut self, mut claiming: Claiming, error: StoreError, cx: &mut Context<'_>) {
        claiming.uncertain |= !claiming.only_look && !error.was_not_applied();
        let again = cx.moment.after(cx.config.backoff(claiming.attempts));
        if claiming.caller.is_some() && error.is_retryable() && again < claiming.give_up {
            claiming.attempts += 1;
            claiming.not_before = again;
            self.queue.push_front(Job::Claim(claiming));
            return;
        }
        let refused = match error.kind() {
            StoreErrorKind::Full => Refused::Overloaded,
            _ => cx.unavailable(Some(error)),
        };
        let Claiming { caller, claim, uncertain, .. } = claiming;
        cx.tracked(caller, Err(refused));
        if uncertain {
            self.unwanted(claim, true, cx);
        }
    }

    /// The `Track` has its answer, which is not a claim. But a copy of its insert may still land.
    fn not_claimed(&mut self, claiming: Claiming, answer: Result<Tracked, Refused>, cx: &mut Context<'_>) {
        cx.tracked(claiming.caller, answer);
        if claiming.uncertain {
            self.queue.push_front(Job::LayToRest(Ghost::of(&claiming.claim, true, cx.moment)));
        }
    }

    /// A claim that nobody works under: the next `Track` inherits it if it may, else it is laid to rest.
    pub(super) fn unwanted(&mut self, claim: Claim, uncertain: bool, cx: &Context<'_>) {
        let next = self.queue.iter_mut().find_map(|job| match job {
            Job::Claim(claiming) => Some(claiming),
            _ => None,
        });
        match next {
            // The insert is repeated by owner, whether or not it got through the first time.
            Some(next) if !cx.draining && next.may_inherit(&claim) => next.inherit(claim),
            _ => self.queue.push_front(Job::LayToRest(Ghost::of(&claim, uncertain, cx.moment))),
        }
    }

    pub(super) fn tick_claim(&mut self, cx: &mut Context<'_>) {
        let Some(live) = &mut self.claim else { return };
        if live.renew_at.is_some_and(|at| at <= cx.moment) {
            live.renew_at = None;
            self.queue.push_front(Job::Renew);
        }
        if live.held_until <= cx.moment && !live.told_lost {
            live.told_lost = true;
            cx.out.push(Command::Lost { id: cx.id, owner: live.claim.owner });
        }
        if live.is_over(cx.moment) {
            self.end_claim(cx);
        }
    }

    pub(super) fn start_renewing(&mut self, job: Job, cx: &mut Context<'_>) {
        let Some(live) = &mut self.claim else { return };
        let Claim { owner, lease, retention, .. } = live.claim;
        let command = match (&job, live.ending) {
            // The result itself is about to go out.
            (_, Ending::Settling) | (Job::Reclaim, Ending::Failing) => {
                live.renew_later(cx.moment);
                return;
            }
            (Job::Reclaim, Ending::Open) => {
                // What it once took over is gone with the record.
                live.claim.takes_over = None;
                live.uncertain = true;
                StoreCommand::Insert(live.claim.clone())
            }
            _ => StoreCommand::Update(Update::new(cx.id, owner, Change::Renew { lease, retention })),
        };
        self.send(job, command, cx);
    }

    pub(super) fn renew_replied(
        &mut self,
        sent_at: Moment,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        let Some(live) = &mut self.claim else { return };
        match reply {
            Ok(StoreReply::Updated(Updated::Applied | Updated::AlreadyApplied)) => live.keep(sent_at, cx.out),
            Ok(StoreReply::Updated(Updated::Fenced)) => self.lose_claim(cx),
            // The store has lost it, or it expired while nothing got through.
            Ok(StoreReply::Updated(Updated::NotFound)) => self.queue.push_front(Job::Reclaim),
            Ok(_) | Err(_) => live.renew_later(cx.moment),
        }
    }

    pub(super) fn reclaim_replied(
        &mut self,
        sent_at: Moment,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        let Some(live) = &mut self.claim else { return };
        match reply {
            Ok(StoreReply::Inserted(Inserted::Claimed)) => live.keep(sent_at, cx.out),
            Ok(StoreReply::Inserted(Inserted::Exists(_))) => self.lose_claim(cx),
            Ok(_) | Err(_) => live.renew_later(cx.moment),
        }
    }
}
