//! Another backend under a running tracker loses no claim and no response (I11).

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use idempotency_core::*;
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{
    ErrorKind, Forgotten, OnOrphan, Settled, Swap, SwapPolicy, Track, Tracked, Tracker,
};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::support::*;

fn copy() -> SwapPolicy {
    SwapPolicy::copy("the new store")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(swapped: Result<T, idempotency_tracker::Error>, reason: &str) {
    match swapped.unwrap_err().kind() {
        ErrorKind::NotSwapped(said) => assert!(said.contains(reason), "{said}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settled_running_and_halted_requests_come_along() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        init(&tracker, id(2)).await.halt(HaltReason::Panicked).await.unwrap();
        let running = init(&tracker, id(3)).await;
        init(&tracker, id(4)).await.release().await.unwrap();
        for number in 100..700 {
            init(&tracker, id(number)).await.complete("many").await.unwrap();
        }

        let report = tracker.swap(new.clone(), copy()).await.unwrap();
        assert_eq!((report.copied, report.live, report.retired), (603, 1, true));
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!(outcome(&tracker, id(2)).await, "halted panicked");
        assert_eq!(outcome(&tracker, id(3)).await, "processing");
        assert_eq!(outcome(&tracker, id(699)).await, "cached b\"many\"");
        assert!(running.is_held());
        // Renewed and completed where it is now.
        sleep(Duration::from_secs(60)).await;
        assert!(running.is_held());
        assert_eq!(running.complete("late").await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(3)).await, "cached b\"late\"");
        assert_eq!(new.inner.len(), 603);
        assert!(old.was_closed());

        // The old one refuses, and what ran there is free of its claim.
        let moved = Tracker::builder(old.inner.clone()).spawn().await.unwrap_err();
        let source = std::error::Error::source(&moved).unwrap().to_string();
        assert!(source.contains("the new store"), "{source}");
        assert_eq!(old.inner.lookup(&id(3), tracker.clock().now()).await.unwrap(), None);
    });
}

#[test]
fn what_changes_during_the_copy_is_copied_again() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = builder(old.clone()).on_orphan(OnOrphan::Rerun).spawn().await.unwrap();
        let completed_later = init(&tracker, id(1)).await;
        let released_later = init(&tracker, id(2)).await;
        init(&tracker, id(3)).await.complete("forgotten later").await.unwrap();
        drop(init(&tracker, id(4)).await);
        let forgotten = tracker.lookup(id(3)).await.unwrap().unwrap().owner;
        // The first page takes its time.
        new.always("restore", Fault::Delay(Duration::from_millis(500)));
        let swapping = tokio::task::spawn_local({
            let (tracker, new) = (tracker.clone(), new.clone());
            async move { tracker.swap(new, copy()).await }
        });
        sleep(Duration::from_millis(100)).await;
        assert_eq!(tracker.status().await.unwrap().swapping, Some(0));
        completed_later.complete("done").await.unwrap();
        released_later.release().await.unwrap();
        assert_eq!(tracker.forget(id(3), forgotten, "a test").await.unwrap(), Forgotten::Forgotten);
        let taken_over = init(&tracker, id(4)).await;
        init(&tracker, id(5)).await.complete("new").await.unwrap();

        let report = swapping.await.unwrap().unwrap();
        assert!(report.carried >= 3, "{report:?}");
        assert_eq!(tracker.status().await.unwrap().swapping, None);
        new.well();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!(outcome(&tracker, id(4)).await, "processing");
        assert_eq!(outcome(&tracker, id(5)).await, "cached b\"new\"");
        for free in [2, 3] {
            init(&tracker, id(free)).await.release().await.unwrap();
        }
        assert_eq!(taken_over.complete("again").await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(4)).await, "cached b\"again\"");
    });
}

