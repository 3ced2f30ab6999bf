//! A tracker actor that dies by a bug: here its clock panics.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use idempotency_core::{Clock, SystemClock, TokioClock};
use idempotency_tracker::{
    Builder, Error, ErrorKind, OnConcurrent, Once, Outcome, Placement, Settled, SwapPolicy, Track, Tracked,
    Tracker, TrackerHandle,
};
use time::OffsetDateTime;
use tokio::{
    task::{spawn_local, yield_now},
    time::{Instant, sleep},
};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Panics once when it is told to, where an actor reads it.
#[derive(Clone)]
struct Bug<C> {
    clock: Arc<C>,
    strikes: Arc<AtomicBool>,
    /// The thread that it strikes on; any if there is but one.
    on: Option<&'static str>,
}

impl<C: Clock> Bug<C> {
    fn new(clock: C, on: Option<&'static str>) -> Self {
        Self { clock: Arc::new(clock), strikes: Arc::default(), on }
    }

    fn strike(&self) {
        self.strikes.store(true, Ordering::SeqCst);
    }
}

impl<C: Clock> Clock for Bug<C> {
    fn now(&self) -> OffsetDateTime {
        let is_there = self.on.is_none_or(|name| thread::current().name() == Some(name));
        if is_there && self.strikes.swap(false, Ordering::SeqCst) {
            panic!("a bug, as planned");
        }
        self.clock.now()
    }
}

impl<C> fmt::Debug for Bug<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bug")
    }
}

fn with_a_bug(store: FaultyStore) -> (Builder<FaultyStore>, Bug<TokioClock>) {
    let bug = Bug::new(TokioClock::new(), None);
    (Tracker::builder(store).placement(Placement::Local).clock(bug.clone()), bug)
}

/// Strikes at the next message, which is answered by another actor.
async fn dies(tracker: &TrackerHandle, bug: &Bug<TokioClock>, times: u64) {
    bug.strike();
    assert_eq!(tracker.status().await.unwrap().replaced, times);
}

#[test]
fn a_dead_actor_is_replaced_and_its_claims_are_kept_and_renewed() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, bug) = with_a_bug(store.clone());
        let tracker = tracker.spawn().await.unwrap();
        let permits = [init(&tracker, id(1)).await, init(&tracker, id(2)).await, init(&tracker, id(3)).await];
        for times in 1..=3 {
            dies(&tracker, &bug, times).await;
            assert_eq!(outcome(&tracker, id(1)).await, "processing");
            sleep(60 * SECOND).await;
            assert!(permits.iter().all(idempotency_tracker::Permit::is_held), "after {times}");
            assert_eq!(tracker.status().await.unwrap().live, 3);
        }
        let [done, halted, released] = permits;
        assert_eq!(done.complete("done").await.unwrap(), Settled::Stored);
        drop(halted);
        assert_eq!(released.release().await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!(outcome(&tracker, id(2)).await, "halted cancelled");
        assert_eq!(outcome(&tracker, id(3)).await, "init");
        // Its address is another one; who has a handle does not notice.
        assert!(matches!(
            tracker.addr().send(Track::new(id(1), payload())).await,
            Ok(Ok(Tracked::Cached { .. }))
        ));
    });
}

trait Asked {
    fn is_unavailable(&self) -> bool;
}

impl<T> Asked for Result<T, Error> {
    fn is_unavailable(&self) -> bool {
        self.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::Unavailable { .. }))
    }
}

#[test]
fn a_result_that_was_said_is_stored_whenever_the_actor_dies() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, bug) = with_a_bug(store.clone());
        let tracker = tracker.spawn().await.unwrap();
        // Not taken in yet; on its way; and refused by the store so far.
        let permit = init(&tracker, id(1)).await;
        bug.strike();
        assert_eq!(permit.complete("unread").await.unwrap(), Settled::Stored, "the next one reads it");
        let permit = init(&tracker, id(2)).await;
        store.always("complete", Fault::Delay(SECOND / 2));
        let settling = permit.complete("under way");
        sleep(SECOND / 10).await;
        dies(&tracker, &bug, 2).await;
        assert_eq!(settling.await.unwrap(), Settled::Deferred, "who knew of it has died");
        store.well();
        let permit = init(&tracker, id(3)).await;
        store.down(Fault::FailBefore);
        assert_eq!(permit.complete("deferred").await.unwrap(), Settled::Deferred);
        dies(&tracker, &bug, 3).await;
        assert_eq!(outcome(&tracker, id(3)).await, "cached b\"deferred\"");
        store.well();
        sleep(5 * SECOND).await;
        for (number, said) in [(1, "unread"), (2, "under way"), (3, "deferred")] {
            assert_eq!(outcome(&tracker, id(number)).await, format!("cached b\"{said}\""));
        }
        assert_eq!(tracker.status().await.unwrap().live, 0);
    });
}

