//! One thing after the other, to the millisecond: what the engine says to each event of a request's life.

mod desk;

use std::time::Duration;

use idempotency_core::{
    Change, Claim, Fingerprint, HaltReason, Inserted, Owner, RequestId, State, StoreError, StoreErrorKind,
    StoreReply, Tenant, Updated,
};
use idempotency_engine::{Adopted, Call, Caller, Config, Engine, Event, OnConcurrent, OnOrphan, Track};

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
    desk.tell(Event::Settle { id: id(), owner: Owner::from_u128(1), change: Change::Release, caller: None });
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
fn a_result_is_stored_or_deferred_and_told_once() {
    let mut desk = Desk::claimed();
    assert_eq!(desk.tell(settle(1, complete())), ["complete 1"]);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["100: Stored", "settled 1", "ended 1"]);
    assert_eq!(desk.engine.load().lanes, 0);

    let mut desk = Desk::claimed();
    desk.tell(settle(1, complete()));
    desk.reply(lost());
    let mut said = Vec::new();
    for at in (100..3000).step_by(100) {
        let lines = desk.until(at);
        if lines.iter().any(|line| line.ends_with("complete 1")) {
            desk.reply(lost());
        }
        said.extend(lines.into_iter().filter(|line| !line.ends_with("complete 1")));
    }
    assert_eq!(said, ["1000 100: Deferred", "1000 Deferred"]);
    assert_eq!(desk.engine.load().deferred_bytes, 4);
    // Meanwhile this node answers with it, and another payload is another payload.
    assert_eq!(desk.tell(track(2)), ["2: cached"]);
    let other = track_as(3, |track| track.claim.fingerprint = Fingerprint::derive(None, [&b"11"[..]]));
    assert_eq!(desk.tell(other), ["3: mismatch"]);
    for (answer, word) in [(Updated::Fenced, "Superseded"), (Updated::NotFound, "Gone")] {
        let mut desk = Desk::claimed();
        desk.tell(settle(1, complete()));
        let said = [&format!("100: {word}"), "settled 1", word, "ended 1"];
        assert_eq!(desk.reply(updated(answer)), said);
    }
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
    desk.tell(track_as(1, |track| track.claim.fingerprint = Fingerprint::derive(None, [&b"11"[..]])));
    let another = desk.found(9, State::Halted(HaltReason::Cancelled));
    assert_eq!(desk.reply(another), ["1: mismatch"]);
}

#[test]
fn whoever_may_know_is_asked_once_and_within_a_limit() {
    let mut desk = Desk::new();
    desk.tell(track_as(1, |track| track.on_orphan = OnOrphan::Resolve));
    let orphan = desk.found(9, State::Halted(HaltReason::Cancelled));
    assert_eq!(desk.reply(orphan), ["Orphaned(Cancelled)", "insert 1 over 9"]);
    assert_eq!(desk.reply(claimed()), ["1: resolve as 1"]);
    // With nothing to take over it is a claim like any other.
    let mut desk = Desk::new();
    desk.tell(track_as(1, |track| track.on_orphan = OnOrphan::Resolve));
    assert_eq!(desk.reply(claimed()), ["1: init 1, held to 13500, work to 900000"]);
}

#[test]
fn those_who_wait_are_answered_by_the_end_and_by_nothing_else() {
    let wait =
        |number| track_as(number, |track| track.on_concurrent = OnConcurrent::Wait { at_most: ms(3000) });
    let mut desk = Desk::claimed();
    assert_eq!(desk.tell(wait(2)), [""; 0]);
    assert_eq!(desk.tell(wait(3)), [""; 0]);
    assert_eq!(desk.engine.load().waiting, 2);
    assert_eq!(desk.tell(track(4)), ["4: processing, 13500"], "who does not wait hears it at once");
    assert_eq!(desk.tell(Event::Gone { id: id(), caller: Caller(3) }), ["3: dismissed"]);
    let said = desk.until(3000);
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("3000 2: processing"), "{said:?}");
    desk.tell(wait(5));
    desk.tell(settle(1, complete()));
    let said = desk.reply(updated(Updated::Applied));
    assert!(said.contains(&"5: cached".to_owned()) || said.contains(&"watch".to_owned()), "{said:?}");
}

#[test]
fn a_backend_that_is_down_is_not_asked_and_told_of_at_once() {
    let mut desk = Desk::new();
    desk.tell(Event::Down { until: START + ms(5000), refuses: false });
    assert_eq!(desk.tell(track(1)), ["1: unavailable, 5000, TimedOut"]);
    desk.until(4500);
    assert_eq!(desk.tell(track(2)), ["2: unavailable, 1000, TimedOut"], "never less than a second");
    // One that answers and refuses is not away.
    desk.tell(Event::Down { until: START + ms(6000), refuses: true });
    assert_eq!(desk.tell(track(4)), ["4: unavailable, 1500, refused"]);
    desk.tell(Event::Up);
    assert_eq!(desk.tell(track(3)), ["insert 3"]);
}

