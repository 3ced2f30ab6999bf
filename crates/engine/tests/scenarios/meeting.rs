//! What meets on one id: callers, what may still arrive, and what is about to be stored.

use idempotency_core::{HaltReason, Meta, Owner, State, StoreErrorKind, StoreReply, Tenant, Update, Updated};
use idempotency_engine::{Adopted, Caller, Event};

use super::desk::*;

/// Its caller went away, and a copy of its insert may still arrive.
fn haunt(desk: &mut Desk, number: u64) {
    assert_eq!(desk.tell(track(number)), [format!("insert {number}")]);
    assert_eq!(desk.reply(lost()), [""; 0]);
    assert_eq!(desk.tell(gone(number)), [format!("{number}: dismissed"), format!("release {number}")]);
    assert_eq!(desk.reply(updated(Updated::NotFound)), [""; 0]);
}

fn adopted(work_until: u64, ending: Option<idempotency_core::Change>) -> Event {
    Event::Adopt(Box::new(Adopted {
        claim: claim(1).into(),
        since: START.into(),
        held_until: (START + ms(9000)).into(),
        work_until: (START + ms(work_until)).into(),
        tenant: None,
        ending,
    }))
}

#[test]
fn whoever_hears_nothing_within_his_patience_is_told_so() {
    let mut desk = Desk::new();
    desk.tell(track(1));
    assert_eq!(desk.until(5000), ["4000 1: unavailable, 2000, TimedOut"]);
    // What comes after that is laid to rest.
    assert_eq!(desk.reply(claimed()), ["release 1"]);
    let mut desk = Desk::new();
    assert_eq!(desk.tell(forget(9)), ["forget 9"]);
    let said = desk.until(5000);
    assert!(said.len() == 1 && said[0].starts_with("4000 100: Forgotten(Err(Unavailable"), "{said:?}");
    // Those who were in the queue are there no more: nothing is done for them, and whoever came later takes their place.
    let mut desk = Desk::claimed();
    desk.until(5000);
    desk.tell(forget(9));
    assert_eq!(desk.until(9000).len(), 1);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["held 1 to 18500"]);
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.tell(track(2));
    desk.until(3000);
    desk.tell(track(3));
    assert_eq!(desk.until(4500).len(), 2);
    assert_eq!(desk.reply(claimed()), ["insert 1"], "for the third");
    // A repetition that would come just when the patience ends is none.
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.until(3980);
    assert_eq!(desk.reply(not_sent()), ["1: unavailable, 2000, Unavailable"]);
}

#[test]
fn a_late_copy_of_ours_is_laid_to_rest_and_whatever_else_is_there_is_not() {
    let mut desk = Desk::new();
    haunt(&mut desk, 1);
    assert_eq!(desk.tell(track(2)), ["insert 2"]);
    let somebody_elses = desk.running(9, 3000);
    assert_eq!(desk.reply(somebody_elses), ["2: processing, 3000"]);

    let mut desk = Desk::new();
    haunt(&mut desk, 1);
    haunt(&mut desk, 3);
    desk.tell(track(2));
    for ghost in [1, 1, 3] {
        let ours = desk.running(ghost, 3000);
        assert_eq!(desk.reply(ours), [format!("release {ghost}")]);
        assert_eq!(desk.reply(updated(Updated::Applied)), ["insert 2"]);
    }
    // It does not go on for ever.
    let ours = desk.running(3, 3000);
    assert_eq!(desk.reply(ours), ["2: processing, 3000"]);
}

#[test]
fn laying_to_rest_is_repeated_until_it_was_heard_or_makes_no_sense() {
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.reply(lost());
    desk.tell(gone(1));
    for at in [20, 60, 140] {
        assert_eq!(desk.reply(lost()), [""; 0]);
        assert_eq!(desk.until(at), [format!("{at} release 1")]);
    }
    assert_eq!(desk.reply(refused(StoreErrorKind::Corrupt)), [""; 0]);
    assert_eq!(desk.engine.load().lanes, 0);
}

