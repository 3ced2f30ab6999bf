//! Every cell of both tables, one assertion each, and what a cell leaves unsaid.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Fingerprint, Meta, Owner, RequestId};

const LEASE: Duration = Duration::from_secs(15);
const RETENTION: Duration = Duration::from_secs(3600);

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
}

fn fingerprint(payload: &str) -> Fingerprint {
    Fingerprint::derive(None, [payload.as_bytes()])
}

fn claim(owner: u128) -> Claim {
    let mut claim =
        Claim::new(RequestId::from_bytes([9; 32]), Owner::from_u128(owner), fingerprint("payload"));
    claim.lease = LEASE;
    claim.retention = RETENTION;
    claim.meta = Meta::new(Bytes::from(format!("meta of {owner}"))).unwrap();
    claim
}

fn take_over(owner: u128, of: u128) -> Claim {
    Claim { takes_over: Some(Owner::from_u128(of)), ..claim(owner) }
}

/// A record of owner 1, claimed at 0: its lease ends at 15, it expires at 3615, settled at 0 at 3600.
fn processing() -> Record {
    Record::claimed(&claim(1), at(0))
}

fn completed(body: &'static str) -> Record {
    processing().settled(State::Completed(body.into()), RETENTION, at(0))
}

fn halted(reason: HaltReason) -> Record {
    processing().settled(State::Halted(reason), RETENTION, at(0))
}

const REASONS: [HaltReason; 6] = [
    HaltReason::Cancelled,
    HaltReason::Shutdown,
    HaltReason::Panicked,
    HaltReason::TimedOut,
    HaltReason::Unknown,
    HaltReason::Unresolved,
];

mod insert {
    use super::*;

    fn assert_claimed_anew(stored: Option<&Record>, claim: &Claim, now: OffsetDateTime) {
        let step = Record::on_insert(stored, claim, now);
        assert_eq!(step.answer, Inserted::Claimed);
        assert_eq!(step.write, Write::Put(Record::claimed(claim, now)));
    }

    fn assert_exists(stored: &Record, claim: &Claim, now: OffsetDateTime) {
        let step = Record::on_insert(Some(stored), claim, now);
        assert_eq!(step.answer, Inserted::Exists(stored.clone().into()));
        assert_eq!(step.write, Write::Keep);
    }

    #[test]
    fn nothing_is_claimed_for_lease_and_retention() {
        assert_claimed_anew(None, &claim(1), at(0));
        let Write::Put(record) = Record::on_insert(None, &claim(1), at(0)).write else { panic!() };
        assert_eq!(record.state, State::Processing { lease_until: at(15) });
        assert_eq!(record.expires_at, at(3615));
        assert_eq!(record.claimed_at, at(0));
        assert_eq!(record.meta.as_bytes(), "meta of 1");
    }

    #[test]
    fn an_expired_record_counts_as_nothing() {
        assert_claimed_anew(Some(&processing()), &claim(2), at(3615));
        assert_claimed_anew(Some(&processing()), &claim(1), at(3615));
        assert_claimed_anew(Some(&completed("a")), &claim(2), at(3600));
        for reason in REASONS {
            assert_claimed_anew(Some(&halted(reason)), &claim(2), at(3600));
        }
    }

    #[test]
    fn a_record_expires_at_its_instant_and_not_before() {
        assert_exists(&completed("a"), &claim(2), at(3600) - time::Duration::NANOSECOND);
        assert_claimed_anew(Some(&completed("a")), &claim(2), at(3600));
    }

    #[test]
    fn my_own_claim_is_extended_lapsed_or_not() {
        for seconds in [10, 15, 100] {
            let step = Record::on_insert(Some(&processing()), &claim(1), at(seconds));
            assert_eq!(step.answer, Inserted::Claimed);
            let Write::Put(record) = step.write else { panic!() };
            assert_eq!(record.state, State::Processing { lease_until: at(seconds + 15) });
            assert_eq!(record.expires_at, at(seconds + 3615));
            assert_eq!(record.claimed_at, at(0), "the generation is the same");
        }
    }

    #[test]
    fn a_repeated_claim_never_runs_finished_work_again() {
        assert_exists(&completed("a"), &claim(1), at(1));
        for reason in REASONS {
            assert_exists(&halted(reason), &claim(1), at(1));
        }
    }

    #[test]
    fn an_orphan_is_taken_over_by_its_owner_read() {
        assert_claimed_anew(Some(&processing()), &take_over(2, 1), at(15));
        for reason in REASONS {
            assert_claimed_anew(Some(&halted(reason)), &take_over(2, 1), at(1));
        }
    }

