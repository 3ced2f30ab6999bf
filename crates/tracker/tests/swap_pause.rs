//! The moment of a swap in which calls are held: what must have happened before it ends, and that it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency_core::*;
use idempotency_tracker::{OnOrphan, Settled, SwapPolicy};
use tokio::time::{Instant, sleep};

use crate::support::*;

fn copy() -> SwapPolicy {
    SwapPolicy::copy("the new store")
}

/// Killed after the flip and started again on the old store, the node would not know of what it had acknowledged.
#[test]
fn nothing_is_written_to_the_new_store_by_a_caller_before_the_old_one_is_retired() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        let running = init(&tracker, id(1)).await;
        let (retired, too_early) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        old.plan({
            let retired = retired.clone();
            move |command| {
                let is_last = matches!(command, StoreCommand::Retire { .. });
                retired.fetch_or(is_last, Ordering::SeqCst);
                // The caller comes meanwhile.
                is_last.then_some(Fault::Delay(Duration::from_secs(1)))
            }
        });
        new.plan({
            let (retired, too_early) = (retired.clone(), too_early.clone());
            move |command| {
                let by_a_caller = ["complete", "insert"].contains(&command.name());
                let early = by_a_caller && !retired.load(Ordering::SeqCst);
                too_early.fetch_add(usize::from(early), Ordering::SeqCst);
                None
            }
        });
        let swapping = tokio::task::spawn_local({
            let (tracker, new) = (tracker.clone(), new.clone());
            async move { tracker.swap(new, copy()).await }
        });
        sleep(Duration::from_millis(500)).await;
        assert!(retired.load(Ordering::SeqCst), "it is being retired");
        let completed = running.complete("done");
        let claimed = init(&tracker, id(2)).await;
        assert_eq!(completed.await.unwrap(), Settled::Stored);
        let report = swapping.await.unwrap().unwrap();
        assert!(report.retired && report.pause >= Duration::from_secs(1), "{report:?}");
        assert_eq!((new.calls("complete"), new.calls("insert")), (1, 1));
        assert_eq!(too_early.load(Ordering::SeqCst), 0);
        assert_eq!(old.calls("complete"), 0);
        claimed.release().await.unwrap();
    });
}

/// Whoever starts on it all the same must not be told that the id is free.
#[test]
fn a_store_that_could_not_be_retired_keeps_what_was_running() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        let running = init(&tracker, id(1)).await;
        old.always("retire", Fault::FailBefore);
        let report = tracker.swap(new.clone(), copy()).await.unwrap();
        assert!(!report.retired);
        assert_eq!(running.complete("done").await.unwrap(), Settled::Stored);

        old.well();
        let again = builder(old.clone()).on_orphan(OnOrphan::Halt).spawn().await.unwrap();
        sleep(Duration::from_secs(20)).await;
        assert_eq!(outcome(&again, id(1)).await, "halted owner_lost");
    });
}

#[test]
fn a_new_store_that_hangs_while_calls_are_held_costs_nobody_its_lease() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        let mut running = Vec::new();
        for number in 0..600 {
            running.push(init(&tracker, id(number)).await);
        }
        // Only what is read while they are held: the copy does not look anything up.
        new.plan(|command| match command.name() {
            "lookup" | "release" | "close" => Some(Fault::Hang),
            _ => None,
        });
        let since = Instant::now();
        let swapping = tokio::task::spawn_local({
            let (tracker, new) = (tracker.clone(), new.clone());
            async move { tracker.swap(new, copy()).await }
        });
        for _ in 0..60 {
            sleep(Duration::from_secs(1)).await;
            assert!(running.iter().all(|permit| permit.is_held()), "after {:?}", since.elapsed());
        }
        assert!(swapping.await.unwrap().is_err());
        for permit in running {
            assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
        }
    });
}

/// Otherwise the pause would be as long as the copy had been.
#[test]
fn what_was_written_during_a_long_copy_is_carried_before_calls_are_held() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        for number in 0..100 {
            init(&tracker, id(number)).await.complete("done").await.unwrap();
        }
        let first = AtomicBool::new(true);
        new.plan(move |command| {
            let delays = command.name() == "restore" && first.swap(false, Ordering::SeqCst);
            delays.then_some(Fault::Delay(Duration::from_secs(1)))
        });
        let swapping = tokio::task::spawn_local({
            let (tracker, new) = (tracker.clone(), new.clone());
            async move { tracker.swap(new, copy()).await }
        });
        for number in 1000..3000 {
            init(&tracker, id(number)).await.complete("written meanwhile").await.unwrap();
        }
        let report = swapping.await.unwrap().unwrap();
        assert!(report.carried <= 512, "{report:?}");
        for number in 1000..3000 {
            assert_eq!(outcome(&tracker, id(number)).await, "cached b\"written meanwhile\"");
        }
        assert_eq!(new.inner.len(), 2100);
    });
}

/// A record may come from a clock that was ahead before it was set right. It was not written during the copy.
#[test]
fn a_record_of_a_clock_that_was_ahead_is_copied_like_any_other() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let ahead = TokioClock::new().now() + Duration::from_secs(60 * 60);
        let claim = Claim::new(id(1), Owner::from_u128(1), payload());
        assert_eq!(old.inner.insert(&claim, ahead).await.unwrap(), Inserted::Claimed);
        let change = Change::Complete { response: "done".into(), retention: claim.retention };
        old.inner.update(&Update::new(id(1), claim.owner, change), ahead).await.unwrap();
        let tracker = spawn(old.clone()).await;
        tracker.swap(new.clone(), copy()).await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!(new.inner.len(), 1);
    });
}