#[test]
fn a_result_of_a_claim_that_had_ended_is_stored_too() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, bug) = with_a_bug(store.clone());
        let tracker = tracker.work_limit(20 * SECOND).spawn().await.unwrap();
        let permit = init(&tracker, id(1)).await;
        sleep(60 * SECOND).await;
        assert_eq!(tracker.status().await.unwrap().live, 0, "it took too long");
        store.down(Fault::FailBefore);
        assert_eq!(permit.complete("late").await.unwrap(), Settled::Deferred);
        dies(&tracker, &bug, 1).await;
        store.well();
        sleep(5 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"late\"");
    });
}

#[test]
fn a_claim_that_was_on_its_way_blocks_nobody() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, bug) = with_a_bug(store.clone());
        let tracker = tracker.spawn().await.unwrap();
        store.always("insert", Fault::Delay(SECOND / 2));
        let asks = spawn_local({
            let tracker = tracker.clone();
            async move { tracker.track((id(1), payload())).await }
        });
        sleep(SECOND / 10).await;
        dies(&tracker, &bug, 1).await;
        assert!(asks.await.unwrap().is_unavailable(), "nothing was begun");
        store.well();
        sleep(SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "init", "and so is nothing halted");
    });
}

#[test]
fn whoever_waits_hears_that_the_actor_died_and_a_shutdown_goes_on() {
    virtual_time(async {
        let store = FaultyStore::new();
        let (tracker, bug) = with_a_bug(store.clone());
        let tracker = tracker.spawn().await.unwrap();
        let permit = init(&tracker, id(1)).await;
        let waits = Track::new(id(1), payload()).on_concurrent(OnConcurrent::Wait { at_most: 60 * SECOND });
        let asks = spawn_local({
            let tracker = tracker.clone();
            async move { tracker.track(waits).await }
        });
        sleep(SECOND).await;
        dies(&tracker, &bug, 1).await;
        assert!(asks.await.unwrap().is_unavailable());
        let shutdown = spawn_local({
            let tracker = tracker.clone();
            async move { tracker.shutdown(10 * SECOND).await }
        });
        sleep(SECOND).await;
        let before = Instant::now();
        dies(&tracker, &bug, 2).await;
        sleep(SECOND).await;
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
        assert_eq!(shutdown.await.unwrap().unwrap().unsettled, 0);
        assert!(before.elapsed() < 3 * SECOND && store.was_closed());
    });
}

#[test]
fn a_swap_ends_with_the_actor_that_it_was_asked_of_and_can_be_asked_for_again() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let (tracker, bug) = with_a_bug(old.clone());
        let tracker = tracker.spawn().await.unwrap();
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        let permit = init(&tracker, id(2)).await;
        old.always("scan", Fault::Delay(SECOND));
        let swap = spawn_local({
            let (tracker, new) = (tracker.clone(), new.clone());
            async move { tracker.swap(new, SwapPolicy::copy("the new store")).await }
        });
        sleep(SECOND / 2).await;
        dies(&tracker, &bug, 1).await;
        // Written by the new actor, of which the swap knows nothing.
        init(&tracker, id(3)).await.complete("meanwhile").await.unwrap();
        let failed = swap.await.unwrap().unwrap_err();
        assert!(failed.is_retryable() || matches!(failed.kind(), ErrorKind::NotSwapped(_)), "{failed:?}");
        assert_eq!(outcome(&tracker, id(3)).await, "cached b\"meanwhile\"");
        // The next one takes all along, and the actor after it goes on with the new store.
        old.well();
        let another = FaultyStore::new();
        let report = tracker.swap(another.clone(), SwapPolicy::copy("another store")).await.unwrap();
        assert_eq!(report.live, 1);
        dies(&tracker, &bug, 2).await;
        permit.complete("carried").await.unwrap();
        for (number, said) in [(1, "done"), (2, "carried"), (3, "meanwhile")] {
            assert_eq!(outcome(&tracker, id(number)).await, format!("cached b\"{said}\""));
        }
        assert!(another.calls("complete") == 1 && new.calls("complete") == 0);
    });
}

/// How often keys are asked for between two panics, each twice.
const ASKED_A_ROUND: usize = 400;

/// How much of it is done otherwise: a tenth.
fn soak(count: usize) -> usize {
    if std::env::var_os("IDEMPOTENCY_SOAK").is_some() { count } else { count / 10 }
}