    #[test]
    fn nothing_else_is_taken_over() {
        assert_exists(&processing(), &take_over(2, 1), at(15) - time::Duration::NANOSECOND);
        assert_exists(&completed("a"), &take_over(2, 1), at(20));
        assert_exists(&processing(), &take_over(2, 7), at(20));
        assert_exists(&halted(HaltReason::Cancelled), &take_over(2, 7), at(20));
        let other_payload = Claim { fingerprint: fingerprint("other"), ..take_over(2, 1) };
        assert_exists(&processing(), &other_payload, at(20));
        assert_exists(&halted(HaltReason::Cancelled), &other_payload, at(20));
    }

    #[test]
    fn anything_else_exists() {
        assert_exists(&processing(), &claim(2), at(1));
        assert_exists(&processing(), &claim(2), at(20));
        assert_exists(&completed("a"), &claim(2), at(1));
        for reason in REASONS {
            assert_exists(&halted(reason), &claim(2), at(1));
        }
    }
}

mod update {
    use super::*;

    fn renew() -> Change {
        Change::Renew { lease: LEASE, retention: RETENTION }
    }
    fn complete(body: &'static str) -> Change {
        Change::Complete { response: body.into(), retention: RETENTION }
    }
    fn halt(reason: HaltReason) -> Change {
        Change::Halt { reason, retention: RETENTION }
    }
    fn all() -> [Change; 5] {
        [renew(), complete("a"), halt(HaltReason::Unknown), Change::Release, Change::Forget]
    }

    fn by(owner: u128, stored: Option<&Record>, change: Change, now: OffsetDateTime) -> Transition<Updated> {
        Record::on_update(
            stored,
            &Update::new(RequestId::from_bytes([9; 32]), Owner::from_u128(owner), change),
            now,
        )
    }

    fn assert_kept(stored: &Record, change: Change, now: OffsetDateTime, answer: Updated) {
        assert_eq!(by(1, Some(stored), change, now), Transition::keep(answer));
    }

    fn assert_written(
        stored: &Record,
        change: Change,
        now: OffsetDateTime,
        state: State,
        expires_at: OffsetDateTime,
    ) {
        let expected = Record { state, expires_at, ..stored.clone() };
        assert_eq!(by(1, Some(stored), change, now), Transition::put(expected, Updated::Applied));
    }

    fn assert_deleted(stored: &Record, change: Change, now: OffsetDateTime) {
        assert_eq!(by(1, Some(stored), change, now), Transition::delete(Updated::Applied));
    }

    #[test]
    fn nothing_or_expired_is_not_found() {
        for change in all() {
            assert_eq!(by(1, None, change.clone(), at(0)), Transition::keep(Updated::NotFound));
            assert_kept(&processing(), change.clone(), at(3615), Updated::NotFound);
            assert_kept(&completed("a"), change.clone(), at(3600), Updated::NotFound);
            assert_kept(&halted(HaltReason::Shutdown), change, at(3600), Updated::NotFound);
        }
    }

    #[test]
    fn processing_moves_on_for_its_owner() {
        for now in [1, 20] {
            let lease_until = at(now + 15);
            assert_written(
                &processing(),
                renew(),
                at(now),
                State::Processing { lease_until },
                at(now + 3615),
            );
            assert_written(
                &processing(),
                complete("a"),
                at(now),
                State::Completed("a".into()),
                at(now + 3600),
            );
            for reason in REASONS {
                assert_written(&processing(), halt(reason), at(now), State::Halted(reason), at(now + 3600));
            }
            assert_deleted(&processing(), Change::Release, at(now));
        }
    }

    #[test]
    fn processing_is_forgotten_only_when_lapsed() {
        assert_kept(&processing(), Change::Forget, at(15) - time::Duration::NANOSECOND, Updated::Fenced);
        assert_deleted(&processing(), Change::Forget, at(15));
    }

    #[test]
    fn a_late_copy_of_a_renewal_never_cuts_a_lease_short() {
        let short = Change::Renew { lease: Duration::from_secs(1), retention: RETENTION };
        assert_written(&processing(), short, at(1), State::Processing { lease_until: at(15) }, at(3615));
    }

    #[test]
    fn completed_takes_only_the_same_put_again() {
        assert_kept(&completed("a"), renew(), at(1), Updated::Fenced);
        assert_kept(&completed("a"), complete("a"), at(1), Updated::AlreadyApplied);
        assert_kept(&completed("a"), complete("b"), at(1), Updated::Fenced);
        assert_kept(&completed("a"), halt(HaltReason::Unknown), at(1), Updated::Fenced);
        assert_kept(&completed("a"), Change::Release, at(1), Updated::Fenced);
        assert_deleted(&completed("a"), Change::Forget, at(1));
    }

