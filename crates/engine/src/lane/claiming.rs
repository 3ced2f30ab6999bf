//! From a `Track` to a live claim, and keeping it alive.

use std::sync::Arc;

use idempotency_core::{
    Change, Claim, HaltReason, Inserted, Record, State, StoreCommand, StoreError, StoreErrorKind, StoreReply,
    Updated,
};

use super::{Context, Lane, out_of_step};
use crate::{
    Command, Happened, OnOrphan, Refused, Tracked,
    ghost::Ghost,
    job::{Claiming, Job},
    live_claim::{self, Ending, LiveClaim},
    moment::Moment,
    verdict::{Verdict, verdict},
};

/// How often one `Track` may lose the race for a record before it says that somebody is working.
const RACES: u8 = 3;

impl Lane {
    pub(super) fn start_claiming(&mut self, mut claiming: Box<Claiming>, cx: &mut Context<'_>) {
        cx.dismiss(&mut claiming);
        if cx.draining {
            cx.tracked(claiming.caller.take(), Err(Refused::ShuttingDown));
        } else if cx.down.is_some() {
            cx.tracked(claiming.caller.take(), Err(cx.unavailable(None)));
        }
        if claiming.caller.is_none() {
            if claiming.uncertain {
                self.unwanted(claiming.claim, claiming.by_operator, true, cx);
            }
            return;
        }
        if !claiming.uncertain {
            match self.answer_from_here(claiming, cx) {
                Some(asks) => claiming = asks,
                None => return,
            }
            // The one whose work begins counts; one that only asks does not.
            self.tenant = claiming.tenant.or(self.tenant);
            claiming.only_look = self.is_full(&claiming, cx);
        }
        let command = if claiming.only_look {
            StoreCommand::Lookup(cx.id)
        } else {
            StoreCommand::Insert(claiming.claim.clone())
        };
        self.send(Job::Claim(claiming), command, cx);
    }

    /// Whether no more claims are taken, of all or of this tenant.
    fn is_full(&self, claiming: &Claiming, cx: &Context<'_>) -> bool {
        if cx.elsewhere.weight + self.weight() >= cx.config.max_in_flight {
            return true;
        }
        let Some(tenant) = claiming.tenant else { return false };
        let (counted_for, counted) = cx.among_tenants;
        let elsewhere = cx.tenants.in_flight(tenant) - if counted_for == Some(tenant) { counted } else { 0 };
        elsewhere + self.weight() >= cx.config.tenant_in_flight
            || cx.tenants.stored(tenant, cx.moment) >= cx.config.tenant_bytes
    }

    pub(super) fn claim_replied(
        &mut self,
        mut claiming: Box<Claiming>,
        sent_at: Moment,
        reply: Result<StoreReply, StoreError>,
        cx: &mut Context<'_>,
    ) {
        cx.dismiss(&mut claiming);
        match reply {
            Ok(StoreReply::Inserted(Inserted::Claimed)) => self.claimed(claiming, sent_at, cx),
            Ok(StoreReply::Inserted(Inserted::Exists(record)) | StoreReply::Found(Some(record))) => {
                self.exists(claiming, *record, cx);
            }
            Ok(StoreReply::Inserted(Inserted::Busy)) => {
                let answer = Tracked::Processing { since: None, retry_after: cx.config.store_limit };
                self.somebody_works(claiming, answer, cx);
                self.waiters.look_at(cx.moment.after(cx.config.look_every));
            }
            Ok(StoreReply::Found(None)) => self.not_claimed(&claiming, Err(Refused::Overloaded), cx),
            Ok(_) => self.claim_failed(claiming, out_of_step(), cx),
            Err(error) => self.claim_failed(claiming, error, cx),
        }
    }

    fn claimed(&mut self, mut claiming: Box<Claiming>, sent_at: Moment, cx: &mut Context<'_>) {
        if claiming.caller.is_none() || cx.draining {
            cx.tracked(claiming.caller.take(), Err(Refused::ShuttingDown));
            self.unwanted(claiming.claim, claiming.by_operator, claiming.uncertain, cx);
            return;
        }
        if live_claim::held_until(&claiming.claim, sent_at) <= cx.moment {
            // The answer took longer than the lease: somebody may have taken over. The repetition tells.
            claiming.uncertain = true;
            self.queue.push_front(Job::Claim(claiming));
            return;
        }
        if claiming.uncertain {
            cx.happened(Happened::Resumed);
        }
        let resolves = claiming.on_orphan == OnOrphan::Resolve && claiming.claim.takes_over.is_some();
        let Claiming { caller, work_limit, uncertain, by_operator, .. } = *claiming;
        let (claim, waiting, work_limit) = if resolves {
            (claiming.hand_over(), Some(claiming), cx.config.resolve_limit)
        } else {
            (claiming.claim, None, work_limit)
        };
        let live = LiveClaim { by_operator, ..LiveClaim::new(claim, sent_at, work_limit, uncertain) };
        let permit = live.granted();
        self.claim = Some(live);
        match (caller, waiting) {
            (Some(caller), Some(claiming)) => {
                cx.out.push(Command::Resolve { caller, permit });
                self.wait_for_resolver(claiming, cx);
            }
            (caller, _) => cx.tracked(caller, Ok(Tracked::Init(permit))),
        }
    }