#[test]
fn a_claim_that_nobody_wants_is_inherited_by_whoever_may_and_by_nobody_else() {
    let unwanted = |first: Event, next: Event| {
        let mut desk = Desk::new();
        desk.tell(first);
        desk.tell(next);
        desk.tell(gone(1));
        desk.reply(claimed())
    };
    assert_eq!(unwanted(track(1), track(2)), ["1: dismissed", "insert 1"]);
    assert_eq!(unwanted(track(1), other_payload(2)), ["1: dismissed", "release 1"]);
    // What was taken over is inherited by whoever would have done so.
    for (next, expected) in [(track(2), "halt 1, cancelled"), (rerun(2), "insert 1 over 9")] {
        let mut desk = Desk::new();
        desk.tell(rerun(1));
        let orphan = desk.found(9, State::Halted(HaltReason::Cancelled));
        desk.reply(orphan);
        desk.tell(next);
        desk.tell(gone(1));
        assert_eq!(desk.reply(claimed()), ["1: dismissed", expected]);
    }
    // What an operator took over may be none that a policy works on again.
    let operator = |number| {
        track_as(number, |track| {
            track.by_operator = true;
            claim_of(track).takes_over = Some(Owner::from_u128(9));
        })
    };
    assert_eq!(unwanted(operator(1), rerun(2)), ["1: dismissed", "halt 1, unresolved"]);
    let mut desk = Desk::new();
    assert_eq!(desk.tell(operator(1)), ["insert 1 over 9"]);
    desk.reply(claimed());
    let undelivered = Event::Undelivered { id: id(), owner: Owner::from_u128(1) };
    assert_eq!(desk.tell(undelivered), ["ended 1", "halt 1, unresolved"]);
}

#[test]
fn of_a_tenant_what_counts_here_counts_once() {
    let tenant = |track: &mut idempotency_engine::Track| track.tenant = Some(Tenant::from_bytes([7; 16]));
    for (limit, expected) in [(2, "lookup"), (3, "insert 2")] {
        let mut desk = Desk::with(|config| config.tenant_in_flight = limit);
        desk.tell(track_as(1, tenant));
        desk.reply(lost());
        desk.tell(gone(1));
        desk.reply(updated(Updated::NotFound));
        let mut elsewhere = idempotency_engine::Track::new(idempotency_core::Claim::new(
            idempotency_core::RequestId::from_bytes([5; 32]),
            Owner::from_u128(5),
            claim(1).fingerprint,
        ));
        tenant(&mut elsewhere);
        assert_eq!(desk.tell(Event::Track { caller: Caller(5), track: elsewhere }), ["insert 5"]);
        // One elsewhere, and one that is to be laid to rest here.
        assert_eq!(desk.tell(track_as(2, tenant)), [expected]);
    }
    for (limit, expected) in [(263, "lookup"), (264, "insert 2")] {
        let mut desk = Desk::with(|config| config.tenant_bytes = limit);
        desk.tell(track_as(1, |track| {
            tenant(track);
            claim_of(track).meta = Meta::new(&b"two"[..]).unwrap();
        }));
        desk.reply(claimed());
        desk.tell(settle(1, complete()));
        desk.reply(updated(Updated::Applied));
        assert_eq!(desk.tell(track_as(2, tenant)), [expected], "256, three of meta, four of body");
    }
}

#[test]
fn callers_that_ask_while_a_result_is_on_its_way_hear_it() {
    let settling = |change| {
        let mut desk = Desk::claimed();
        desk.tell(settle(1, change));
        assert_eq!(desk.tell(track(2)), [""; 0]);
        assert_eq!(desk.tell(wait(3, 5000)), [""; 0]);
        assert_eq!(desk.engine.load().waiting, 1);
        assert_eq!(desk.tell(other_payload(4)), [""; 0]);
        desk
    };
    let stored = ["100: Stored", "settled 1", "ended 1"];
    let said = settling(complete()).reply(updated(Updated::Applied));
    assert_eq!(said, [&stored[..], &["2: cached", "4: mismatch", "3: cached"]].concat());
    let said = settling(halt(HaltReason::Unknown)).reply(updated(Updated::Applied));
    let halted = ["2: halted, unknown", "4: mismatch", "3: halted, unknown"];
    assert_eq!(said, [&stored[..], &halted].concat());
    // It is put off: they hear it from here.
    assert_eq!(settling(complete()).reply(lost()), ["2: cached", "4: mismatch", "3: cached"]);
    assert_eq!(settling(halt(HaltReason::Unknown)).reply(lost()), halted);
    // One that says that its caller is gone is none that others can go by.
    let said = settling(halt(HaltReason::Cancelled)).reply(lost());
    assert_eq!(said, ["2: processing, 13500", "4: mismatch"]);
    // It is not stored: others ask.
    let said = settling(complete()).reply(updated(Updated::Fenced));
    assert_eq!(said, ["100: Superseded", "settled 1", "Superseded", "ended 1", "insert 2"]);
}

