//! One thing after the other, to the millisecond: what the engine says to each event of a request's life.

mod desk;
mod ending;
mod meeting;
mod pruning;
mod waiting;

use std::time::Duration;

use idempotency_core::{
    Change, Claim, Fingerprint, HaltReason, Inserted, Owner, RequestId, State, StoreError, StoreErrorKind,
    StoreReply, Tenant, Update, Updated,
};
use idempotency_engine::{Caller, Event, OnOrphan, Track};

use self::desk::*;

#[test]
fn a_claim_is_renewed_at_a_third_of_its_lease_from_when_the_last_call_was_sent() {
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.until(1000);
    assert_eq!(desk.reply(claimed()), ["1: init 1, held to 13500, work to 900000"]);
    assert_eq!(desk.until(4999), [""; 0]);
    assert_eq!(desk.until(5000), ["5000 renew 1"]);
    desk.until(5500);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["held 1 to 18500"]);
    assert_eq!(desk.until(10_000), ["10000 renew 1"]);
    assert_eq!(desk.reply(updated(Updated::AlreadyApplied)), ["held 1 to 23500"]);
}

#[test]
fn a_lease_that_cannot_be_renewed_is_lost_once_and_renewed_all_the_same() {
    let mut desk = Desk::claimed();
    let mut said = Vec::new();
    for second in 5..20 {
        said.extend(desk.until(second * 1000));
        if said.last().is_some_and(|line| line.ends_with("renew 1")) {
            desk.reply(lost());
        }
    }
    assert_eq!(said.iter().filter(|line| line.ends_with("lost 1")).collect::<Vec<_>>(), ["13500 lost 1"]);
    assert!(said.iter().filter(|line| line.ends_with("renew 1")).count() > 3, "{said:?}");
}

#[test]
fn what_a_renewal_finds_decides_about_the_claim() {
    let renewing = || {
        let mut desk = Desk::claimed();
        assert_eq!(desk.until(5000), ["5000 renew 1"]);
        desk
    };
    assert_eq!(renewing().reply(updated(Updated::Fenced)), ["lost 1", "ended 1"]);
    // The store forgot it: it is claimed again by the same owner, and lost only if somebody else has it.
    let mut desk = renewing();
    assert_eq!(desk.reply(updated(Updated::NotFound)), ["insert 1"]);
    assert_eq!(desk.reply(claimed()), ["held 1 to 18500"]);
    let mut desk = renewing();
    desk.reply(updated(Updated::NotFound));
    assert_eq!(desk.reply(desk.running(2, 1000)), ["lost 1", "ended 1"]);
}

#[test]
fn after_its_work_limit_a_claim_is_no_longer_renewed_and_ends_with_its_lease() {
    let mut desk = Desk::new();
    desk.tell(track_as(1, |track| track.work_limit = ms(6000)));
    desk.reply(claimed());
    assert_eq!(desk.until(5000), ["5000 renew 1"]);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["held 1 to 18500"]);
    assert_eq!(desk.until(30_000), ["18500 lost 1", "18500 ended 1"]);
}

#[test]
fn a_claim_that_was_certainly_not_made_is_tried_again_at_twice_the_distance_each_time() {
    let mut desk = Desk::new();
    desk.tell(track(1));
    for at in [20, 60, 140, 300, 620, 1260, 2540] {
        desk.reply(not_sent());
        assert_eq!(desk.until(at), [format!("{at} insert 1")]);
    }
    // The next one would come too late.
    assert_eq!(desk.reply(not_sent()), ["1: unavailable, 2000, Unavailable"]);
    assert_eq!(desk.engine.load().lanes, 0);
}

#[test]
fn a_claim_that_may_have_been_made_is_released_when_nobody_wants_it() {
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.reply(lost());
    assert_eq!(desk.tell(Event::Gone { id: id(), caller: Caller(1) }), ["1: dismissed", "release 1"]);
    assert_eq!(desk.engine.load().in_flight, 1);
    // And once more after one store limit and after three, for a copy of it may come late.
    assert_eq!(desk.reply(updated(Updated::NotFound)), [""; 0]);
    let mut at = Vec::new();
    for second in 1..20 {
        for line in desk.until(second * 1000) {
            at.push(line);
            desk.reply(updated(Updated::NotFound));
        }
    }
    assert_eq!(at, ["2000 release 1", "6000 release 1"]);
    assert_eq!(desk.engine.load().lanes, 0);
}