#[test]
fn a_swap_that_makes_no_sense_is_refused_and_nothing_changes() {
    virtual_time(async {
        let tracker = spawn(FaultyStore::new()).await;
        let running = init(&tracker, id(1)).await;

        let slow = FaultyStore::new();
        slow.always("setup", Fault::Delay(Duration::from_secs(1)));
        let first = tokio::task::spawn_local({
            let (tracker, slow) = (tracker.clone(), slow.clone());
            async move { tracker.swap(slow, copy()).await }
        });
        sleep(Duration::from_millis(10)).await;
        refused(tracker.swap(FaultyStore::new(), copy()).await, "another swap is under way");
        first.await.unwrap().unwrap();

        refused(tracker.swap(Opaque, copy()).await, "nothing can be restored");
        let broken = FaultyStore::new();
        broken.always("setup", Fault::Refuse(StoreErrorKind::WrongSecret));
        refused(tracker.swap(broken, copy()).await, "refused to be set up");
        assert_eq!(outcome(&tracker, id(1)).await, "processing");
        assert_eq!(running.complete("done").await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");

        let tracker = spawn(Declares { shared: true, ..Declares::default() }).await;
        refused(tracker.swap(FaultyStore::new(), copy()).await, "sole_user");
        tracker.swap(FaultyStore::new(), copy().sole_user()).await.unwrap();
        let durable = Durability::new(Survives::PowerLoss, 0);
        let tracker = spawn(Declares { durability: durable, ..Declares::default() }).await;
        refused(tracker.swap(FaultyStore::new(), copy()).await, "allow_less_durable");
        tracker.swap(FaultyStore::new(), copy().allow_less_durable()).await.unwrap();
        let tracker = spawn(Opaque).await;
        refused(tracker.swap(FaultyStore::new(), copy()).await, "cannot be scanned");
    });
}

/// A late copy of what was repeated would undo what is written after it.
#[test]
fn a_swap_that_had_to_repeat_a_batch_is_none() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new().batching());
        let tracker = spawn(old.clone()).await;
        for number in 1..=3 {
            init(&tracker, id(number)).await.complete("done").await.unwrap();
        }
        let mut left = Some(Fault::HangAfter);
        new.plan(move |command| (command.name() == "restore").then(|| left.take())?);
        refused(tracker.swap(new.clone(), copy()).await, "a record cannot be copied");
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        let report = tracker.swap(new.clone(), copy()).await.unwrap();
        assert_eq!(report.copied, 3);
        assert_eq!(outcome(&tracker, id(3)).await, "cached b\"done\"");
    });
}

/// Fails at one of the stages; afterwards everything is as it was.
#[test]
fn a_swap_that_fails_half_way_leaves_everything_as_it_was() {
    for (store, call, fault) in [
        ("new", "restore", Fault::FailBefore),
        ("new", "restore", Fault::FailAfter),
        ("new", "restore", Fault::Hang),
        ("new", "restore", Fault::Panic),
        ("new", "lookup", Fault::FailBefore),
        ("old", "scan", Fault::FailBefore),
        ("old", "lookup", Fault::FailBefore),
        ("old", "lookup", Fault::Hang),
        ("old", "lookup", Fault::Panic),
    ] {
        virtual_time(async {
            let (old, new) = (FaultyStore::new(), FaultyStore::new());
            let tracker = spawn(old.clone()).await;
            init(&tracker, id(1)).await.complete("done").await.unwrap();
            let running = init(&tracker, id(2)).await;
            let faulty = if store == "new" { &new } else { &old };
            faulty.always(call, fault);
            let swapped = tracker.swap(new.clone(), copy()).await;
            assert!(swapped.is_err(), "{store} {call} {fault:?}");
            faulty.well();
            sleep(Duration::from_secs(30)).await;
            assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"", "{store} {call} {fault:?}");
            assert!(running.is_held(), "{store} {call} {fault:?}");
            assert_eq!(running.complete("late").await.unwrap(), Settled::Stored);
            assert_eq!(outcome(&tracker, id(2)).await, "cached b\"late\"");
            // No claim is left behind that nobody holds; and the next attempt succeeds.
            let report = tracker.swap(FaultyStore::new(), copy()).await.unwrap();
            assert_eq!((report.copied, report.live), (2, 0), "{store} {call} {fault:?}");
            assert_eq!(outcome(&tracker, id(2)).await, "cached b\"late\"");
        });
    }
}

