use std::{sync::Arc, time::Duration};

use idempotency_core::{Claim, Meta, Owner, Record, Tenant, Update};

use crate::{Caller, OnConcurrent, OnOrphan, Track, ghost::Ghost, lane::Context, moment::Moment};

/// What waits in a lane, or is in flight. One store call each, repeated if need be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    /// In a box: jobs are moved often, and this is the largest.
    Claim(Box<Claiming>),
    Renew,
    /// The store does not know a claim that is live here: claim again as the same owner.
    Reclaim,
    Settle(Settling),
    Forget {
        caller: Option<Caller>,
        owner: Owner,
        give_up: Moment,
        /// A copy of it may have been carried out.
        resent: bool,
    },
    LayToRest(Ghost),
    /// Read what callers here wait for.
    Look,
}

/// A `Track` on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Claiming {
    /// `None` once the caller was answered.
    pub(crate) caller: Option<Caller>,
    /// The caller went away. It is dismissed when the job's turn comes: until then it takes up room.
    pub(crate) gone: bool,
    pub(crate) claim: Arc<Claim>,
    /// What its caller wants to be kept, also after the claim has had that of an orphan.
    meta: Meta,
    pub(crate) work_limit: Duration,
    pub(crate) on_orphan: OnOrphan,
    /// When the caller hears that the store does not answer.
    pub(crate) give_up: Moment,
    /// Until when the caller waits for somebody else's result; `None` if not at all.
    pub(crate) wait_until: Option<Moment>,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) by_operator: bool,
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
    pub(crate) fn new(caller: Caller, track: Track, give_up: Moment, now: Moment) -> Box<Self> {
        Box::new(Self {
            caller: Some(caller),
            gone: false,
            meta: track.claim.meta.clone(),
            claim: track.claim,
            work_limit: track.work_limit,
            on_orphan: track.on_orphan,
            give_up,
            wait_until: match track.on_concurrent {
                OnConcurrent::Conflict => None,
                OnConcurrent::Wait { at_most } => Some(now.after(at_most)),
            },
            tenant: track.tenant,
            by_operator: track.by_operator,
            not_before: now,
            attempts: 0,
            uncertain: false,
            only_look: false,
            races: 0,
        })
    }

    /// As if it came now.
    pub(crate) fn begin_anew(&mut self, give_up: Moment, now: Moment) {
        (self.give_up, self.not_before) = (give_up, now);
        (self.attempts, self.races) = (0, 0);
        let meta = self.meta.clone();
        self.change_claim(|claim| (claim.takes_over, claim.meta) = (None, meta));
    }

    /// Its claim was made. If the caller should ask again it is under another owner: a late copy of what settles this one must
    /// not touch a new claim.
    pub(crate) fn hand_over(&mut self) -> Arc<Claim> {
        let bytes = *self.claim.owner.as_bytes();
        let next = Owner::from_u128(u128::from_be_bytes(bytes).wrapping_add(1 << 64));
        self.uncertain = false;
        let made = self.claim.clone();
        self.change_claim(|claim| claim.owner = next);
        made
    }

    /// From whoever left this orphan, whose meta stays.
    pub(crate) fn take_over(&mut self, orphan: &Record) {
        let (owner, meta) = (orphan.owner, orphan.meta.clone());
        self.change_claim(|claim| (claim.takes_over, claim.meta) = (Some(owner), meta));
    }

    /// What was sent stays as it was sent.
    fn change_claim(&mut self, change: impl FnOnce(&mut Claim)) {
        change(Arc::make_mut(&mut self.claim));
    }

    /// Whether this `Track` may work under a claim that somebody else made and never used: the same payload, and if
    /// that claim took an orphan over, a policy that would have done so.
    pub(crate) fn may_inherit(&self, claim: &Claim) -> bool {
        self.caller.is_some()
            && !self.gone
            && !self.uncertain
            && self.claim.fingerprint == claim.fingerprint
            && (claim.takes_over.is_none() || self.on_orphan != OnOrphan::Halt)
    }

    /// Works under that claim from now on. Its meta is in the record and stays; the times are this caller's.
    pub(crate) fn inherit(&mut self, claim: Arc<Claim>) {
        let Claim { lease, retention, .. } = *self.claim;
        self.claim = claim;
        self.change_claim(|claim| (claim.lease, claim.retention) = (lease, retention));
        self.uncertain = true;
    }
}

/// The end of a claim on its way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Settling {
    pub(crate) update: Arc<Update>,
    /// `None` if nobody waits, or once the caller heard `Deferred`.
    pub(crate) caller: Option<Caller>,
    /// When the caller hears `Deferred`.
    pub(crate) patience: Moment,
    pub(crate) not_before: Moment,
    pub(crate) attempts: u32,
    /// A copy of it may have been carried out.
    pub(crate) resent: bool,
}

impl Settling {
    pub(crate) fn new(update: Arc<Update>, caller: Option<Caller>, cx: &Context<'_>) -> Self {
        Self {
            update,
            caller,
            patience: cx.moment.after(cx.config.put_patience),
            not_before: cx.moment,
            attempts: 0,
            resent: false,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        self.update.owner
    }

    /// Only the fact is kept of it. What was sent stays as it was sent.
    pub(crate) fn let_body_go(&mut self) {
        Arc::make_mut(&mut self.update).change.let_body_go();
    }
}

impl Job {
    /// When it may go, if it failed before.
    pub(crate) fn not_before(&self) -> Option<Moment> {
        match self {
            Self::Claim(claiming) => Some(claiming.not_before),
            Self::Settle(settling) => Some(settling.not_before),
            Self::Renew | Self::Reclaim | Self::Forget { .. } | Self::LayToRest(_) | Self::Look => None,
        }
    }

    /// When somebody stops waiting for it.
    pub(crate) fn patience(&self) -> Option<Moment> {
        match self {
            Self::Claim(claiming) => claiming.caller.map(|_| claiming.give_up),
            Self::Settle(settling) => settling.caller.map(|_| settling.patience),
            Self::Forget { caller, give_up, .. } => caller.map(|_| *give_up),
            Self::Renew | Self::Reclaim | Self::LayToRest(_) | Self::Look => None,
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
            Self::Renew | Self::Reclaim | Self::Settle(_) | Self::Forget { .. } | Self::Look => false,
        }
    }
}
