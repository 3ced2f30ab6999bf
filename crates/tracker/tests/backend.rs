//! A slow, failing, hanging or panicking store yields the errors of the design and nothing else.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join;
use idempotency_core::{RequestId, Store, StoreCommand, StoreErrorKind};
use idempotency_tracker::{ErrorKind, Forgotten, Settled, Tracked};
use tokio::time::{Instant, sleep};

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_store_that_fails_or_hangs_is_unavailable_within_two_store_limits() {
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::Hang, Fault::HangAfter, Fault::Panic] {
        virtual_time(async {
            let store = FaultyStore::new();
            let tracker = spawn(store.clone()).await;
            store.down(fault);
            let before = Instant::now();
            let error = tracker.track((id(1), payload())).await.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Unavailable { retry_after } if *retry_after >= SECOND),
                "{fault:?}"
            );
            assert!(error.is_retryable());
            assert!(before.elapsed() <= 4 * SECOND + SECOND / 10, "{fault:?}: {:?}", before.elapsed());
            // What the store said goes no further than source().
            assert!(!error.to_string().contains("SECRET"), "{error}");
            if fault == Fault::FailBefore {
                assert!(error.source().unwrap().to_string().contains("SECRET-HOST"));
            }
        });
    }
}

#[test]
fn a_claim_whose_answer_was_lost_is_nobodys_ghost() {
    for fault in [Fault::FailAfter, Fault::HangAfter] {
        virtual_time(async {
            let store = FaultyStore::new();
            let tracker = spawn(store.clone()).await;
            store.always("insert", fault);
            tracker.track((id(1), payload())).await.unwrap_err();
            // The claim is in the store, and nobody works under it. It is cleaned up, so the retry runs.
            store.well();
            // A second later the breaker has noticed.
            sleep(SECOND).await;
            assert_eq!(outcome(&tracker, id(1)).await, "init", "{fault:?}");
        });
    }
}

#[test]
fn one_lost_answer_is_not_even_noticed() {
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::Panic, Fault::HangAfter] {
        for call in ["insert", "complete"] {
            virtual_time(async {
                let store = FaultyStore::new();
                let tracker = spawn(store.clone()).await;
                let mut left = 1;
                store.plan(move |command| {
                    let hit = command.name() == call && left > 0;
                    left -= usize::from(hit);
                    hit.then_some(fault)
                });
                let permit = init(&tracker, id(1)).await;
                let settled = permit.complete("done").await.unwrap();
                // Only a put that takes longer than `put_patience` is deferred, and stored all the same.
                assert_eq!(settled == Settled::Deferred, (fault, call) == (Fault::HangAfter, "complete"));
                sleep(5 * SECOND).await;
                assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"", "{fault:?} at {call}");
            });
        }
    }
}

#[test]
fn a_late_copy_of_a_claim_does_not_block_the_id() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let copy = Arc::new(std::sync::Mutex::new(None));
        let caught = copy.clone();
        store.plan(move |command| match command {
            StoreCommand::Insert(claim) => {
                *caught.lock().unwrap() = Some(claim.clone());
                Some(Fault::Hang)
            }
            _ => None,
        });
        tracker.track((id(1), payload())).await.unwrap_err();
        store.well();
        // It was released as a precaution. Now the copy that was held up arrives.
        sleep(SECOND).await;
        let claim = copy.lock().unwrap().take().unwrap();
        let now = tracker.clock().now();
        store.inner.insert(&claim, now).await.unwrap();
        assert_eq!(store.inner.len(), 1);
        // Whoever asks now is not held up by it.
        let permit = init(&tracker, id(1)).await;
        permit.release().await.unwrap();
        // And if nobody asks it is released again, one and three store limits later.
        store.inner.insert(&claim, now).await.unwrap();
        sleep(6 * SECOND).await;
        assert!(store.inner.is_empty());
        assert_eq!(tracker.status().await.unwrap().lanes, 0, "nothing is kept of an idle id");
    });
}

#[test]
fn a_put_that_fails_is_deferred_and_stored_as_soon_as_the_store_is_back() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        store.down(Fault::FailBefore);
        let before = Instant::now();
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Deferred);
        assert_eq!(before.elapsed().as_secs(), 1);
        // The outage outlasts the lease; this node knows better than to say that the owner is lost, and has the answer.
        sleep(60 * SECOND).await;
        assert_eq!(tracker.status().await.unwrap().deferred_bytes, 4);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        store.well();
        sleep(3 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        let status = tracker.status().await.unwrap();
        assert!(!status.breaker_open && status.deferred_bytes == 0 && status.restarts > 0, "{status:?}");
        assert_eq!(status.last_failure, Some("it does not answer"));
    });
}