#[test]
fn a_late_result_of_somebody_else_is_none_of_this_claim() {
    let mut desk = Desk::claimed();
    desk.tell(settle(1, complete()));
    desk.reply(lost());
    assert_eq!(desk.tell(settle(9, halt(HaltReason::Unknown))), ["halt 9, unknown"]);
    assert_eq!(desk.tell(track(2)), ["2: cached"]);
    // Nor do its bytes count for it.
    let mut desk = Desk::new();
    desk.tell(settle(9, complete()));
    desk.reply(lost());
    assert_eq!(desk.engine.load().deferred_bytes, 4);
    assert_eq!(desk.tell(settle(8, complete())), ["complete 8"]);
    desk.reply(updated(Updated::Fenced));
    assert_eq!(desk.engine.load().deferred_bytes, 4);
    assert_eq!(desk.tell(settle(7, complete())), ["complete 7"]);
    desk.reply(refused(StoreErrorKind::Full));
    assert_eq!(desk.engine.load().deferred_bytes, 4);
    // Each has a patience of its own, whichever goes first.
    let mut desk = Desk::new();
    desk.tell(settle(7, complete()));
    desk.reply(lost());
    desk.until(15);
    assert_eq!(desk.tell(settle(9, complete())), ["complete 9"]);
    desk.reply(lost());
    for (at, until_lost) in [(35, 40), (80, 990)] {
        assert_eq!(desk.until(until_lost), [format!("{at} complete 9")]);
        desk.reply(lost());
    }
    assert_eq!(desk.tell(settle(8, complete())), ["complete 8"]);
    desk.until(997);
    desk.reply(lost());
    let said = ["1000 100: Deferred", "1000 Deferred", "1015 100: Deferred", "1015 Deferred"];
    assert_eq!(desk.until(1016), said);
}

#[test]
fn results_of_all_ids_share_the_room_for_what_is_put_off() {
    let other = idempotency_core::RequestId::from_bytes([5; 32]);
    let put_off = |desk: &mut Desk, id, owner: u128| {
        let owner = Owner::from_u128(owner);
        desk.tell(Event::Settle { update: Update::new(id, owner, complete()).into(), caller: None });
        let call = idempotency_engine::Call::Lane(id);
        desk.tell(Event::Replied { call, reply: lost() });
    };
    for (room, kept) in [(7, 4), (8, 8), (11, 8), (12, 12)] {
        let mut desk = Desk::with(|config| config.max_deferred_bytes = room);
        put_off(&mut desk, other, 5);
        put_off(&mut desk, id(), 1);
        put_off(&mut desk, id(), 2);
        assert_eq!(desk.engine.load().deferred_bytes, kept, "{room}");
    }
}

#[test]
fn a_release_whose_reply_was_lost_finds_what_it_left() {
    let mut desk = Desk::claimed();
    desk.tell(settle(1, idempotency_core::Change::Release));
    desk.reply(lost());
    assert_eq!(desk.until(20), ["20 release 1"]);
    assert_eq!(desk.reply(updated(Updated::NotFound)), ["100: Stored", "settled 1", "ended 1"]);
    // At the first attempt it is gone, and so is a result at any.
    let mut desk = Desk::claimed();
    desk.tell(settle(1, idempotency_core::Change::Release));
    assert_eq!(desk.reply(updated(Updated::NotFound))[0], "100: Gone");
    let mut desk = Desk::claimed();
    desk.tell(settle(1, complete()));
    desk.reply(lost());
    desk.until(20);
    assert_eq!(desk.reply(updated(Updated::NotFound))[0], "100: Gone");
    // One that certainly was not carried out leaves nothing to be found.
    let mut desk = Desk::claimed();
    desk.tell(settle(1, idempotency_core::Change::Release));
    desk.reply(not_sent());
    assert_eq!(desk.until(20), ["20 release 1"]);
    assert_eq!(desk.reply(updated(Updated::NotFound))[0], "100: Gone");
}