#[test]
fn a_copy_that_breaks_off_leaves_no_claim_behind_in_the_new_store() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        // The store in memory is scanned in the order of expiry: this one comes first.
        let first = Track::new(id(1), payload()).retention(Duration::from_secs(60));
        let Ok(Tracked::Init(running)) = tracker.track(first).await else { panic!() };
        for number in 100..300 {
            init(&tracker, id(number)).await.complete("done").await.unwrap();
        }
        // The last page is not read.
        let pages = AtomicUsize::new(0);
        old.plan(move |command| {
            let is_scan = matches!(command, StoreCommand::Scan { .. });
            (is_scan && pages.fetch_add(1, Ordering::SeqCst) == 3).then_some(Fault::FailBefore)
        });
        refused(tracker.swap(new.clone(), copy()).await, "cannot be scanned");
        assert!(new.inner.len() > 100, "the pages before were copied");
        assert_eq!(new.inner.lookup(&id(1), tracker.clock().now()).await.unwrap(), None);
        running.release().await.unwrap();
        // Nor is it found there by the next attempt.
        tracker.swap(new.clone(), copy()).await.unwrap();
        init(&tracker, id(1)).await.release().await.unwrap();
    });
}

#[test]
fn without_a_copy_what_runs_comes_along_and_what_is_settled_is_forgotten() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        let running = init(&tracker, id(2)).await;
        let report = tracker.swap(new.clone(), SwapPolicy::forget_settled("new")).await.unwrap();
        assert_eq!((report.copied, report.carried, report.live), (0, 1, 1));
        assert_eq!(outcome(&tracker, id(2)).await, "processing");
        assert_eq!(running.complete("late").await.unwrap(), Settled::Stored);
        init(&tracker, id(1)).await.release().await.unwrap();
    });
}

#[test]
fn a_result_that_is_not_stored_yet_is_stored_in_the_new_store() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        let permit = init(&tracker, id(1)).await;
        old.always("complete", Fault::FailBefore);
        assert_eq!(permit.complete("deferred").await.unwrap(), Settled::Deferred);
        tracker.swap(new.clone(), copy()).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"deferred\"");
        assert!(new.inner.lookup(&id(1), tracker.clock().now()).await.unwrap().unwrap().state.is_settled());
    });
}

#[test]
fn once_asked_for_a_swap_happens_and_the_message_is_the_same() {
    virtual_time(async {
        let tracker = spawn(FaultyStore::new()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        let first = FaultyStore::new();
        {
            let mut swap = Box::pin(tracker.swap(first.clone(), copy()));
            tokio::select! {
                biased;
                _ = &mut swap => panic!("it takes longer"),
                () = std::future::ready(()) => {}
            }
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(first.inner.len(), 1);
        let report = tracker.addr().send(Swap::new(FaultyStore::new(), copy())).await.unwrap().unwrap();
        assert_eq!(report.copied, 1);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn a_dead_backend_actor_after_a_swap_is_replaced_on_the_new_store() {
    virtual_time(async {
        let new = FaultyStore::new();
        let tracker = spawn(FaultyStore::new()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        tracker.swap(new.clone(), copy()).await.unwrap();
        let panicked = AtomicBool::new(false);
        new.plan(move |_| (!panicked.swap(true, Ordering::SeqCst)).then_some(Fault::Panic));
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!(tracker.status().await.unwrap().restarts, 1);
    });
}

/// Says something of itself.
#[derive(Default)]
struct Declares {
    inner: MemoryStore,
    shared: bool,
    durability: Durability,
}

/// Can neither be scanned nor restored to.
struct Opaque;

macro_rules! forward {
    ($store:ty, |$this:ident| $inner:expr, $capabilities:expr) => {
        #[async_trait]
        impl Store for $store {
            async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
                let $this = self;
                $inner.setup(setup).await
            }
            async fn lookup(
                &self,
                id: &RequestId,
                now: OffsetDateTime,
            ) -> Result<Option<Record>, StoreError> {
                let $this = self;
                $inner.lookup(id, now).await
            }
            async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
                let $this = self;
                $inner.insert(claim, now).await
            }
            async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
                let $this = self;
                $inner.update(update, now).await
            }
            async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
                let $this = self;
                $inner.prune(now, limit).await
            }
            async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
                let $this = self;
                $inner.scan(cursor, limit).await
            }
            fn capabilities(&self) -> Capabilities {
                let $this = self;
                $capabilities
            }
        }
    };
}

forward!(Declares, |this| this.inner, {
    let mut capabilities = Capabilities::default();
    (capabilities.shared, capabilities.durability) = (this.shared, this.durability);
    capabilities.scan = true;
    capabilities
});

forward!(Opaque, |_this| MemoryStore::new(), Capabilities::default());
