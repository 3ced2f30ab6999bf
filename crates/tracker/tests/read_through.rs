//! A new store in front of an old one.

use std::{sync::Arc, time::Duration};

use idempotency_core::*;
use idempotency_store_memory::MemoryStore;
use idempotency_store_testkit::{OnManualClock, conformance};
use idempotency_tracker::{ReadThrough, Settled, SwapPolicy};
use tokio::time::sleep;

use crate::support::*;

conformance!(OnManualClock::new(|| ReadThrough::new(MemoryStore::new(), MemoryStore::new())));

#[test]
fn what_the_old_store_has_is_moved_when_it_is_asked_for() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        init(&tracker, id(2)).await.complete("never asked for").await.unwrap();
        init(&tracker, id(3)).await.complete("forgotten").await.unwrap();
        let running = init(&tracker, id(4)).await;

        let report = tracker.swap(new.clone(), SwapPolicy::read_through("new")).await.unwrap();
        assert_eq!((report.copied, report.carried, report.retired), (0, 0, false));
        assert!(!old.was_closed());
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        assert_eq!((new.inner.len(), old.inner.len()), (1, 3));
        // Renewed where it is now, and completed.
        sleep(Duration::from_secs(60)).await;
        assert!(running.is_held());
        assert_eq!(running.complete("late").await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(4)).await, "cached b\"late\"");
        // Forgotten in both.
        let owner = tracker.lookup(id(3)).await.unwrap().unwrap().owner;
        tracker.forget(id(3), owner, "a test").await.unwrap();
        init(&tracker, id(3)).await.release().await.unwrap();
        assert_eq!((new.inner.len(), old.inner.len()), (2, 1));

        // A restart names both, and forgets nothing.
        tracker.shutdown(Duration::ZERO).await.unwrap();
        let tracker = builder(new.clone()).read_through(old.clone()).spawn().await.unwrap();
        assert_eq!(outcome(&tracker, id(2)).await, "cached b\"never asked for\"");
        assert_eq!(outcome(&tracker, id(4)).await, "cached b\"late\"");
        // And it can be swapped away from, with all that is in both.
        let report = tracker.swap(FaultyStore::new(), SwapPolicy::copy("third")).await.unwrap();
        assert_eq!(report.copied, 3);
        assert_eq!(outcome(&tracker, id(2)).await, "cached b\"never asked for\"");
    });
}

#[test]
fn a_failed_swap_leaves_the_old_store_open() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        init(&tracker, id(1)).await.complete("done").await.unwrap();
        new.always("setup", Fault::Refuse(StoreErrorKind::WrongSecret));
        tracker.swap(new, SwapPolicy::read_through("new")).await.unwrap_err();
        assert!(!old.was_closed());
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}

#[test]
fn a_move_that_breaks_off_is_made_whole_by_the_next_one() {
    virtual_time(async {
        let (old, new) = (FaultyStore::new(), FaultyStore::new());
        let tracker = spawn(old.clone()).await;
        let faults = [(1, Fault::FailBefore), (2, Fault::FailAfter)];
        for (number, _) in faults {
            init(&tracker, id(number)).await.complete("done").await.unwrap();
        }
        let both = ReadThrough::new(Arc::new(new.clone()), Arc::new(old.clone()));
        let now = tracker.clock().now();
        for (number, fault) in faults {
            let claim = Claim::new(id(number), Owner::from_u128(9), payload());
            new.always("restore", fault);
            assert!(both.insert(&claim, now).await.is_err());
            new.well();
            // The copy in the old store is left behind, or the answer to its removal is lost.
            old.always("forget", fault);
            let _ = both.insert(&claim, now).await;
            old.well();
            let Inserted::Exists(record) = both.insert(&claim, now).await.unwrap() else { panic!() };
            assert!(record.state.is_settled());
            // Forgotten, it does not come back from there.
            let forget = Update::new(id(number), record.owner, Change::Forget);
            assert_eq!(both.update(&forget, now).await.unwrap(), Updated::Applied);
            assert_eq!(both.insert(&claim, now).await.unwrap(), Inserted::Claimed);
        }
    });
}
