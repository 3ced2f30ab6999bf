//! When expired records are deleted, and who hears of it.

use std::time::Duration;

use idempotency_core::{Pruned, StoreReply};
use idempotency_engine::{Call, Caller, Config, Engine, Event};

use super::desk::*;

fn pruned(deleted: usize, more: bool) -> Event {
    Event::Replied { call: Call::Prune, reply: Ok(StoreReply::Pruned(Pruned { deleted, more })) }
}

fn every_minute() -> Desk {
    Desk::with(|config| config.prune_every = Some(Duration::from_secs(60)))
}

#[test]
fn pruning_comes_every_minute_or_a_tenth_earlier_or_later() {
    let config = Config { prune_every: Some(Duration::from_secs(60)), ..Config::default() };
    for (entropy, expected) in [(0, 54_000), (u64::MAX / 2, 60_000), (u64::MAX, 66_000)] {
        let first = Engine::new(config.clone(), START, entropy).deadline().unwrap();
        assert_eq!(since_start(first), expected);
    }
    let mut desk = every_minute();
    assert_eq!(desk.until(54_000), ["54000 prune"]);
    // Not while one is under way, however long that takes.
    assert_eq!(desk.until(200_000), [""; 0]);
    assert_eq!(desk.tell(pruned(128, true)), ["prune"], "there is more");
    assert_eq!(desk.tell(pruned(5, false)), [""; 0]);
    assert_eq!(desk.until(200_000), ["200000 prune"]);
    desk.tell(pruned(0, false));
    assert_eq!(desk.until(253_999), [""; 0]);
    assert_eq!(desk.until(254_000), ["254000 prune"]);
}

#[test]
fn whoever_asked_for_a_prune_hears_how_many_there_were() {
    let ask = |caller| Event::Prune { caller: Caller(caller) };
    let mut desk = Desk::new();
    assert_eq!(desk.tell(ask(7)), ["prune"]);
    assert_eq!(desk.tell(ask(8)), [""; 0], "one is under way");
    assert_eq!(desk.tell(pruned(128, true)), ["prune"]);
    assert_eq!(desk.tell(pruned(5, false)), ["7: Pruned(Ok(133))", "8: Pruned(Ok(133))"]);
    // Of those after it nothing is added, and a store that deletes nothing is not asked for more.
    desk.tell(ask(7));
    assert_eq!(desk.tell(pruned(0, true)), ["7: Pruned(Ok(0))"]);
    // A shutdown waits for the step that is under way, and for no more.
    desk.tell(ask(7));
    let shutdown = Event::Shutdown { caller: Caller(200), until: START + ms(3000) };
    assert_eq!(desk.tell(shutdown), [""; 0]);
    assert_eq!(desk.tell(pruned(128, true)), ["7: Pruned(Ok(128))", "200: Drained(0)"]);
}
