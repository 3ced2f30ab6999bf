//! Ten thousand callers that die in each of three ways, on real threads: every key is settled within a second, none is
//! stuck, and no work is done twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency_core::{HaltReason, State, Store};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{Tracked, Tracker, TrackerHandle};
use tokio::{sync::Semaphore, time::Instant};

use crate::support::*;

const CALLERS: u64 = 10_000;

#[derive(Debug, Clone, Copy)]
enum Death {
    Drop,
    Abort,
    Panic,
}

#[test]
fn callers_that_drop_their_permit() {
    all_settle(Death::Drop);
}

#[test]
fn callers_whose_task_is_aborted() {
    all_settle(Death::Abort);
}

#[test]
fn callers_that_panic() {
    all_settle(Death::Panic);
}

fn all_settle(death: Death) {
    // Ten thousand messages of planned panics would bury all others.
    if matches!(death, Death::Panic) {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() != Some(&"planned") {
                hook(info);
            }
        }));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(MemoryStore::new());
        let tracker = Tracker::builder(store.clone()).max_in_flight(CALLERS as usize).spawn().await.unwrap();
        let works = Arc::new(AtomicUsize::new(0));
        // All hold a permit before the first one dies.
        let all_hold = Arc::new(Semaphore::new(0));
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                tokio::spawn(caller(tracker.clone(), number, works.clone(), all_hold.clone(), death))
            })
            .collect();
        while works.load(Ordering::SeqCst) < CALLERS as usize {
            tokio::task::yield_now().await;
        }
        assert_eq!(tracker.status().await.unwrap().live, CALLERS as usize);

        let died = Instant::now();
        all_hold.add_permits(CALLERS as usize);
        for caller in callers {
            if matches!(death, Death::Abort) {
                caller.abort();
            }
            let _ = caller.await;
        }
        while tracker.status().await.unwrap().live > 0 {
            assert!(died.elapsed() < Duration::from_secs(10), "stuck: {:?}", tracker.status().await);
            tokio::task::yield_now().await;
        }
        let settled_within = died.elapsed();

        // Every retry hears that the outcome is unknown; none works again.
        for number in 0..CALLERS {
            match tracker.track((id(number), payload())).await.unwrap() {
                Tracked::Halted { reason, .. } => {
                    let expected = match death {
                        Death::Drop | Death::Abort => HaltReason::Cancelled,
                        Death::Panic => HaltReason::Panicked,
                    };
                    assert_eq!(reason, expected);
                }
                other => panic!("{number}: {other:?}"),
            }
            let record = store.lookup(&id(number), tracker.clock().now()).await.unwrap().unwrap();
            assert!(matches!(record.state, State::Halted(_)));
        }
        assert_eq!(works.load(Ordering::SeqCst), CALLERS as usize);
        eprintln!("{death:?}: {CALLERS} callers settled within {settled_within:?}, 0 stuck, no work twice");
        assert!(settled_within < Duration::from_secs(1), "{settled_within:?}");
        tracker.shutdown(Duration::from_secs(5)).await.unwrap();
    });
}

async fn caller(
    tracker: TrackerHandle,
    number: u64,
    works: Arc<AtomicUsize>,
    all_hold: Arc<Semaphore>,
    death: Death,
) {
    let permit = init(&tracker, id(number)).await;
    works.fetch_add(1, Ordering::SeqCst);
    if matches!(death, Death::Abort) {
        std::future::pending::<()>().await;
    }
    let _ = all_hold.acquire().await;
    match death {
        Death::Panic => std::panic::panic_any("planned"),
        Death::Drop | Death::Abort => drop(permit),
    }
}
