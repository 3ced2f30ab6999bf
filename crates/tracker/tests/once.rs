//! One call for the whole.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency_core::{HaltReason, Meta};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{OnOrphan, Once, Outcome, Track};
use tokio::{sync::oneshot, time::sleep};

use crate::support::*;

#[test]
fn the_work_runs_once_and_its_response_is_replayed() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let runs = Arc::new(AtomicUsize::new(0));
        for replayed in [false, true, true] {
            let runs = runs.clone();
            let work = move || async move {
                runs.fetch_add(1, Ordering::SeqCst);
                Outcome::<()>::done("done")
            };
            let once = tracker.once(id(1), payload(), work).await.unwrap();
            let expires_at = Some(tracker.clock().now() + time::Duration::DAY);
            assert_eq!(
                once,
                Once::Done { response: "done".into(), replayed, expires_at, meta: Meta::default() }
            );
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let other =
            tracker.once(id(1), other_payload(), || async { Outcome::<()>::done("never") }).await.unwrap();
        assert!(matches!(other, Once::Mismatch { .. }));
    });
}

#[test]
fn the_work_says_what_became_of_it() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let not_done =
            tracker.once(id(1), payload(), || async { Outcome::NotDone("refused") }).await.unwrap();
        assert_eq!(not_done, Once::NotDone("refused"));
        let again =
            tracker.once(id(1), payload(), || async { Outcome::Unknown("connection lost") }).await.unwrap();
        assert_eq!(again, Once::Unknown("connection lost"));
        let retry = tracker.once(id(1), payload(), || async { Outcome::<()>::done("never") }).await.unwrap();
        assert!(matches!(retry, Once::Halted { reason: HaltReason::Unknown, .. }));
    });
}

#[test]
fn a_panic_in_the_work_reaches_nobody_and_halts_the_request() {
    virtual_time(async {
        let tracker = builder(MemoryStore::new()).on_orphan(OnOrphan::Rerun).spawn().await.unwrap();
        let early =
            tracker.once(id(1), payload(), || -> std::future::Ready<Outcome<()>> { panic!("as planned") });
        assert_eq!(early.await.unwrap(), Once::Panicked);
        let late = tracker.once::<_, _, ()>(id(2), payload(), || async {
            sleep(Duration::from_secs(1)).await;
            panic!("as planned")
        });
        assert_eq!(late.await.unwrap(), Once::Panicked);
        for number in [1, 2] {
            assert_eq!(outcome(&tracker, id(number)).await, "halted panicked");
        }
    });
}

#[test]
fn a_caller_who_goes_away_does_not_stop_the_work() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let (begun, has_begun) = oneshot::channel();
        let work = || async {
            begun.send(()).unwrap();
            sleep(Duration::from_secs(30)).await;
            Outcome::<()>::done("done")
        };
        let mut caller = Box::pin(tracker.once(id(1), payload(), work));
        tokio::select! {
            _ = &mut caller => panic!("it takes longer"),
            _ = has_begun => {}
        }
        drop(caller);
        assert_eq!(outcome(&tracker, id(1)).await, "processing");
        sleep(Duration::from_secs(31)).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn work_that_is_not_send_runs_where_it_is_asked_for() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let here = Rc::new("here");
        let work = |lease: idempotency_tracker::Lease| async move {
            assert!(lease.is_held());
            Outcome::<()>::done(*here)
        };
        let once = tracker.once_local(Track::new(id(1), payload()), work).await.unwrap();
        let expires_at = Some(tracker.clock().now() + time::Duration::DAY);
        assert_eq!(
            once,
            Once::Done { response: "here".into(), replayed: false, expires_at, meta: Meta::default() }
        );
    });
}

#[test]
fn the_response_goes_out_although_the_store_is_down() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let down = store.clone();
        let work = move || async move {
            down.down(Fault::FailBefore);
            Outcome::<()>::done("done")
        };
        let before = tokio::time::Instant::now();
        let once = tracker.once(id(1), payload(), work).await.unwrap();
        assert_eq!(
            once,
            Once::Done { response: "done".into(), replayed: false, expires_at: None, meta: Meta::default() }
        );
        assert!(
            before.elapsed() <= Duration::from_millis(1100),
            "{:?}: put_patience and a little",
            before.elapsed()
        );
        store.well();
        sleep(Duration::from_secs(3)).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}