    fn exists(&mut self, mut claiming: Box<Claiming>, record: Record, cx: &mut Context<'_>) {
        let raced_out = claiming.races >= RACES;
        let ghost = self.ghosts.iter().position(|ghost| ghost.owner == record.owner);
        if let (Some(index), false) = (ghost, raced_out) {
            // A late copy of ours, which nobody works under.
            claiming.races += 1;
            self.queue.push_front(Job::Claim(claiming));
            self.queue.push_front(Job::LayToRest(self.ghosts.remove(index)));
            return;
        }
        if record.is_orphan(cx.now) && record.fingerprint == claiming.claim.fingerprint {
            let reason = match record.state {
                State::Halted(reason) => reason,
                _ => HaltReason::OwnerLost,
            };
            cx.happened(Happened::Orphaned(reason));
        }
        let answer = match verdict(&record, &claiming.claim, claiming.on_orphan, cx.now) {
            Verdict::Answer(processing @ Tracked::Processing { .. }) => {
                let nobody_waited = self.waiters.is_empty();
                self.somebody_works(claiming, processing, cx);
                if !self.waiters.is_empty() {
                    self.note(&record, cx);
                    self.wait_together(cx);
                    if nobody_waited {
                        // Once in a way that is told of its end; what was read may have ended since.
                        self.waiters.look_at(cx.moment);
                    }
                }
                return;
            }
            Verdict::Answer(answer) => Ok(answer),
            Verdict::TakeOver if claiming.only_look => Err(Refused::Overloaded),
            Verdict::TakeOver if raced_out => {
                Ok(Tracked::Processing { since: Some(record.claimed_at), retry_after: cx.config.store_limit })
            }
            Verdict::TakeOver => {
                claiming.races += 1;
                claiming.take_over(&record);
                self.queue.push_front(Job::Claim(claiming));
                return;
            }
        };
        self.not_claimed(&claiming, answer, cx);
    }

    fn claim_failed(&mut self, mut claiming: Box<Claiming>, error: StoreError, cx: &mut Context<'_>) {
        claiming.uncertain |= !claiming.only_look && !error.was_not_applied();
        let again = cx.moment.after(cx.config.backoff(claiming.attempts));
        let may_try = cx.down.is_none() && error.is_retryable() && again < claiming.give_up;
        if claiming.caller.is_some() && may_try {
            claiming.attempts += 1;
            claiming.not_before = again;
            self.queue.push_front(Job::Claim(claiming));
            return;
        }
        let refused = match error.kind() {
            StoreErrorKind::Full => Refused::Overloaded,
            _ => cx.unavailable(Some(error)),
        };
        let Claiming { caller, claim, by_operator, uncertain, .. } = *claiming;
        cx.tracked(caller, Err(refused));
        if uncertain {
            self.unwanted(claim, by_operator, true, cx);
        }
    }

    /// Waits for that, or hears it.
    fn somebody_works(&mut self, claiming: Box<Claiming>, processing: Tracked, cx: &mut Context<'_>) {
        if claiming.uncertain {
            self.not_claimed(&claiming, Ok(processing), cx);
        } else if claiming.caller.is_some() {
            self.wait_or_hear(claiming, processing, cx);
        }
    }

    /// The `Track` has its answer, which is not a claim. But a copy of its insert may still land.
    fn not_claimed(&mut self, claiming: &Claiming, answer: Result<Tracked, Refused>, cx: &mut Context<'_>) {
        cx.tracked(claiming.caller, answer);
        if claiming.uncertain {
            self.queue.push_front(Job::LayToRest(Ghost::of(
                &claiming.claim,
                claiming.by_operator,
                true,
                cx.moment,
            )));
        }
    }

    /// A claim that nobody works under: the next `Track` inherits it if it may, else it is laid to rest.
    pub(crate) fn unwanted(
        &mut self,
        claim: Arc<Claim>,
        by_operator: bool,
        uncertain: bool,
        cx: &Context<'_>,
    ) {
        let next = self.queue.iter_mut().find_map(|job| match job {
            Job::Claim(claiming) => Some(claiming),
            _ => None,
        });
        match next {
            // The insert is repeated by owner, whether or not it got through the first time.
            Some(next) if !cx.draining && !by_operator && next.may_inherit(&claim) => next.inherit(claim),
            _ => self.queue.push_front(Job::LayToRest(Ghost::of(&claim, by_operator, uncertain, cx.moment))),
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
        let Claim { owner, lease, retention, .. } = *live.claim;
        let command = match (&job, live.ending) {
            // The result itself is about to go out.
            (_, Ending::Settling) | (Job::Reclaim, Ending::Failing) => {
                live.renew_later(cx.moment);
                return;
            }
            (Job::Reclaim, Ending::Open) => {
                // What it once took over is gone with the record.
                Arc::make_mut(&mut live.claim).takes_over = None;
                live.uncertain = true;
                StoreCommand::Insert(live.claim.clone())
            }
            _ => cx.update(owner, Change::Renew { lease, retention }),
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
