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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use idempotency_core::{Fingerprint, Meta, Owner, RequestId, StoredResponse};

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn of(payload: &[u8]) -> Claim {
        Claim::new(RequestId::from_bytes([1; 32]), Owner::from_u128(2), Fingerprint::derive(None, [payload]))
    }

    fn found(state: State) -> Record {
        let claimed_at = NOW - Duration::from_secs(5);
        let expires_at = NOW + Duration::from_secs(60);
        let (owner, fingerprint) = (Owner::from_u128(1), of(b"10").fingerprint);
        let meta = Meta::new(&b"meta"[..]).unwrap();
        Record::new(owner, fingerprint, claimed_at, expires_at, meta, state)
    }

    fn processing(lease_until: OffsetDateTime) -> State {
        State::Processing { lease_until }
    }

    /// Every state of a record, and what each policy makes of it.
    #[test]
    fn every_state_has_its_answer_under_every_policy() {
        let expires_at = NOW + Duration::from_secs(60);
        let meta = Meta::new(&b"meta"[..]).unwrap();
        let response = StoredResponse::new("done");
        let second = Duration::from_secs(1);
        let halted = |reason| Tracked::Halted { reason, expires_at };
        let running = Tracked::Processing { since: Some(NOW - Duration::from_secs(5)), retry_after: second };
        let cached = Tracked::Cached { response: response.clone(), expires_at, meta: meta.clone() };
        let orphans = [
            (processing(NOW - second), halted(HaltReason::OwnerLost)),
            // At the very end of its lease it has lapsed.
            (processing(NOW), halted(HaltReason::OwnerLost)),
            (State::Halted(HaltReason::Cancelled), halted(HaltReason::Cancelled)),
            (State::Halted(HaltReason::Shutdown), halted(HaltReason::Shutdown)),
        ];
        let others = [
            (processing(NOW + second), running),
            (State::Completed(response), cached),
            (State::Halted(HaltReason::Panicked), halted(HaltReason::Panicked)),
            (State::Halted(HaltReason::Unknown), halted(HaltReason::Unknown)),
            (State::Halted(HaltReason::TimedOut), halted(HaltReason::TimedOut)),
            (State::Halted(HaltReason::Unresolved), halted(HaltReason::Unresolved)),
        ];
        for policy in [OnOrphan::Halt, OnOrphan::Rerun, OnOrphan::Resolve] {
            for (state, answer) in &orphans {
                let expected = match policy {
                    OnOrphan::Halt => Verdict::Answer(answer.clone()),
                    _ => Verdict::TakeOver,
                };
                assert_eq!(verdict(&found(state.clone()), &of(b"10"), policy, NOW), expected, "{state:?}");
            }
            for (state, answer) in &others {
                let expected = Verdict::Answer(answer.clone());
                assert_eq!(verdict(&found(state.clone()), &of(b"10"), policy, NOW), expected, "{state:?}");
            }
            // Another payload comes first.
            for (state, _) in orphans.iter().chain(&others) {
                let expected = Verdict::Answer(Tracked::Mismatch { expires_at, meta: meta.clone() });
                assert_eq!(verdict(&found(state.clone()), &of(b"11"), policy, NOW), expected, "{state:?}");
            }
        }
    }
}
