//! How a claim ends, who waits for that, and how everything does.

use idempotency_core::{
    Fingerprint, HaltReason, Inserted, RequestId, State, StoreError, StoreErrorKind, StoreReply, Updated,
};
use idempotency_engine::{Adopted, Call, Caller, Config, Engine, Event, OnConcurrent, OnOrphan};

use super::desk::*;

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
    let other = track_as(3, |track| claim_of(track).fingerprint = Fingerprint::derive(None, [&b"11"[..]]));
    assert_eq!(desk.tell(other), ["3: mismatch"]);
    for (answer, word) in [(Updated::Fenced, "Superseded"), (Updated::NotFound, "Gone")] {
        let mut desk = Desk::claimed();
        desk.tell(settle(1, complete()));
        let said = [&format!("100: {word}"), "settled 1", word, "ended 1"];
        assert_eq!(desk.reply(updated(answer)), said);
    }
}

/// The store will never take this body; that the work was done must get there.
#[test]
fn a_result_that_the_store_refuses_loses_its_body_and_not_its_truth() {
    for kind in [StoreErrorKind::Full, StoreErrorKind::Invalid] {
        let mut desk = Desk::claimed();
        desk.tell(settle(1, complete()));
        let said = desk.reply(refused(kind));
        assert_eq!(said, ["let go of the body of 1", "NotKept", "complete 1"]);
        assert_eq!(desk.engine.load().deferred_bytes, 0);
        // Without a body it is like any other.
        assert_eq!(desk.reply(refused(kind)), [""; 0]);
        assert_eq!(desk.until(20), ["20 complete 1"]);
        assert_eq!(desk.reply(updated(Updated::Applied)), ["100: Stored", "settled 1", "ended 1"]);
    }
    // One that was put off counts no more from then on.
    let mut desk = Desk::claimed();
    desk.tell(settle(1, complete()));
    desk.reply(lost());
    assert_eq!(desk.engine.load().deferred_bytes, 4);
    desk.until(20);
    desk.reply(refused(StoreErrorKind::Full));
    assert_eq!(desk.engine.load().deferred_bytes, 0);
    // For one that has no room here only the fact is kept.
    let mut desk = Desk::with(|config| config.max_deferred_bytes = 3);
    desk.tell(track(1));
    desk.reply(claimed());
    desk.tell(settle(1, complete()));
    assert_eq!(desk.reply(lost()), ["let go of the body of 1", "NotKept"]);
}

#[test]
fn an_engine_says_what_it_has_and_equal_ones_hash_alike() {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    let hash = |desk: &Desk| BuildHasherDefault::<DefaultHasher>::new().hash_one(&desk.engine);
    let (mut one, mut other) = (Desk::claimed(), Desk::claimed());
    assert_eq!(one.engine.ids().collect::<Vec<_>>(), [id()]);
    assert_eq!(one.engine.live().map(|claim| claim.owner).collect::<Vec<_>>(), [claim(1).owner]);
    assert!(one.engine.is_live(&id()) && !one.engine.is_live(&RequestId::from_bytes([2; 32])));
    assert!(!one.engine.is_draining());
    assert_eq!(hash(&one), hash(&other));
    for desk in [&mut one, &mut other] {
        desk.tell(Event::Shutdown { caller: Caller(200), until: START + ms(3000) });
    }
    assert!(one.engine.is_draining());
    assert_eq!(hash(&one), hash(&other));
    one.tell(settle(1, complete()));
    assert_ne!(hash(&one), hash(&other));
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
        Event::Adopt(Box::new(Adopted {
            claim: claim(1).into(),
            since: START.into(),
            held_until: (START + ms(9000)).into(),
            work_until: (START + ms(900_000)).into(),
            tenant: None,
            ending,
        }))
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
    assert_eq!(desk.tell(Event::Unwanted { claim: claim(1).into() }), ["release 1"]);
}

#[test]
fn a_shutdown_answers_everybody_and_halts_what_still_runs() {
    let mut desk = Desk::claimed();
    desk.tell(track_as(2, |track| track.on_concurrent = OnConcurrent::Wait { at_most: ms(60_000) }));
    let shutdown = Event::Shutdown { caller: Caller(200), until: START + ms(3000) };
    assert_eq!(desk.tell(shutdown), ["2: ShuttingDown"]);
    assert_eq!(desk.tell(track(3)), ["3: ShuttingDown"]);
    assert_eq!(desk.until(3000), ["3000 lost 1", "3000 halt 1, shutdown"]);
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
