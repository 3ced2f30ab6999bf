//! Swaps while many are at work.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency_tracker::{Once, Outcome, Settled, SwapPolicy, Track, Tracked, Tracker};
use tokio::time::sleep;

use crate::support::*;

fn copy() -> SwapPolicy {
    SwapPolicy::copy("the new store")
}

/// Callers work on keys of their own and on shared ones, twice each, while backends are swapped and panic.
#[test]
fn twenty_swaps_and_twenty_panics_under_load_lose_nothing_and_run_nothing_twice() {
    twenty_swaps_and_twenty_panics(false);
}

#[test]
fn twenty_swaps_and_twenty_panics_of_stores_that_never_wait_lose_nothing_and_run_nothing_twice() {
    twenty_swaps_and_twenty_panics(true);
}

fn twenty_swaps_and_twenty_panics(immediate: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = FaultyStore::new().immediate(immediate);
        let tracker = Tracker::builder(store.clone()).spawn().await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let runs = Arc::new(Mutex::new(HashMap::<u64, usize>::new()));
        let acknowledged = Arc::new(Mutex::new(HashSet::<u64>::new()));
        let panics = Arc::new(AtomicUsize::new(0));
        let next = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..32)
            .map(|_| {
                let (tracker, over, runs, next) = (tracker.clone(), over.clone(), runs.clone(), next.clone());
                let acknowledged = acknowledged.clone();
                tokio::spawn(async move {
                    while !over.load(Ordering::SeqCst) {
                        let number = next.fetch_add(1, Ordering::SeqCst) as u64 / 2;
                        let runs = runs.clone();
                        let work = move || async move {
                            *runs.lock().unwrap().entry(number).or_default() += 1;
                            sleep(Duration::from_millis(number % 5)).await;
                            Outcome::<()>::done(format!("{number}"))
                        };
                        // Anything but a wrong answer: a store that panics may be unavailable for a moment.
                        if let Ok(Once::Done { response, .. }) =
                            tracker.once(id(number), payload(), work).await
                        {
                            assert_eq!(response.bytes().unwrap(), &format!("{number}"));
                            acknowledged.lock().unwrap().insert(number);
                        }
                    }
                })
            })
            .collect();
        let counted = panics.clone();
        let (mut current, mut longest, mut swaps) = (store, Duration::ZERO, 0);
        for round in 0..40 {
            sleep(Duration::from_millis(15)).await;
            if round % 2 == 0 {
                let (panicked, panics) = (AtomicBool::new(false), panics.clone());
                let name = ["insert", "complete", "renew or lookup"][round / 2 % 3];
                let before = panics.load(Ordering::SeqCst);
                current.plan(move |command| {
                    let panics_now = name.contains(command.name()) && !panicked.swap(true, Ordering::SeqCst);
                    panics.fetch_add(usize::from(panics_now), Ordering::SeqCst);
                    panics_now.then_some(Fault::Panic)
                });
                // A lookup comes with the next swap, or when somebody asks.
                let _ = tracker.lookup(id(0)).await;
                while counted.load(Ordering::SeqCst) == before {
                    sleep(Duration::from_millis(1)).await;
                }
                continue;
            }
            let new = FaultyStore::new().immediate(immediate);
            // A panic may be in its way; then nothing has changed and it is tried again.
            let mut attempts = 0;
            let report = loop {
                let policy = if swaps % 2 == 0 { copy() } else { SwapPolicy::read_through("the new store") };
                match tracker.swap(new.clone(), policy).await {
                    Ok(report) => break report,
                    Err(error) => {
                        attempts += 1;
                        assert!(attempts < 50, "{error}");
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            };
            (longest, swaps) = (longest.max(report.pause), swaps + 1);
            current = new;
        }
        over.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        let runs = runs.lock().unwrap().clone();
        let acknowledged = acknowledged.lock().unwrap().clone();
        let panics = panics.load(Ordering::SeqCst);
        eprintln!(
            "{swaps} swaps and {panics} panics, {} keys, {} acknowledged, longest pause {longest:?}",
            runs.len(),
            acknowledged.len()
        );
        assert!(swaps == 20 && panics == 20 && runs.len() > 500 && acknowledged.len() > 400);
        assert!(runs.values().all(|count| *count == 1), "something ran twice");
        for number in runs.keys() {
            let retry = tracker.track(Track::new(id(*number), payload())).await.unwrap();
            match retry {
                Tracked::Cached { response, .. } => {
                    assert_eq!(response.bytes().unwrap(), &format!("{number}"));
                }
                // Of what was acknowledged nothing is lost.
                Tracked::Halted { .. } if !acknowledged.contains(number) => {}
                other => panic!("{number}: {other:?}"),
            }
        }
    });
}

/// What is settled is forgotten, as it was said; what runs is not.
#[test]
fn swaps_under_load_that_forget_what_is_settled_lose_nothing_that_runs() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let tracker = Tracker::builder(FaultyStore::new()).spawn().await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..16u64)
            .map(|caller| {
                let (tracker, over) = (tracker.clone(), over.clone());
                tokio::spawn(async move {
                    for number in (0u64..).map(|round| round * 16 + caller) {
                        if over.load(Ordering::SeqCst) {
                            return number / 16;
                        }
                        let permit = init(&tracker, id(number)).await;
                        sleep(Duration::from_millis(number % 7)).await;
                        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored, "{number}");
                    }
                    unreachable!("it goes on until it is over")
                })
            })
            .collect();
        for _ in 0..10 {
            sleep(Duration::from_millis(20)).await;
            tracker.swap(FaultyStore::new(), SwapPolicy::forget_settled("new")).await.unwrap();
        }
        over.store(true, Ordering::SeqCst);
        for caller in callers {
            assert!(caller.await.unwrap() > 5, "it worked all the time");
        }
    });
}
