//! From any thread and any runtime, also without one.

use std::{thread, time::Duration};

use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{Once, Outcome, Settled, Tracked, Tracker};

use crate::support::*;

#[test]
fn it_works_where_there_is_no_runtime_at_all() {
    let store = FaultyStore::new();
    let tracker = block_on(Tracker::builder(store.clone()).spawn()).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let tracker = tracker.clone();
            thread::spawn(move || {
                block_on(async {
                    init(&tracker, id(number)).await.complete("done").await.unwrap();
                    let once =
                        tracker.once(id(100 + number), payload(), || async { Outcome::<()>::done("once") });
                    assert!(matches!(once.await, Ok(Once::Done { replayed: false, .. })));
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    block_on(tracker.shutdown(Duration::from_secs(5))).unwrap();
    assert!(store.was_closed());
}

#[test]
fn one_handle_serves_several_runtimes_and_outlives_the_one_it_came_from() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let tracker = first.block_on(Tracker::builder(MemoryStore::new()).spawn()).unwrap();
    first.block_on(async { init(&tracker, id(1)).await.complete("done").await.unwrap() });
    drop(first);
    let second = runtime();
    assert_eq!(second.block_on(outcome(&tracker, id(1))), "cached b\"done\"");
    second.block_on(tracker.shutdown(Duration::from_secs(5))).unwrap();
}

#[test]
fn when_the_runtime_of_a_store_is_gone_callers_hear_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tracker = runtime.block_on(async {
        Tracker::builder(FaultyStore::new()).store_limit(Duration::from_millis(100)).spawn().await.unwrap()
    });
    drop(runtime);
    let error = block_on(tracker.track((id(1), payload()))).unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(block_on(tracker.lookup(id(1))).is_err());
    block_on(tracker.shutdown(Duration::ZERO)).unwrap();
}

#[test]
fn a_store_that_blocks_its_thread_stops_no_renewal() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = FaultyStore::new();
        let tracker = Tracker::builder(store.clone())
            .lease(Duration::from_millis(300))
            .store_limit(Duration::from_millis(100))
            .spawn()
            .await
            .unwrap();
        let permit = init(&tracker, id(1)).await;
        let mut blocked = false;
        store.plan(move |command| {
            let first = command.id() == Some(&id(2)) && !std::mem::replace(&mut blocked, true);
            first.then_some(Fault::Block(Duration::from_secs(1)))
        });
        let caller = tokio::spawn(tracker.track((id(2), payload())));
        assert!(tokio::time::timeout(Duration::from_millis(800), permit.lost()).await.is_err());
        assert!(permit.is_held());
        assert!(
            caller.await.unwrap().is_err(),
            "it heard so in time, and not when its thread was free again"
        );
        permit.complete("done").await.unwrap();
        assert!(matches!(tracker.track((id(1), payload())).await, Ok(Tracked::Cached { .. })));
        tracker.shutdown(Duration::from_secs(5)).await.unwrap();
    });
}

#[test]
fn without_a_runtime_of_the_application_a_result_is_stored_after_the_last_handle_is_gone() {
    let store = FaultyStore::new();
    let tracker = block_on(Tracker::builder(store.clone()).spawn()).unwrap();
    let permit = block_on(init(&tracker, id(1)));
    drop(tracker);
    assert_eq!(block_on(permit.complete("done")).unwrap(), Settled::Stored);
    while !store.was_closed() {
        thread::yield_now();
    }
}

#[test]
fn a_start_that_nobody_waits_for_any_more_leaves_no_tracker_behind() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = FaultyStore::new();
    store.always("setup", Fault::Delay(Duration::from_millis(50)));
    runtime.block_on(async {
        let spawn = Tracker::builder(store.clone()).spawn();
        assert!(tokio::time::timeout(Duration::from_millis(10), spawn).await.is_err());
        while !store.was_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