#[test]
fn a_claim_of_an_engine_before_this_one_is_renewed_at_once_or_ended() {
    let adopted = |ending| {
        Event::Adopt(Adopted {
            claim: claim(1),
            since: START,
            held_until: START + ms(9000),
            work_until: START + ms(900_000),
            tenant: None,
            ending,
        })
    };
    let mut desk = Desk::new();
    assert_eq!(desk.tell(adopted(None)), ["renew 1"]);
    assert_eq!(desk.engine.load().live, 1);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["held 1 to 13500"]);

    let mut desk = Desk::new();
    assert_eq!(desk.tell(adopted(Some(complete()))), ["complete 1"]);
    assert_eq!(desk.engine.load().deferred_bytes, 4);
    assert_eq!(desk.tell(track(2)), ["2: cached"]);
    assert_eq!(desk.reply(updated(Updated::AlreadyApplied)), ["settled 1", "ended 1"]);
    assert_eq!(desk.engine.load(), Engine::new(Config::default(), START, 0).load());

    // It may have been made, and nobody works under it.
    let mut desk = Desk::new();
    assert_eq!(desk.tell(Event::Unwanted { claim: claim(1) }), ["release 1"]);
}

#[test]
fn a_shutdown_answers_everybody_and_halts_what_still_runs() {
    let mut desk = Desk::claimed();
    desk.tell(track_as(2, |track| track.on_concurrent = OnConcurrent::Wait { at_most: ms(60_000) }));
    let shutdown = Event::Shutdown { caller: Caller(200), until: START + ms(3000) };
    assert_eq!(desk.tell(shutdown), ["2: ShuttingDown"]);
    assert_eq!(desk.tell(track(3)), ["3: ShuttingDown"]);
    assert_eq!(desk.until(3000), ["3000 lost 1", "3000 halt 1"]);
    assert_eq!(desk.reply(updated(Updated::Applied)), ["settled 1", "ended 1", "200: Drained(0)"]);

    // A result that the store does not take is told of at the end.
    let mut desk = Desk::claimed();
    desk.tell(settle(1, complete()));
    desk.reply(lost());
    desk.tell(Event::Shutdown { caller: Caller(200), until: START + ms(500) });
    let mut said = Vec::new();
    for at in (100..6_000).step_by(100) {
        let lines = desk.until(at);
        if lines.iter().any(|line| line.ends_with("complete 1")) {
            desk.reply(lost());
        }
        said.extend(lines.into_iter().filter(|line| !line.ends_with("complete 1")));
    }
    let expected =
        ["1000 100: Deferred", "1000 Deferred", "5000 renew 1", "5500 Unstored", "5500 200: Drained(1)"];
    assert_eq!(said, expected);
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

#[test]
fn a_shutdown_waits_for_reads_that_are_under_way() {
    let reads: [(Event, Call, StoreReply, &str); 2] = [
        (
            Event::Lookup { caller: Caller(7), id: id() },
            Call::Lookup(Caller(7)),
            StoreReply::Found(None),
            "Found(Ok(None))",
        ),
        (
            Event::Scan { caller: Caller(7), cursor: None, limit: 10 },
            Call::Scan(Caller(7)),
            StoreReply::Page(idempotency_core::Page::default()),
            "Page(Ok(Page { records: [], next: None }))",
        ),
    ];
    for (event, call, reply, answer) in reads {
        let mut desk = Desk::new();
        desk.tell(event);
        let shutdown = Event::Shutdown { caller: Caller(200), until: START + ms(3000) };
        assert_eq!(desk.tell(shutdown), [""; 0], "not before the answer");
        let said = desk.tell(Event::Replied { call, reply: Ok(reply) });
        assert_eq!(said, [format!("7: {answer}"), "200: Drained(0)".to_owned()]);
    }
    // With nothing under way it ends at once.
    let mut desk = Desk::new();
    let shutdown = Event::Shutdown { caller: Caller(200), until: START + ms(3000) };
    assert_eq!(desk.tell(shutdown), ["200: Drained(0)"]);
}

#[test]
fn who_waits_for_somebody_elsewhere_looks_when_it_is_told_and_otherwise_every_five_seconds() {
    let mut desk = Desk::new();
    desk.tell(track_as(1, |track| track.on_concurrent = OnConcurrent::Wait { at_most: ms(30_000) }));
    let running = desk.running(9, 60_000);
    assert_eq!(desk.reply(running), ["watch"], "once in a way that is told of its end");
    let as_read = |reply: Result<StoreReply, StoreError>| match reply {
        Ok(StoreReply::Inserted(Inserted::Exists(record))) => Ok(StoreReply::Found(Some(record))),
        reply => reply,
    };
    let still = as_read(desk.running(9, 60_000));
    assert_eq!(desk.reply(still), [""; 0]);
    assert_eq!(desk.until(4999), [""; 0]);
    assert_eq!(desk.until(5000).len(), 1);
    let still = as_read(desk.running(9, 60_000));
    desk.reply(still);
    desk.until(6000);
    let hinted = desk.tell(Event::Hinted { id: id() });
    assert_eq!(hinted.len(), 1, "{hinted:?}");
    let done = as_read(desk.found(9, State::Completed("done".into())));
    assert_eq!(desk.reply(done), ["1: cached"]);
    // Of an id that nothing is going on for nobody wants to hear.
    assert_eq!(desk.tell(Event::Hinted { id: id() }), [""; 0]);
    assert_eq!(desk.engine.load().lanes, 0);
}