#[test]
fn what_the_backend_sent_again_by_itself_may_have_a_copy() {
    // A claim that is released is released again, for a late one.
    let mut desk = Desk::new();
    desk.tell(track(1));
    assert_eq!(desk.tell(resent()), [""; 0]);
    assert_eq!(desk.reply(claimed())[0], "Resumed");
    desk.tell(settle(1, idempotency_core::Change::Release));
    assert_eq!(desk.reply(updated(Updated::Applied)), ["100: Stored", "settled 1", "ended 1"]);
    assert_eq!(desk.until(2000), ["2000 release 1"]);
    // A release or a forget finds what the first copy left.
    let mut desk = Desk::claimed();
    desk.tell(settle(1, idempotency_core::Change::Release));
    desk.tell(resent());
    assert_eq!(desk.reply(updated(Updated::NotFound)), ["100: Stored", "settled 1", "ended 1"]);
    for (copies, word) in [(true, "Forgotten"), (false, "NotFound")] {
        let mut desk = Desk::new();
        desk.tell(forget(9));
        if copies {
            desk.tell(resent());
        }
        let said = format!("100: Forgotten(Ok({word}))");
        assert_eq!(desk.reply(updated(Updated::NotFound)), [said]);
    }
    // A look has none, and what comes when nothing is under way is about nothing.
    let mut desk = Desk::with(|config| config.max_in_flight = 0);
    desk.tell(track(1));
    desk.tell(resent());
    assert_eq!(desk.reply(Ok(StoreReply::Found(None))).len(), 1);
    assert_eq!(desk.tell(resent()), [""; 0]);
    assert_eq!(desk.engine.load().lanes, 0);
}

/// A copy of its insert may arrive where the id is free by then.
#[test]
fn a_claim_that_was_released_is_released_again_for_its_copies() {
    let mut desk = Desk::new();
    desk.tell(rerun(1));
    let orphan = desk.found(9, State::Halted(HaltReason::Cancelled));
    desk.reply(orphan);
    desk.reply(lost());
    assert_eq!(desk.until(20), ["20 insert 1 over 9"]);
    assert_eq!(desk.reply(claimed()), ["Resumed", "1: init 1, held to 13520, work to 900020"]);
    desk.tell(settle(1, idempotency_core::Change::Release));
    assert_eq!(desk.reply(updated(Updated::Applied)), ["100: Stored", "settled 1", "ended 1"]);
    assert_eq!(desk.until(2020), ["2020 release 1"]);
    desk.reply(updated(Updated::NotFound));
    assert_eq!(desk.until(20_000), ["6020 release 1"]);
}

#[test]
fn a_renewal_that_is_due_waits_for_a_result_that_is_about_to_go_out() {
    let mut desk = Desk::claimed();
    assert_eq!(desk.until(5000), ["5000 renew 1"]);
    assert_eq!(desk.tell(settle(1, complete())), [""; 0]);
    assert_eq!(desk.reply(updated(Updated::NotFound)), ["complete 1"]);
}

#[test]
fn at_its_work_limit_a_claim_is_not_renewed() {
    let mut desk = Desk::new();
    desk.tell(track_as(1, |track| track.work_limit = ms(5000)));
    desk.reply(claimed());
    assert_eq!(desk.until(30_000), ["13500 lost 1", "13500 ended 1"]);
    // Nor when another engine takes it on.
    let mut desk = Desk::new();
    assert_eq!(desk.tell(adopted(0, None)), [""; 0]);
    assert_eq!(desk.until(30_000), ["9000 lost 1", "9000 ended 1"]);
    // Otherwise once.
    let mut desk = Desk::new();
    assert_eq!(desk.tell(adopted(900_000, None)), ["renew 1"]);
    assert_eq!(desk.until(100), [""; 0]);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["held 1 to 13500"]);
    assert_eq!(desk.until(4999), [""; 0]);
}

/// What it asks itself is not certain, so the result of another is no answer yet.
#[test]
fn a_claim_that_may_have_been_made_asks_also_after_the_result_of_another() {
    let mut desk = Desk::new();
    desk.tell(track(2));
    desk.reply(lost());
    assert_eq!(desk.tell(adopted(900_000, Some(complete()))), ["complete 1"]);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["settled 1", "ended 1"]);
    assert_eq!(desk.until(20), ["20 insert 2"]);
    let done = desk.found(1, State::Completed("done".into()));
    assert_eq!(desk.reply(done), ["2: cached", "release 2"]);
}

#[test]
fn a_running_claim_is_not_forgotten_and_another_one_is_asked_for() {
    let mut desk = Desk::claimed();
    assert_eq!(desk.tell(forget(1)), ["100: Forgotten(Ok(Refused))"]);
    assert_eq!(desk.tell(forget(9)), ["forget 9"]);
}
