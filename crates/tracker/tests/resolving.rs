//! Orphans that somebody in the outside world knows of, and operators.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use idempotency_core::{HaltReason, Meta};
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{
    Filter, Happened, OnOrphan, RecordState, Resolution, Resolved, Settled, Track, Tracked,
};
use tokio::time::{Instant, sleep};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Answers this after a while, and counts how often it is asked.
fn resolver(resolution: Resolution) -> (OnOrphan, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    let policy = OnOrphan::resolve(move |orphan| {
        counted.fetch_add(1, Ordering::SeqCst);
        let resolution = resolution.clone();
        async move {
            assert_eq!(orphan.meta.as_bytes().as_ref(), b"order 7");
            sleep(3 * SECOND).await;
            resolution
        }
    });
    (policy, asked)
}

/// A request whose caller has died.
async fn orphan(tracker: &idempotency_tracker::TrackerHandle, number: u64) {
    let track = Track::new(id(number), payload()).meta(Meta::new(&b"order 7"[..]).unwrap());
    let Ok(Tracked::Init(permit)) = tracker.track(track).await else { panic!() };
    drop(permit);
    sleep(SECOND / 10).await;
}

#[test]
fn an_orphan_is_asked_for_once_on_all_nodes_and_all_hear_what_was_said() {
    virtual_time(async {
        let store = FaultyStore::new().pushing();
        let (policy, asked) = resolver(Resolution::completed("paid"));
        let nodes = [
            builder(store.clone()).on_orphan(policy.clone()).spawn().await.unwrap(),
            builder(store.clone()).on_orphan(policy).spawn().await.unwrap(),
        ];
        orphan(&nodes[0], 1).await;
        let tracks = (0..20).map(|caller| nodes[caller % 2].track((id(1), payload())));
        let heard: Vec<_> = join_all(tracks).await.into_iter().map(word_of).collect();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let count = |word: &str| heard.iter().filter(|heard| *heard == word).count();
        // The one for whom it was asked hears it, the others that somebody is at it.
        assert_eq!((count("cached b\"paid\""), count("processing")), (1, 19), "{heard:?}");
        for node in &nodes {
            assert_eq!(outcome(node, id(1)).await, "cached b\"paid\"");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn what_was_not_done_runs_and_keeps_what_its_new_caller_says_of_it() {
    virtual_time(async {
        let (policy, asked) = resolver(Resolution::Released);
        let tracker = builder(MemoryStore::new()).on_orphan(policy).spawn().await.unwrap();
        orphan(&tracker, 1).await;
        let track = Track::new(id(1), payload()).meta(Meta::new(&b"order 7, again"[..]).unwrap());
        let Ok(Tracked::Init(permit)) = tracker.track(track).await else { panic!() };
        assert!(!permit.took_over(), "it is known that nothing was done");
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let record = tracker.lookup(id(1)).await.unwrap().unwrap();
        assert_eq!(record.meta.as_bytes().as_ref(), b"order 7, again");
    });
}

#[test]
fn what_nobody_knows_panics_or_takes_too_long_is_for_an_operator() {
    let policies = [
        resolver(Resolution::Unknown).0,
        OnOrphan::resolve(async |_| panic!("as planned")),
        OnOrphan::resolve(async |_| pending().await),
    ];
    for policy in policies {
        virtual_time(async {
            let tracker = builder(MemoryStore::new()).on_orphan(policy).spawn().await.unwrap();
            orphan(&tracker, 1).await;
            let before = Instant::now();
            assert_eq!(outcome(&tracker, id(1)).await, "halted unresolved");
            assert!(before.elapsed() <= 10 * SECOND + SECOND / 10, "its limit is 10 s");
            // It is not asked again.
            let before = Instant::now();
            assert_eq!(outcome(&tracker, id(1)).await, "halted unresolved");
            assert!(before.elapsed() < SECOND / 10);
            // An operator finds it, and says what he found out.
            let filter = Filter::new().state(RecordState::Halted);
            let page = tracker.scan(filter, None, 10).await.unwrap();
            let [(found, record)] = &page.records[..] else { panic!("{page:?}") };
            assert_eq!(*found, id(1));
            let paid = Resolution::completed("paid");
            let resolved = tracker.resolve(id(1), record.owner, paid.clone(), "the bank was asked").await;
            assert_eq!(resolved.unwrap(), Resolved::Resolved);
            assert_eq!(outcome(&tracker, id(1)).await, "cached b\"paid\"");
            // Once.
            let again = tracker.resolve(id(1), record.owner, paid, "the bank was asked").await;
            assert_eq!(again.unwrap(), Resolved::Refused);
        });
    }
}

#[test]
fn an_operator_whose_word_gets_lost_leaves_nothing_that_a_policy_runs_again() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).on_orphan(OnOrphan::Rerun).spawn().await.unwrap();
        let permit = init(&tracker, id(1)).await;
        let owner = permit.owner();
        permit.halt(HaltReason::Unknown).await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "halted unknown");
        store.always("insert", Fault::FailAfter);
        let lost = tracker.resolve(id(1), owner, Resolution::completed("paid"), "the bank was asked").await;
        assert!(lost.unwrap_err().is_retryable());
        store.well();
        sleep(10 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "halted unresolved");
    });
}