#[test]
fn a_body_that_the_store_refuses_is_dropped_and_the_fact_is_kept() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        store.plan(|command| match command {
            StoreCommand::Update(update) => match &update.change {
                idempotency_core::Change::Complete { response, .. } if response.bytes().is_some() => {
                    Some(Fault::Refuse(StoreErrorKind::Invalid))
                }
                _ => None,
            },
            _ => None,
        });
        assert_eq!(init(&tracker, id(1)).await.complete("too large").await.unwrap(), Settled::Stored);
        let Ok(Tracked::Cached { response, .. }) = tracker.track((id(1), payload())).await else { panic!() };
        assert_eq!(response.bytes(), None);
    });
}

#[test]
fn a_full_store_means_overloaded() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        store.always("insert", Fault::Refuse(StoreErrorKind::Full));
        let error = tracker.track((id(1), payload())).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Overloaded);
    });
}

#[test]
fn one_slow_key_never_delays_another() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        store.plan(|command| (command.id() == Some(&id(1))).then_some(Fault::Delay(SECOND)));
        let slow = tracker.track((id(1), payload()));
        let before = Instant::now();
        for number in 2..100 {
            init(&tracker, id(number)).await.complete("done").await.unwrap();
        }
        assert!(before.elapsed() < SECOND / 10, "{:?}", before.elapsed());
        assert!(matches!(slow.await, Ok(Tracked::Init(_))));
        assert!(before.elapsed() >= SECOND);
    });
}

#[test]
fn a_backend_that_panics_is_replaced_on_the_same_store_and_nothing_is_lost() {
    for immediate in [false, true] {
        virtual_time(async {
            let store = FaultyStore::new().immediate(immediate);
            let tracker = spawn(store.clone()).await;
            init(&tracker, id(1)).await.complete("kept").await.unwrap();
            let running = init(&tracker, id(2)).await;
            let poisoned = id(3);
            store.plan(move |command| {
                (command.name() == "insert" && command.id() == Some(&poisoned)).then_some(Fault::Panic)
            });
            assert_eq!(store.calls("setup"), 1);
            let error = tracker.track((poisoned, payload())).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }));
            let status = tracker.status().await.unwrap();
            assert!(status.restarts >= 1);
            assert!(store.calls("setup") >= 2, "it is set up anew");
            // With nobody else's calls to succeed in between it has backed off, by at most 5 s.
            sleep(5 * SECOND).await;
            assert!(tracker.status().await.unwrap().backend_up);
            assert_eq!(outcome(&tracker, id(1)).await, "cached b\"kept\"");
            assert_eq!(running.complete("done").await.unwrap(), Settled::Stored);
            assert_eq!(outcome(&tracker, id(2)).await, "cached b\"done\"");
            assert_eq!(outcome(&tracker, id(4)).await, "init", "others go on");
        });
    }
}

#[test]
fn a_store_that_says_it_answers_at_once_and_does_not_takes_nobody_along() {
    for fault in [Fault::Hang, Fault::PanicInDrop] {
        virtual_time(async {
            let store = FaultyStore::new().immediate(true);
            let tracker = spawn(store.clone()).await;
            let running = init(&tracker, id(1)).await;
            let mut fault = Some(fault);
            store.plan(move |command| {
                (command.name() == "insert" && command.id() == Some(&id(2))).then(|| fault.take())?
            });
            // Asked once more it answers.
            let _ = tracker.track((id(2), payload())).await;
            assert_eq!(running.complete("done").await.unwrap(), Settled::Stored);
            assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
            assert_eq!(outcome(&tracker, id(3)).await, "init");
            assert_eq!(tracker.status().await.unwrap().replaced, 0, "the tracker lives on");
        });
    }
}

/// A lock of tokio's costs one of 128, after which a task must rest.
#[test]
fn a_store_that_answers_at_once_is_not_stopped_by_the_budget_of_a_task() {
    virtual_time(async {
        let store = FaultyStore::new().immediate(true);
        let tracker = spawn(store.clone()).await;
        store.plan(|_| Some(Fault::Budgeted));
        let tracks: Vec<_> = (0..300).map(|number| tracker.track((id(number), payload()))).collect();
        for (number, track) in tracks.into_iter().enumerate() {
            let tracked = track.await;
            assert!(matches!(tracked, Ok(Tracked::Init(_))), "{number}: {tracked:?}");
        }
    });
}