/// Callers work on keys of their own, twice each, while backends and actors panic and stores are swapped.
#[test]
fn i11_panics_of_backends_and_of_the_actor_and_swaps_under_load_lose_nothing_and_run_nothing_twice() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bug = Bug::new(SystemClock::new(), Some("idempotency-tracker"));
        let mut store = FaultyStore::new();
        let tracker = Tracker::builder(store.clone()).clock(bug.clone()).spawn().await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let runs = Arc::new(Mutex::new(HashMap::<u64, usize>::new()));
        let acknowledged = Arc::new(Mutex::new(HashMap::<u64, bytes::Bytes>::new()));
        let next = Arc::new(AtomicUsize::new(0));
        // What was done is copied by each swap: the callers keep pace with the panics.
        let allowed = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..32)
            .map(|_| {
                let (tracker, over, runs, next) = (tracker.clone(), over.clone(), runs.clone(), next.clone());
                let (acknowledged, allowed) = (acknowledged.clone(), allowed.clone());
                tokio::spawn(async move {
                    while !over.load(Ordering::SeqCst) {
                        if next.load(Ordering::SeqCst) >= allowed.load(Ordering::SeqCst) {
                            sleep(Duration::from_millis(1)).await;
                            continue;
                        }
                        let number = next.fetch_add(1, Ordering::SeqCst) as u64 / 2;
                        let runs = runs.clone();
                        let work = move || async move {
                            *runs.lock().unwrap().entry(number).or_default() += 1;
                            sleep(Duration::from_millis(number % 5)).await;
                            Outcome::<()>::done(format!("{number}"))
                        };
                        match tracker.once(id(number), payload(), work).await {
                            Ok(Once::Done { response, .. }) => {
                                let said = response.bytes().unwrap().clone();
                                assert_eq!(said, format!("{number}"));
                                acknowledged.lock().unwrap().insert(number, said);
                            }
                            Ok(Once::Processing { .. }) => {}
                            Err(error) => {
                                assert!(error.is_retryable(), "{error:?}");
                                sleep(Duration::from_millis(1)).await;
                            }
                            other => panic!("{number}: {other:?}"),
                        }
                    }
                })
            })
            .collect();
        let (backend_panics, swaps, deaths) = (soak(1_000), soak(100), soak(50));
        let (mut longest, mut panicked) = (Duration::ZERO, 0);
        for round in 0..backend_panics {
            allowed.store(next.load(Ordering::SeqCst) + ASKED_A_ROUND, Ordering::SeqCst);
            if round * swaps / backend_panics != (round + 1) * swaps / backend_panics {
                // It does not happen while the backend that has just panicked is replaced.
                for attempt in 0.. {
                    let new = FaultyStore::new();
                    match tracker.swap(new.clone(), SwapPolicy::copy("the next store")).await {
                        Ok(_) => {
                            store = new;
                            break;
                        }
                        Err(error) => {
                            assert!(attempt < 20, "{error:?}: {:?}", std::error::Error::source(&error));
                            sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            }
            let since = Instant::now();
            if round * deaths / backend_panics != (round + 1) * deaths / backend_panics {
                bug.strike();
                while bug.strikes.load(Ordering::SeqCst) {
                    allowed.fetch_add(1, Ordering::SeqCst);
                    yield_now().await;
                }
            }
            let struck = Arc::new(AtomicBool::new(false));
            let strikes = struck.clone();
            store.plan(move |_| (!strikes.swap(true, Ordering::SeqCst)).then_some(Fault::Panic));
            while !struck.load(Ordering::SeqCst) {
                // Somebody must ask, and a swap may have taken so long that all have done their share.
                allowed.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
            }
            panicked += 1;
            store.well();
            // Service again: somebody new is answered.
            let probe = u64::MAX - round as u64;
            while tracker.once(id(probe), payload(), || async { Outcome::<()>::done("") }).await.is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            longest = longest.max(since.elapsed());
        }
        over.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        let replaced = tracker.status().await.unwrap().replaced;
        let acknowledged = acknowledged.lock().unwrap().clone();
        for (number, said) in &acknowledged {
            match tracker.track((id(*number), payload())).await {
                Ok(Tracked::Cached { response, .. }) => assert_eq!(response.bytes(), Some(said)),
                other => panic!("{number} was acknowledged, and now {other:?}"),
            }
        }
        let twice = runs.lock().unwrap().values().filter(|runs| **runs > 1).count();
        eprintln!(
            "{panicked} backend panics, {swaps} swaps, {replaced} actors replaced: {} answered, 0 lost, {twice} twice; \
             the longest until somebody was served again: {longest:?}",
            acknowledged.len()
        );
        assert_eq!((twice, replaced as usize), (0, deaths));
        assert!(acknowledged.len() > 100);
        tracker.shutdown(SECOND).await.unwrap();
    });
}
