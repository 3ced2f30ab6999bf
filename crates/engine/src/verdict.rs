use idempotency_core::{Claim, HaltReason, Record, State};
use time::OffsetDateTime;

use crate::{OnOrphan, Tracked};

/// What a `Track` makes of a record that it finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Answer(Tracked),
    /// An orphan, and the policy is to work again, or to ask: claim it from its owner.
    TakeOver,
}

/// The order of checks on a live record: fingerprint, then state. (Expired ones are the store's to leave out.)
pub fn verdict(record: &Record, claim: &Claim, on_orphan: OnOrphan, now: OffsetDateTime) -> Verdict {
    let expires_at = record.expires_at;
    if record.fingerprint != claim.fingerprint {
        return Verdict::Answer(Tracked::Mismatch { expires_at, meta: record.meta.clone() });
    }
    if on_orphan != OnOrphan::Halt && record.is_orphan(now) {
        return Verdict::TakeOver;
    }
    Verdict::Answer(match &record.state {
        State::Completed(response) => {
            Tracked::Cached { response: response.clone(), expires_at, meta: record.meta.clone() }
        }
        State::Halted(reason) => Tracked::Halted { reason: *reason, expires_at },
        State::Processing { lease_until } => match (*lease_until - now).try_into() {
            Ok(left) if *lease_until > now => {
                Tracked::Processing { since: Some(record.claimed_at), retry_after: left }
            }
            _ => Tracked::Halted { reason: HaltReason::OwnerLost, expires_at },
        },
    })
}