#[test]
fn in_a_batch_only_the_guilty_command_fails() {
    virtual_time(async {
        let store = FaultyStore::new().immediate(true);
        let tracker = spawn(store.clone()).await;
        let poisoned = id(7);
        store.plan(move |command| {
            (command.name() == "insert" && command.id() == Some(&poisoned)).then_some(Fault::Panic)
        });
        // Sent together, they go to the store together.
        let tracks: Vec<_> = (0..16).map(|number| tracker.track((id(number), payload()))).collect();
        for (number, track) in tracks.into_iter().enumerate() {
            let tracked = track.await;
            assert_eq!(matches!(tracked, Ok(Tracked::Init(_))), number != 7, "{number}: {tracked:?}");
        }
    });
}

/// Goes wrong the first time that a call of this id does this.
fn once(store: &FaultyStore, id: RequestId, name: &'static str, fault: Fault) {
    let mut left = Some(fault);
    store.plan(move |command| (command.name() == name && command.id() == Some(&id)).then(|| left.take())?);
}

#[test]
fn a_late_copy_from_a_batch_that_was_repeated_blocks_nobody() {
    virtual_time(async {
        let store = FaultyStore::new().batching();
        let tracker = spawn(store.clone()).await;
        let (inner, mut is_first) = (store.inner.clone(), true);
        let now = tracker.clock().now();
        store.plan(move |command| {
            let StoreCommand::Insert(claim) = command else { return None };
            if claim.id != id(1) || !std::mem::take(&mut is_first) {
                return None;
            }
            let (inner, claim) = (inner.clone(), claim.clone());
            tokio::spawn(async move {
                sleep(3 * SECOND).await;
                inner.insert(&claim, now).await.unwrap();
            });
            Some(Fault::Hang)
        });
        // Sent together, they go to the store together, and are repeated one by one two seconds later.
        let (first, second) = join(init(&tracker, id(1)), init(&tracker, id(2))).await;
        assert_eq!(first.release().await.unwrap(), Settled::Stored);
        assert_eq!(second.complete("done").await.unwrap(), Settled::Stored);
        sleep(10 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "init");
    });
}

#[test]
fn what_certainly_was_not_done_leaves_no_copy_when_it_is_repeated() {
    virtual_time(async {
        let store = FaultyStore::new().batching();
        let tracker = spawn(store.clone()).await;
        let mut left = 2;
        store.plan(move |command| {
            let refused = command.name() == "insert" && left > 0;
            left -= usize::from(refused);
            refused.then_some(Fault::Refuse(StoreErrorKind::Other))
        });
        let (first, _second) = join(init(&tracker, id(1)), init(&tracker, id(2))).await;
        first.release().await.unwrap();
        sleep(10 * SECOND).await;
        assert_eq!((store.calls("insert"), store.calls("release")), (4, 1));
    });
}

#[test]
fn the_repetition_of_a_batch_knows_what_the_batch_has_done() {
    virtual_time(async {
        let store = FaultyStore::new().batching();
        let tracker = builder(store.clone()).put_patience(5 * SECOND).spawn().await.unwrap();
        let permit = init(&tracker, id(1)).await;
        once(&store, id(1), "release", Fault::HangAfter);
        let (released, other) = join(permit.release(), init(&tracker, id(2))).await;
        assert_eq!(released.unwrap(), Settled::Stored);

        let owner = other.owner();
        other.complete("done").await.unwrap();
        once(&store, id(2), "forget", Fault::HangAfter);
        let (forgotten, _) = join(tracker.forget(id(2), owner, "a test"), init(&tracker, id(3))).await;
        assert_eq!(forgotten.unwrap(), Forgotten::Forgotten);
        // What really is not there is not found.
        assert_eq!(tracker.forget(id(2), owner, "a test").await.unwrap(), Forgotten::NotFound);
    });
}

#[test]
fn a_backend_that_cannot_be_set_up_again_is_tried_until_it_can() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let down = Arc::new(AtomicBool::new(true));
        let is_down = down.clone();
        let mut panics = 1;
        store.plan(move |command| match command.name() {
            "setup" if is_down.load(Ordering::SeqCst) => Some(Fault::FailBefore),
            "insert" if panics > 0 => {
                panics -= 1;
                Some(Fault::Panic)
            }
            _ => None,
        });
        let error = tracker.track((id(1), payload())).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable { .. }));
        assert!(!tracker.status().await.unwrap().backend_up);
        sleep(60 * SECOND).await;
        let tries = store.calls("setup");
        assert!((10..100).contains(&tries), "{tries} tries in a minute: it backs off");
        down.store(false, Ordering::SeqCst);
        sleep(6 * SECOND).await;
        assert_eq!(outcome(&tracker, id(1)).await, "init");
    });
}
