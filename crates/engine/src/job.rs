use std::time::Duration;

use idempotency_core::{Change, Claim, Owner};

use crate::{Caller, OnOrphan, Track, ghost::Ghost, moment::Moment};

/// What waits in a lane, or is in flight. One store call each, repeated if need be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    Claim(Claiming),
    Renew,
    /// The store does not know a claim that is live here: claim again as the same owner.
    Reclaim,
    Settle(Settling),
    Forget {
        caller: Option<Caller>,
        owner: Owner,
        give_up: Moment,
    },
    LayToRest(Ghost),
}

/// A `Track` on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Claiming {
    /// `None` once the caller was answered.
    pub(crate) caller: Option<Caller>,
    /// The caller went away. It is dismissed when the job's turn comes: until then it takes up room.
    pub(crate) gone: bool,
    pub(crate) claim: Claim,
    pub(crate) work_limit: Duration,
    pub(crate) on_orphan: OnOrphan,
    /// When the caller hears that the store does not answer.
    pub(crate) give_up: Moment,
    pub(crate) not_before: Moment,
    pub(crate) attempts: u32,
    /// A copy of the insert may be in the store, or under way.
    pub(crate) uncertain: bool,
    /// Too many claims are live: look, do not claim.
    pub(crate) only_look: bool,
    /// How often it met a record that it may take over or lay to rest, and lost the race for it.
    pub(crate) races: u8,
}

impl Claiming {
    pub(crate) fn new(caller: Caller, track: Track, give_up: Moment, now: Moment) -> Self {
        Self {
            caller: Some(caller),
            gone: false,
            claim: track.claim,
            work_limit: track.work_limit,
            on_orphan: track.on_orphan,
            give_up,
            not_before: now,
            attempts: 0,
            uncertain: false,
            only_look: false,
            races: 0,
        }
    }

    /// Whether this `Track` may work under a claim that somebody else made and never used: the same payload, and if
    /// that claim took an orphan over, a policy that would have done so.
    pub(crate) fn may_inherit(&self, claim: &Claim) -> bool {
        self.caller.is_some()
            && !self.gone
            && !self.uncertain
            && self.claim.fingerprint == claim.fingerprint
            && (claim.takes_over.is_none() || self.on_orphan == OnOrphan::Rerun)
    }

    /// Works under that claim from now on. Its meta is in the record and stays; the times are this caller's.
    pub(crate) fn inherit(&mut self, claim: Claim) {
        let Claim { lease, retention, .. } = self.claim;
        self.claim = claim;
        (self.claim.lease, self.claim.retention) = (lease, retention);
        self.uncertain = true;
    }
}

/// The end of a claim on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Settling {
    pub(crate) owner: Owner,
    pub(crate) change: Change,
    /// `None` if nobody waits, or once the caller heard `Deferred`.
    pub(crate) caller: Option<Caller>,
    /// When the caller hears `Deferred`.
    pub(crate) patience: Moment,
    pub(crate) not_before: Moment,
    pub(crate) attempts: u32,
}

impl Job {
    /// When it may go, if it failed before.
    pub(crate) fn not_before(&self) -> Option<Moment> {
        match self {
            Self::Claim(claiming) => Some(claiming.not_before),
            Self::Settle(settling) => Some(settling.not_before),
            Self::Renew | Self::Reclaim | Self::Forget { .. } | Self::LayToRest(_) => None,
        }
    }

    /// When somebody stops waiting for it.
    pub(crate) fn patience(&self) -> Option<Moment> {
        match self {
            Self::Claim(claiming) => claiming.caller.map(|_| claiming.give_up),
            Self::Settle(settling) => settling.caller.map(|_| settling.patience),
            Self::Forget { caller, give_up, .. } => caller.map(|_| *give_up),
            Self::Renew | Self::Reclaim | Self::LayToRest(_) => None,
        }
    }

    /// Of a result: when somebody stops waiting for it, if anybody waits.
    pub(crate) fn settles(&self) -> Option<Option<Moment>> {
        matches!(self, Self::Settle(_)).then(|| self.patience())
    }

    /// Whether it counts against the bound of live claims.
    pub(crate) fn counts(&self) -> bool {
        match self {
            Self::Claim(claiming) => claiming.uncertain || !claiming.only_look,
            Self::LayToRest(_) => true,
            Self::Renew | Self::Reclaim | Self::Settle(_) | Self::Forget { .. } => false,
        }
    }
}