#[test]
fn a_full_store_and_too_many_claims_are_overloaded() {
    let mut desk = Desk::new();
    desk.tell(track(1));
    let full = StoreError::new(StoreErrorKind::Full, "full").not_applied();
    assert_eq!(desk.reply(Err(full)), ["1: Overloaded"]);

    // Where no more claims are taken a caller only looks.
    for (limit, first) in [(0, "lookup"), (1, "insert 1")] {
        let mut desk = Desk::with(|config| config.max_in_flight = limit);
        assert_eq!(desk.tell(track(1)), [first]);
    }
    let mut desk = Desk::with(|config| config.max_in_flight = 0);
    desk.tell(track(1));
    assert_eq!(desk.reply(Ok(StoreReply::Found(None))), ["1: Overloaded"]);
    let mut desk = Desk::with(|config| config.max_in_flight = 0);
    desk.tell(track_as(1, |track| track.on_orphan = OnOrphan::Rerun));
    let Ok(StoreReply::Inserted(Inserted::Exists(orphan))) =
        desk.found(9, State::Halted(HaltReason::Cancelled))
    else {
        unreachable!("a record")
    };
    let said = desk.reply(Ok(StoreReply::Found(Some(orphan))));
    assert_eq!(said, ["Orphaned(Cancelled)", "1: Overloaded"], "it would claim");
    let mut desk = Desk::with(|config| config.max_in_flight = 0);
    desk.tell(track(1));
    let Ok(StoreReply::Inserted(Inserted::Exists(done))) = desk.found(9, State::Completed("done".into()))
    else {
        unreachable!("a record")
    };
    assert_eq!(desk.reply(Ok(StoreReply::Found(Some(done)))), ["1: cached"], "a replay claims nothing");
}

#[test]
fn a_tenant_has_his_own_limits() {
    let tenant = |byte| Tenant::from_bytes([byte; 16]);
    let of = |number: u64, byte| track_as(number, |track| track.tenant = Some(tenant(byte)));
    let another = |number: u64, byte| {
        let mut track = Track::new(Claim::new(
            RequestId::from_bytes([number as u8; 32]),
            Owner::from_u128(number.into()),
            claim(1).fingerprint,
        ));
        track.tenant = Some(tenant(byte));
        Event::Track { caller: Caller(number), track }
    };
    let mut desk = Desk::with(|config| config.tenant_in_flight = 2);
    assert_eq!(desk.tell(of(1, 7)), ["insert 1"]);
    assert_eq!(desk.tell(another(2, 7)), ["insert 2"]);
    assert_eq!(desk.tell(another(3, 7)), ["lookup"]);
    assert_eq!(desk.tell(another(4, 8)), ["insert 4"]);
    // What has ended counts no more.
    desk.reply(claimed());
    let update = Update::new(id(), Owner::from_u128(1), Change::Release).into();
    desk.tell(Event::Settle { update, caller: None });
    desk.reply(updated(Updated::Applied));
    assert_eq!(desk.tell(another(5, 7)), ["insert 5"]);

    let mut desk = Desk::with(|config| config.tenant_bytes = 260);
    desk.tell(of(1, 7));
    desk.reply(claimed());
    desk.tell(settle(1, complete()));
    assert_eq!(desk.tell(another(2, 7)), ["insert 2"], "nothing is stored yet");
    desk.reply(updated(Updated::Applied));
    assert_eq!(desk.tell(another(3, 7)), ["lookup"], "four bytes and 256");
    assert_eq!(desk.tell(another(4, 8)), ["insert 4"]);
}