    #[test]
    fn a_put_whose_body_was_not_kept_is_still_the_same_put() {
        let shrunk =
            processing().settled(State::Completed(StoredResponse::new("a").without_body()), RETENTION, at(0));
        assert_kept(&shrunk, complete("a"), at(1), Updated::AlreadyApplied);
        assert_kept(&shrunk, complete("b"), at(1), Updated::Fenced);
    }

    #[test]
    fn halted_is_completed_only_after_a_shutdown() {
        for reason in REASONS {
            let stored = halted(reason);
            assert_kept(&stored, renew(), at(1), Updated::Fenced);
            if reason == HaltReason::Shutdown {
                assert_written(&stored, complete("a"), at(1), State::Completed("a".into()), at(3601));
            } else {
                assert_kept(&stored, complete("a"), at(1), Updated::Fenced);
            }
            assert_kept(&stored, halt(HaltReason::Unknown), at(1), Updated::AlreadyApplied);
            assert_kept(&stored, Change::Release, at(1), Updated::Fenced);
            assert_deleted(&stored, Change::Forget, at(1));
        }
    }

    #[test]
    fn another_owner_is_fenced_everywhere() {
        let mut records = vec![(processing(), 1), (processing(), 20), (completed("a"), 1)];
        records.extend(REASONS.map(|reason| (halted(reason), 1)));
        for (stored, now) in records {
            for change in all() {
                assert_eq!(by(2, Some(&stored), change, at(now)), Transition::keep(Updated::Fenced));
            }
        }
    }
}

mod restore {
    use super::*;

    fn other_owner() -> Record {
        Record::claimed(&claim(2), at(0))
    }

    #[test]
    fn a_free_or_expired_id_takes_the_record() {
        for record in [processing(), completed("a"), halted(HaltReason::Unknown)] {
            let expected = Transition::put(record.clone(), Restored::Restored);
            assert_eq!(Record::on_restore(None, &record, at(1)), expected);
            let expired = Record { expires_at: at(1), ..other_owner() };
            assert_eq!(Record::on_restore(Some(&expired), &record, at(1)), expected);
        }
    }

    #[test]
    fn a_running_claim_of_the_same_owner_is_replaced() {
        let step = Record::on_restore(Some(&processing()), &completed("a"), at(1));
        assert_eq!(step, Transition::put(completed("a"), Restored::Restored));
    }

    #[test]
    fn anything_else_exists() {
        for stored in [other_owner(), completed("b"), halted(HaltReason::Shutdown)] {
            let step = Record::on_restore(Some(&stored), &completed("a"), at(1));
            assert_eq!(step, Transition::keep(Restored::Exists(stored.into())));
        }
    }

    #[test]
    fn an_expired_record_is_not_written() {
        assert_eq!(Record::on_restore(None, &completed("a"), at(3600)), Transition::keep(Restored::Expired));
    }
}

#[test]
fn an_absurd_duration_saturates_instead_of_panicking() {
    let absurd = Claim { lease: Duration::MAX, retention: Duration::MAX, ..claim(1) };
    let Write::Put(record) = Record::on_insert(None, &absurd, at(0)).write else { panic!() };
    assert!(!record.is_lapsed(at(1 << 33)));
}

proptest! {
    /// Whatever happens to a record, a stranger changes nothing and a settled one is never processed again by its
    /// own owner.
    #[test]
    fn only_the_owner_moves_a_record_and_never_back(seconds in 0i64..5000, which in 0usize..5, owner in 1u128..3) {
        let changes = [
            Change::Renew { lease: LEASE, retention: RETENTION },
            Change::Complete { response: "a".into(), retention: RETENTION },
            Change::Halt { reason: HaltReason::Unknown, retention: RETENTION },
            Change::Release,
            Change::Forget,
        ];
        for stored in [processing(), completed("a"), halted(HaltReason::Cancelled)] {
            let update = Update::new(RequestId::from_bytes([9; 32]), Owner::from_u128(owner), changes[which].clone());
            let step = Record::on_update(Some(&stored), &update, at(seconds));
            if owner != 1 {
                prop_assert_eq!(&step.write, &Write::Keep);
            }
            if let Write::Put(record) = step.write {
                prop_assert_eq!(record.owner, stored.owner);
                prop_assert_eq!(record.fingerprint, stored.fingerprint);
                prop_assert!(!stored.state.is_settled() || record.state.is_settled());
            }
        }
    }
}
