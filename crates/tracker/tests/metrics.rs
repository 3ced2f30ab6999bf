//! What is counted. The names are those in README.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use idempotency_core::HaltReason;
use idempotency_tracker::Settled;
use metrics_util::{
    MetricKind,
    debugging::{DebugValue, DebuggingRecorder, Snapshotter},
};
use tokio::time::sleep;

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

/// Names with their labels, and what was counted or how often something was measured.
fn counted(snapshotter: &Snapshotter) -> BTreeMap<String, u64> {
    let entries = snapshotter.snapshot().into_vec().into_iter().map(|(key, _, _, value)| {
        let labels: String = key.key().labels().map(|label| format!("{{{}}}", label.value())).collect();
        let kind = if key.kind() == MetricKind::Gauge { "gauge " } else { "" };
        let value = match value {
            DebugValue::Counter(count) => count,
            DebugValue::Gauge(value) => value.into_inner() as u64,
            DebugValue::Histogram(values) => values.len() as u64,
        };
        (format!("{kind}{}{labels}", key.key().name()), value)
    });
    entries.collect()
}

#[test]
fn everything_that_the_readme_lists_is_counted_and_no_id_is_a_label() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let readme = include_str!("../../../README.md");
    let seen = metrics::with_local_recorder(&recorder, || {
        virtual_time(async {
            let store = FaultyStore::new();
            let tracker = spawn(store.clone()).await;
            let permit = init(&tracker, id(1)).await;
            assert_eq!(outcome(&tracker, id(1)).await, "processing");
            permit.complete("done").await.unwrap();
            outcome(&tracker, id(1)).await;
            let _ = tracker.track((id(1), other_payload())).await;
            init(&tracker, id(2)).await.halt(HaltReason::Unknown).await.unwrap();
            outcome(&tracker, id(2)).await;
            drop(init(&tracker, id(3)).await);
            outcome(&tracker, id(3)).await;
            let permit = init(&tracker, id(4)).await;
            store.always("complete", Fault::FailBefore);
            assert_eq!(permit.complete("later").await.unwrap(), Settled::Deferred);
            let before = counted(&snapshotter);
            assert_eq!(before["gauge idempotency_deferred_bytes"], 5);
            assert_eq!(before["gauge idempotency_live"], 1);
            store.well();
            sleep(5 * SECOND).await;
            tracker.prune().await.unwrap();
            before.into_iter().map(|(name, value)| (name, value.max(1))).chain(counted(&snapshotter)).fold(
                BTreeMap::new(),
                |mut all: BTreeMap<String, u64>, (name, value)| {
                    let all_of_it = all.entry(name).or_default();
                    *all_of_it = value.max(*all_of_it);
                    all
                },
            )
        })
    });
    let id = id(1).to_string();
    for name in seen.keys() {
        assert!(!name.contains(&id), "{name}");
        let bare = name.trim_start_matches("gauge ").split('{').next().unwrap();
        assert!(readme.contains(&format!("`{bare}`")), "{bare} is not in README.md");
    }
    for (name, at_least) in [
        ("idempotency_requests_total{init}", 4),
        ("idempotency_requests_total{processing}", 1),
        ("idempotency_requests_total{cached}", 1),
        ("idempotency_requests_total{mismatch}", 1),
        ("idempotency_requests_total{halted}", 2),
        ("idempotency_store_call_seconds{insert}", 4),
        ("idempotency_orphaned_total", 1),
        ("idempotency_deferred_total", 1),
    ] {
        assert!(seen.get(name).is_some_and(|count| *count >= at_least), "{name}: {:?}", seen.get(name));
    }
    let table = readme.split("| metric |").nth(1).unwrap().split("\n\n").next().unwrap();
    let listed = table.matches("`idempotency_").count();
    let mut names: BTreeSet<_> =
        seen.keys().map(|name| name.trim_start_matches("gauge ").split('{').next().unwrap()).collect();
    // Of the middleware, where it has a test of its own.
    names.insert("idempotency_untracked_total");
    assert_eq!(listed, names.len(), "README.md lists what there is: {names:?}");
}