#[test]
fn whoever_goes_away_is_not_answered_and_what_was_done_for_him_is_undone() {
    // Its insert is on its way.
    let mut desk = Desk::new();
    desk.tell(track(1));
    assert_eq!(desk.tell(Event::Gone { id: id(), caller: Caller(1) }), [""; 0]);
    assert_eq!(desk.reply(claimed()), ["1: dismissed", "release 1"]);
    // It waits for its turn.
    let mut desk = Desk::new();
    desk.tell(track(1));
    assert_eq!(desk.tell(track(2)), [""; 0]);
    assert_eq!(desk.tell(Event::Gone { id: id(), caller: Caller(2) }), ["2: dismissed"]);
    assert_eq!(desk.reply(claimed()).len(), 1, "the other is served");
    // Its permit never reached it.
    let mut desk = Desk::claimed();
    let undelivered = |owner| Event::Undelivered { id: id(), owner: Owner::from_u128(owner) };
    assert_eq!(desk.tell(undelivered(2)), [""; 0]);
    assert_eq!(desk.tell(undelivered(1)), ["ended 1", "release 1"]);
    // Nor is a permit undelivered that has said how it ended.
    let mut desk = Desk::claimed();
    assert_eq!(desk.tell(settle(1, complete())), ["complete 1"]);
    assert_eq!(desk.tell(undelivered(1)), [""; 0]);
    // A claim that nobody wants is inherited by whoever asks next.
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.tell(track(2));
    desk.tell(Event::Gone { id: id(), caller: Caller(1) });
    let said = desk.reply(claimed());
    assert_eq!(said, ["1: dismissed", "insert 1"], "by its owner");
    assert_eq!(desk.reply(claimed()), ["Resumed", "2: init 1, held to 13500, work to 900000"]);
}

#[test]
fn an_answer_that_took_longer_than_the_lease_is_asked_for_again() {
    let mut desk = Desk::with(|config| config.store_limit = Duration::from_secs(20));
    desk.tell(track(1));
    desk.until(13_499);
    assert_eq!(desk.reply(claimed()), ["1: init 1, held to 13500, work to 900000"]);
    let mut desk = Desk::with(|config| config.store_limit = Duration::from_secs(20));
    desk.tell(track(1));
    desk.until(13_500);
    assert_eq!(desk.reply(claimed()), ["insert 1"]);
    assert_eq!(desk.reply(claimed()), ["Resumed", "1: init 1, held to 27000, work to 913500"]);
}

#[test]
fn an_orphan_is_taken_over_by_policy_and_a_race_for_it_has_an_end() {
    let rerun = |number| track_as(number, |track| track.on_orphan = OnOrphan::Rerun);
    let mut desk = Desk::new();
    desk.tell(rerun(1));
    for owner in [9, 8, 7] {
        let orphan = desk.found(owner, State::Halted(HaltReason::Cancelled));
        assert_eq!(desk.reply(orphan), ["Orphaned(Cancelled)".to_owned(), format!("insert 1 over {owner}")]);
    }
    let orphan = desk.found(6, State::Halted(HaltReason::Shutdown));
    assert_eq!(desk.reply(orphan), ["Orphaned(Shutdown)", "1: processing, 2000"]);

    // A lapsed one is one, too; a halted one that somebody must look at is not, nor one with another payload.
    let mut desk = Desk::new();
    desk.tell(track(1));
    let lapsed = desk.running(9, 0);
    assert_eq!(desk.reply(lapsed), ["Orphaned(OwnerLost)", "1: halted, owner_lost"]);
    let mut desk = Desk::new();
    desk.tell(rerun(1));
    let panicked = desk.found(9, State::Halted(HaltReason::Panicked));
    assert_eq!(desk.reply(panicked), ["1: halted, panicked"]);
    let mut desk = Desk::new();
    desk.tell(track_as(1, |track| claim_of(track).fingerprint = Fingerprint::derive(None, [&b"11"[..]])));
    let another = desk.found(9, State::Halted(HaltReason::Cancelled));
    assert_eq!(desk.reply(another), ["1: mismatch"]);
}

#[test]
fn all_ids_count_against_one_limit_and_what_has_ended_does_not() {
    let other = |number: u8| {
        let claim = Claim::new(
            RequestId::from_bytes([number; 32]),
            Owner::from_u128(number.into()),
            claim(1).fingerprint,
        );
        Event::Track { caller: Caller(number.into()), track: Track::new(claim) }
    };
    let mut desk = Desk::with(|config| config.max_in_flight = 2);
    assert_eq!(desk.tell(other(2)), ["insert 2"]);
    assert_eq!(desk.tell(track(1)), ["insert 1"]);
    assert_eq!(desk.tell(other(3)), ["lookup"]);
    assert_eq!(desk.engine.load().in_flight, 2, "one that only looks does not count");
    desk.reply(claimed());
    assert_eq!(desk.tell(other(4)), ["lookup"]);
    desk.tell(settle(1, Change::Release));
    desk.reply(updated(Updated::Applied));
    assert_eq!(desk.engine.load().in_flight, 1);
    assert_eq!(desk.tell(other(5)), ["insert 5"]);
}