#[test]
fn an_operator_sees_states_and_ages_and_does_not_touch_what_runs() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        orphan(&tracker, 2).await;
        init(&tracker, id(3)).await.halt(HaltReason::Unknown).await.unwrap();
        sleep(60 * SECOND).await;
        let permit = init(&tracker, id(4)).await;
        let shown = async |filter: Filter| {
            let records = tracker.scan(filter, None, 100).await.unwrap().records;
            let mut ids: Vec<_> = records.into_iter().map(|(id, _)| id).collect();
            ids.sort_unstable();
            ids
        };
        for (state, number) in [
            (RecordState::Completed, 1),
            (RecordState::Orphaned, 2),
            (RecordState::Halted, 3),
            (RecordState::Running, 4),
        ] {
            assert_eq!(shown(Filter::new().state(state)).await, [id(number)], "{state:?}");
        }
        let mut old = [1, 2, 3].map(id);
        old.sort_unstable();
        assert_eq!(shown(Filter::new().older_than(30 * SECOND)).await, old);
        assert_eq!(shown(Filter::new()).await.len(), 4);

        let said = Resolution::completed("no");
        let running = tracker.resolve(id(4), permit.owner(), said.clone(), "a mistake").await.unwrap();
        assert_eq!(running, Resolved::Refused);
        assert_eq!(
            tracker.resolve(id(9), permit.owner(), said, "a mistake").await.unwrap(),
            Resolved::NotFound
        );
        permit.complete("done").await.unwrap();
    });
}

#[test]
fn hooks_hear_of_orphans_of_what_is_deferred_and_of_what_is_superseded() {
    virtual_time(async {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = told.clone();
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).on_happened(move |id, what| {
            tells.lock().unwrap().push((id, what));
            panic!("an application's own fault");
        });
        let (tracker, other) = (tracker.spawn().await.unwrap(), spawn(store.inner.clone()).await);
        orphan(&tracker, 1).await;
        assert_eq!(outcome(&tracker, id(1)).await, "halted cancelled");
        let permit = init(&tracker, id(2)).await;
        store.down(Fault::FailBefore);
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Deferred);
        store.well();
        sleep(3 * SECOND).await;
        // Its lease lapses, and another node takes over.
        let permit = init(&tracker, id(3)).await;
        store.always("renew", Fault::Hang);
        sleep(20 * SECOND).await;
        let rerun = Track::new(id(3), payload()).on_orphan(OnOrphan::Rerun);
        let _theirs = match other.track(rerun).await {
            Ok(Tracked::Init(permit)) => permit,
            other => panic!("{other:?}"),
        };
        assert_eq!(permit.complete("late").await.unwrap(), Settled::Superseded);
        let told = told.lock().unwrap().clone();
        assert_eq!(
            told,
            [
                (id(1), Happened::Orphaned(HaltReason::Cancelled)),
                (id(2), Happened::Deferred),
                (id(3), Happened::Superseded)
            ]
        );
    });
}
