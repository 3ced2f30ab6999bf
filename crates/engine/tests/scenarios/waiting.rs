//! Callers that wait for what somebody else makes of it: how many, how long, and what they look at.

use idempotency_core::{
    Change, Claim, HaltReason, Inserted, Owner, RequestId, State, StoreError, StoreReply, Updated,
};
use idempotency_engine::{Caller, Event, OnConcurrent, OnOrphan, Track};

use super::desk::*;

/// As a read tells of it.
fn read(reply: Result<StoreReply, StoreError>) -> Result<StoreReply, StoreError> {
    match reply {
        Ok(StoreReply::Inserted(Inserted::Exists(record))) => Ok(StoreReply::Found(Some(record))),
        reply => reply,
    }
}

/// One that waits for a claim of another node.
fn waiting() -> Desk {
    let mut desk = Desk::new();
    desk.tell(wait(1, 30_000));
    let running = desk.running(9, 60_000);
    assert_eq!(desk.reply(running), ["watch"]);
    desk
}

#[test]
fn those_who_wait_for_somebody_elsewhere_look_together_and_the_others_for_themselves() {
    let mut desk = waiting();
    // As long as that takes, nobody looks again.
    assert_eq!(desk.until(6000), [""; 0]);
    for next in [&["watch"][..], &[]] {
        let still = read(desk.running(9, 60_000));
        assert_eq!(desk.reply(still), next);
    }
    assert_eq!(desk.tell(wait(2, 30_000)), [""; 0], "it need not ask");
    assert_eq!(desk.tell(track(3)), ["insert 3"], "it does not wait");
    let wants_something_else = |number| {
        let Event::Track { caller, mut track } = other_payload(number) else { unreachable!("a track") };
        track.on_concurrent = OnConcurrent::Wait { at_most: ms(30_000) };
        Event::Track { caller, track }
    };
    let mut desk = waiting();
    let still = read(desk.running(9, 60_000));
    desk.reply(still);
    assert_eq!(desk.tell(wants_something_else(2)), ["insert 2"]);

    // Those who came before the first answer join whoever asked.
    let mut desk = Desk::new();
    desk.tell(wait(1, 30_000));
    desk.tell(wait(2, 30_000));
    desk.tell(track(3));
    desk.tell(wants_something_else(4));
    let running = desk.running(9, 60_000);
    assert_eq!(desk.reply(running.clone()), ["insert 3"]);
    assert_eq!(desk.engine.load().waiting, 2);
    assert_eq!(desk.reply(running.clone()), ["3: processing, 60000", "insert 4"]);
    assert_eq!(desk.reply(running), ["4: mismatch", "watch"]);

    // Not behind one that does not wait, whose answer may take long.
    let mut desk = Desk::new();
    desk.tell(wait(1, 30_000));
    desk.tell(track(2));
    desk.tell(wait(3, 30_000));
    let running = desk.running(9, 60_000);
    assert_eq!(desk.reply(running), ["insert 2"]);
    assert_eq!(desk.until(10_000), ["4000 2: unavailable, 2000, TimedOut"]);
    assert_eq!(desk.engine.load().waiting, 2);

    // One that does not wait says nothing for one that does, nor does one that has gone.
    let mut desk = Desk::new();
    desk.tell(track(1));
    desk.tell(wait(2, 30_000));
    let running = desk.running(9, 60_000);
    assert_eq!(desk.reply(running), ["1: processing, 60000", "insert 2"]);
    let mut desk = waiting();
    assert_eq!(desk.tell(gone(1)), ["1: dismissed"]);
    assert_eq!(desk.tell(wait(2, 30_000)), [""; 0]);
    let still = read(desk.running(9, 60_000));
    assert_eq!(desk.reply(still), ["insert 2"]);
}

#[test]
fn there_is_room_for_so_many_of_a_key_and_so_many_of_all() {
    let elsewhere = |number: u64| {
        let claim =
            Claim::new(RequestId::from_bytes([5; 32]), Owner::from_u128(number.into()), claim(1).fingerprint);
        let mut track = Track::new(claim);
        track.on_concurrent = OnConcurrent::Wait { at_most: ms(30_000) };
        Event::Track { caller: Caller(number), track }
    };
    let claimed_here = |of_a_key, of_all| {
        let mut desk = Desk::with(|config| {
            (config.max_waiters_per_key, config.max_waiters) = (of_a_key, of_all);
        });
        desk.tell(track(1));
        desk.reply(claimed());
        desk
    };
    for (of_a_key, of_all) in [(1, 10), (10, 1)] {
        let mut desk = claimed_here(of_a_key, of_all);
        assert_eq!(desk.tell(wait(2, 30_000)), [""; 0]);
        assert_eq!(desk.tell(wait(3, 30_000)), ["3: processing, 13500"]);
    }
    let mut desk = claimed_here(10, 3);
    desk.tell(elsewhere(50));
    let call = idempotency_engine::Call::Lane(RequestId::from_bytes([5; 32]));
    desk.tell(Event::Replied { call, reply: claimed() });
    for number in [51, 52] {
        assert_eq!(desk.tell(elsewhere(number)), [""; 0]);
    }
    assert_eq!(desk.tell(wait(2, 30_000)), [""; 0]);
    assert_eq!(desk.tell(wait(3, 30_000)), ["3: processing, 13500"], "two there and one here are three");
}

