use std::{sync::Arc, time::Duration};

use idempotency_core::Claim;

use crate::{Adopted, Command, Granted, Tracked, lane::Context, moment::Moment};

/// A claim whose permit lives in this process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LiveClaim {
    pub(crate) claim: Arc<Claim>,
    pub(crate) since: Moment,
    /// Until when nobody else can have taken it over: the lease, counted from the moment that the last successful
    /// call was *sent*, less a margin.
    pub(crate) held_until: Moment,
    /// When to renew; `None` once the work limit has passed.
    pub(crate) renew_at: Option<Moment>,
    pub(crate) work_until: Moment,
    /// A copy of its insert may still be under way.
    pub(crate) uncertain: bool,
    /// An operator holds it.
    pub(crate) by_operator: bool,
    pub(crate) ending: Ending,
    /// The permit knows that the lease could not be kept.
    pub(crate) told_lost: bool,
}

/// How far a live claim is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    /// Its holder is at work.
    Open,
    /// Its holder has said how it ended, and the store is about to know.
    Settling,
    /// It has ended, and the store could not be told so far.
    Failing,
}

impl LiveClaim {
    pub(crate) fn new(claim: Arc<Claim>, sent_at: Moment, work_limit: Duration, uncertain: bool) -> Self {
        let mut live = Self {
            since: sent_at,
            held_until: held_until(&claim, sent_at),
            renew_at: None,
            work_until: sent_at.after(work_limit),
            uncertain,
            by_operator: false,
            ending: Ending::Open,
            told_lost: false,
            claim,
        };
        live.renew_next(sent_at.after(live.claim.lease / 3));
        live
    }

    /// Of an engine before this one, whose last renewals nobody knows of: renewed at once.
    pub(crate) fn adopted(adopted: Adopted, now: Moment) -> Self {
        let Adopted { claim, since, held_until, work_until, .. } = adopted;
        Self {
            since,
            held_until,
            renew_at: (now < work_until).then_some(now),
            work_until,
            uncertain: true,
            by_operator: false,
            ending: Ending::Open,
            told_lost: false,
            claim,
        }
    }

    /// What is handed out of it.
    pub(crate) fn granted(&self) -> Granted {
        Granted { claim: self.claim.clone(), held_until: self.held_until, work_until: self.work_until }
    }

    /// What others hear of it.
    pub(crate) fn processing(&self, cx: &Context<'_>) -> Tracked {
        let left = cx.moment.until(self.held_until);
        let retry_after = if left.is_zero() { cx.config.store_limit } else { left };
        Tracked::Processing { since: Some(self.since.into()), retry_after }
    }

    /// A renewal that was sent at this moment has succeeded.
    pub(crate) fn keep(&mut self, sent_at: Moment, out: &mut Vec<Command>) {
        self.held_until = held_until(&self.claim, sent_at);
        self.told_lost = false;
        self.renew_next(sent_at.after(self.claim.lease / 3));
        // Once it ends nobody is to begin an irreversible step.
        if self.ending == Ending::Open {
            out.push(Command::Held { owner: self.claim.owner, until: self.held_until });
        }
    }

    /// A renewal has failed; a third of the lease leaves room for several tries.
    pub(crate) fn renew_later(&mut self, now: Moment) {
        self.renew_next(now.after(self.claim.lease / 12));
    }

    /// Renewals stop at the work limit, except for a result that is not stored yet.
    fn renew_next(&mut self, at: Moment) {
        self.renew_at = (self.ending != Ending::Open || at < self.work_until).then_some(at);
    }

    /// The engine may forget it: the work limit has passed and so has the lease.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        self.ending == Ending::Open
            && self.renew_at.is_none()
            && self.work_until <= now
            && self.held_until <= now
    }

    /// When the record expires if nothing more is heard, roughly.
    pub(crate) fn expires_at(&self) -> Moment {
        self.held_until.after(margin(&self.claim)).after(self.claim.retention)
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        let tells = match self.ending {
            _ if !self.told_lost => Some(self.held_until),
            // Then it is over, unless a renewal succeeds.
            Ending::Open => Some(self.work_until.max(self.held_until)),
            Ending::Settling | Ending::Failing => None,
        };
        [self.renew_at, tells].into_iter().flatten().min()
    }
}

/// When the lease of a claim that was sent at this moment counts as lost: a tenth of it early, for clocks that run
/// at different speeds and for the time from asking `is_held` to acting on it.
pub(crate) fn held_until(claim: &Claim, sent_at: Moment) -> Moment {
    sent_at.after(claim.lease - margin(claim))
}

fn margin(claim: &Claim) -> Duration {
    claim.lease / 10
}
