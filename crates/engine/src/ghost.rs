use idempotency_core::{Change, Claim, HaltReason, Owner};

use crate::moment::Moment;

/// An owner that nobody works as, whose claim may be in the store, or may still arrive there: the copy of an insert
/// that was held up somewhere. It is laid to rest by settling it, and settled again later for the copies.
///
/// Once that has been sent for an owner it is never handed out again: a late copy of the *release* would free the
/// id under the feet of whoever inherited it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ghost {
    pub(crate) owner: Owner,
    pub(crate) change: Change,
    /// When it is settled again; filled in when it becomes one.
    pub(crate) due: Moment,
    /// How often it is settled again after a definite answer.
    pub(crate) repeats: u8,
    pub(crate) attempts: u32,
}

impl Ghost {
    /// Of a claim whose caller went away before any work was done. `uncertain`: a copy of its insert may be under
    /// way. `by_operator`: what it took over may be none that a policy runs again.
    pub(crate) fn of(claim: &Claim, by_operator: bool, uncertain: bool, now: Moment) -> Self {
        // Nothing was done by this caller. But what it took over from may have been, and a release would forget
        // that; halted as cancelled the record stays the orphan that it was.
        let reason = if by_operator { HaltReason::Unresolved } else { HaltReason::Cancelled };
        let change = match claim.takes_over {
            None => Change::Release,
            Some(_) => Change::Halt { reason, retention: claim.retention },
        };
        Self { owner: claim.owner, change, due: now, repeats: if uncertain { 2 } else { 0 }, attempts: 0 }
    }
}