#[test]
fn the_least_patient_one_is_the_first_to_give_up() {
    let mut desk = Desk::claimed();
    assert_eq!(desk.tell(wait(2, 0)), ["2: processing, 13500"], "no time at all");
    desk.tell(wait(3, 3000));
    desk.tell(wait(4, 1000));
    desk.tell(wait(5, 2000));
    let said = ["1000 4: processing, 12500", "2000 5: processing, 11500", "3000 3: processing, 10500"];
    assert_eq!(desk.until(4000), said);
}

#[test]
fn nobody_looks_at_the_store_for_what_lives_here() {
    let mut desk = Desk::claimed();
    desk.tell(wait(2, 4000));
    assert_eq!(desk.tell(Event::Hinted { id: id() }), [""; 0]);
    assert_eq!(desk.until(3999), [""; 0]);
}

/// With all of a caller's patience, however long it has waited.
#[test]
fn who_waited_and_finds_the_id_free_tries_as_if_it_came_now() {
    let mut desk = waiting();
    let still = read(desk.running(9, 60_000));
    desk.reply(still);
    assert_eq!(desk.until(5000), ["5000 watch"]);
    assert_eq!(desk.reply(Ok(StoreReply::Found(None))), ["insert 1"]);
    assert_eq!(desk.until(9000), ["9000 1: unavailable, 2000, TimedOut"]);
}

#[test]
fn one_of_those_who_wait_takes_over_and_the_others_wait_for_it() {
    let wait_and_rerun = |number| {
        track_as(number, |track| {
            track.on_concurrent = OnConcurrent::Wait { at_most: ms(30_000) };
            track.on_orphan = OnOrphan::Rerun;
        })
    };
    let mut desk = Desk::new();
    desk.tell(wait_and_rerun(1));
    desk.tell(wait_and_rerun(2));
    let running = desk.running(9, 1000);
    assert_eq!(desk.reply(running), ["watch"]);
    let orphan = read(desk.found(9, State::Halted(HaltReason::Cancelled)));
    assert_eq!(desk.reply(orphan), ["insert 1 over 9"]);
    assert_eq!(desk.engine.load().waiting, 1);
    assert_eq!(desk.reply(claimed()), ["1: init 1, held to 13500, work to 900000"]);
    desk.tell(settle(1, complete()));
    let said = ["100: Stored", "settled 1", "ended 1", "2: cached"];
    assert_eq!(desk.reply(updated(Updated::Applied)), said);
}

#[test]
fn whoever_asked_hears_what_a_resolver_says_or_that_it_takes_too_long() {
    let resolving = || {
        let mut desk = Desk::new();
        desk.tell(track_as(1, |track| track.on_orphan = OnOrphan::Resolve));
        let orphan = desk.found(9, State::Halted(HaltReason::Cancelled));
        desk.reply(orphan);
        assert_eq!(desk.reply(claimed()), ["1: resolve as 1"]);
        desk
    };
    let mut desk = resolving();
    desk.tell(settle(1, complete()));
    let said = ["100: Stored", "settled 1", "ended 1", "1: cached"];
    assert_eq!(desk.reply(updated(Updated::Applied)), said);
    // Nothing was done: whoever asked tries for himself, by another owner, for a copy of that release may come late.
    let mut desk = resolving();
    desk.tell(settle(1, Change::Release));
    let said = ["100: Stored", "settled 1", "ended 1", "watch"];
    assert_eq!(desk.reply(updated(Updated::Applied)), said);
    let next = 1 + (1_u128 << 64);
    assert_eq!(desk.reply(Ok(StoreReply::Found(None))), [format!("insert {next}")]);
    // Its limit, and the patience of a call.
    let mut desk = resolving();
    let mut said = Vec::new();
    for at in (500..20_000).step_by(500) {
        let lines = desk.until(at);
        if lines.iter().any(|line| line.ends_with("renew 1")) {
            desk.reply(updated(Updated::Applied));
        }
        said.extend(lines.into_iter().filter(|line| line.contains("1: ")));
    }
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("14000 1: processing"), "{said:?}");
}
