//! The five answers, through the methods, the messages and the actor's own address.

use std::time::Duration;

use idempotency_core::HaltReason;
use idempotency_store_memory::MemoryStore;
use idempotency_tracker::{
    ErrorKind, Forget, Forgotten, Halt, Lookup, OnOrphan, Prune, PutResponse, Release, Settled, Status,
    Track, Tracked,
};

use crate::support::*;

#[test]
fn a_request_runs_once_and_its_retries_get_the_response() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let permit = init(&tracker, id(1)).await;
        assert_eq!(outcome(&tracker, id(1)).await, "processing");
        assert_eq!(permit.complete("done").await.unwrap(), Settled::Stored);
        for _ in 0..3 {
            assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        }
    });
}

#[test]
fn another_payload_is_a_mismatch_in_every_state() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let mismatch = async |number| {
            matches!(tracker.track((id(number), other_payload())).await, Ok(Tracked::Mismatch { .. }))
        };
        let running = init(&tracker, id(1)).await;
        assert!(mismatch(1).await, "while it runs");
        running.complete("done").await.unwrap();
        assert!(mismatch(1).await, "completed");
        init(&tracker, id(2)).await.halt(HaltReason::Unknown).await.unwrap();
        assert!(mismatch(2).await, "halted");
    });
}

#[test]
fn a_released_request_runs_again_and_a_halted_one_does_not() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        assert_eq!(init(&tracker, id(1)).await.release().await.unwrap(), Settled::Stored);
        init(&tracker, id(1)).await.halt(HaltReason::TimedOut).await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "halted timed_out");
    });
}

#[test]
fn a_record_is_gone_when_its_retention_is_over_pruned_or_not() {
    virtual_time(async {
        let tracker =
            builder(MemoryStore::new()).prune_every(Duration::from_secs(3600)).spawn().await.unwrap();
        let track = Track::new(id(1), payload()).retention(Duration::from_secs(10));
        let Ok(Tracked::Init(permit)) = tracker.track(track).await else { panic!() };
        permit.complete("done").await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(outcome(&tracker, id(1)).await, "init");
    });
}

#[test]
fn expired_records_are_pruned_by_themselves_and_on_demand() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = builder(store.clone()).prune_limit(2).spawn().await.unwrap();
        for number in 0..5 {
            let track = Track::new(id(number), payload()).retention(Duration::from_secs(1));
            let Ok(Tracked::Init(permit)) = tracker.track(track).await else { panic!() };
            permit.complete("done").await.unwrap();
        }
        init(&tracker, id(9)).await.complete("kept").await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(tracker.prune().await.unwrap(), 5);
        assert_eq!(store.calls("prune"), 3, "in steps of two");
        assert_eq!(store.inner.len(), 1);

        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        let runs = store.calls("prune") - 3;
        assert!((54..=67).contains(&runs), "{runs} runs in an hour, one a minute");
        assert_eq!(outcome(&tracker, id(9)).await, "cached b\"kept\"");
    });
}

#[test]
fn the_messages_do_what_the_methods_do() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let track = |number| Track::new(id(number), payload());
        let Ok(Tracked::Init(permit)) = tracker.send(track(1)).await else { panic!() };
        assert_eq!(tracker.send(Status).await.unwrap().live, 1);
        assert_eq!(tracker.send(PutResponse::new(permit, "a")).await.unwrap(), Settled::Stored);
        let Ok(Tracked::Init(permit)) = tracker.send(track(2)).await else { panic!() };
        assert_eq!(tracker.send(Halt::new(permit, HaltReason::Unknown)).await.unwrap(), Settled::Stored);
        let Ok(Tracked::Init(permit)) = tracker.send(track(3)).await else { panic!() };
        assert_eq!(tracker.send(Release::new(permit)).await.unwrap(), Settled::Stored);
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"a\"");
        assert_eq!(outcome(&tracker, id(2)).await, "halted unknown");
        let record = tracker.send(Lookup { id: id(1) }).await.unwrap().unwrap();
        assert_eq!(tracker.send(Lookup { id: id(3) }).await.unwrap(), None);
        let forget = Forget::new(id(1), record.owner, "a test");
        assert_eq!(tracker.send(forget.clone()).await.unwrap(), Forgotten::Forgotten);
        assert_eq!(tracker.send(forget).await.unwrap(), Forgotten::NotFound);
        assert_eq!(tracker.send(Prune).await.unwrap(), 0);
    });
}

#[test]
fn the_actors_own_address_does_the_same() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let addr = tracker.addr();
        let track = |number| Track::new(id(number), payload());
        let Ok(Ok(Tracked::Init(permit))) = addr.send(track(1)).await else { panic!() };
        assert!(matches!(addr.send(track(1)).await, Ok(Ok(Tracked::Processing { .. }))));
        assert_eq!(addr.send(PutResponse::new(permit, "a")).await.unwrap().unwrap(), Settled::Stored);
        assert!(matches!(addr.send(track(1)).await, Ok(Ok(Tracked::Cached { .. }))));
        let Ok(Ok(Tracked::Init(permit))) = addr.send(track(2)).await else { panic!() };
        addr.send(Halt::new(permit, HaltReason::Unknown)).await.unwrap().unwrap();
        let Ok(Ok(Tracked::Init(permit))) = addr.send(track(3)).await else { panic!() };
        addr.send(Release::new(permit)).await.unwrap().unwrap();
        assert_eq!(addr.send(Status).await.unwrap().unwrap().live, 0);
        let record = addr.send(Lookup { id: id(2) }).await.unwrap().unwrap().unwrap();
        let forget = Forget::new(id(2), record.owner, "a test");
        assert_eq!(addr.send(forget).await.unwrap().unwrap(), Forgotten::Forgotten);
        assert_eq!(addr.send(Prune).await.unwrap().unwrap(), 0);
    });
}

#[test]
fn a_running_record_is_not_forgotten_not_even_when_its_lease_lapsed() {
    virtual_time(async {
        let store = FaultyStore::new();
        let tracker = spawn(store.clone()).await;
        let permit = init(&tracker, id(1)).await;
        let owner = permit.owner();
        assert_eq!(tracker.forget(id(1), owner, "a test").await.unwrap(), Forgotten::Refused);
        store.always("renew", Fault::FailBefore);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(tracker.forget(id(1), owner, "a test").await.unwrap(), Forgotten::Refused);
        permit.complete("done").await.unwrap();
        assert_eq!(tracker.forget(id(1), owner, "a test").await.unwrap(), Forgotten::Forgotten);
    });
}

#[test]
fn a_track_that_makes_no_sense_is_refused_with_its_reason() {
    virtual_time(async {
        let tracker = spawn(MemoryStore::new()).await;
        let short_lease = Track::new(id(1), payload()).lease(Duration::from_secs(1));
        let no_retention = Track::new(id(1), payload()).retention(Duration::ZERO);
        for track in [short_lease, no_retention] {
            let error = tracker.track(track).await.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error:?}");
            assert!(!error.is_retryable());
        }
        let endless = Track::new(id(1), payload())
            .lease(Duration::MAX)
            .retention(Duration::MAX)
            .work_limit(Duration::MAX)
            .on_orphan(OnOrphan::Rerun);
        let Ok(Tracked::Init(permit)) = tracker.track(endless).await else { panic!() };
        assert!(permit.is_held());
        permit.complete("done").await.unwrap();
        assert_eq!(outcome(&tracker, id(1)).await, "cached b\"done\"");
    });
}
