//! Replies that are lost, servers that stop and come back.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all};
use idempotency_core::{Durability, Inserted, Store, StoreErrorKind, Survives, Updated};
use idempotency_store_redis::RedisConfig;
use idempotency_store_testkit::servers::{Proxy, Redis};
use tokio::sync::Semaphore;

use crate::support::*;

const CALLS: u64 = 1_000;

/// Repeats what got no answer.
async fn until_answered<T>(mut call: impl AsyncFnMut() -> Result<T, idempotency_core::StoreError>) -> T {
    for _ in 0..50 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    panic!("no answer after fifty attempts");
}

#[test]
fn claims_and_results_whose_replies_are_lost_are_known_when_they_are_repeated() {
    run(async {
        let redis = Redis::start(&[]);
        let proxy = Proxy::start(redis.port());
        let store = set_up(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port()))).await.unwrap();
        let direct = set_up(RedisConfig::new(redis.url())).await.unwrap();
        // The server knows the scripts.
        store.insert(&claim(CALLS), now()).await.unwrap();
        store.update(&complete(CALLS, "done"), now()).await.unwrap();
        for number in 0..CALLS {
            proxy.lose_replies(1, "SET");
            let claimed = until_answered(async || store.insert(&claim(number), now()).await).await;
            assert_eq!(claimed, Inserted::Claimed, "by one's own ghost nobody is blocked");
            proxy.lose_replies(1, "EVAL");
            let put = until_answered(async || store.update(&complete(number, "done"), now()).await).await;
            assert_eq!(put, Updated::AlreadyApplied, "{number}: the reply was lost after it was applied");
        }
        assert_eq!(proxy.lost() as u64, 2 * CALLS);
        for number in 0..CALLS {
            assert!(matches!(direct.insert(&rival(number), now()).await.unwrap(), Inserted::Exists(_)));
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "a real server comes back in real time")]
#[test]
fn a_server_that_was_killed_keeps_what_it_acknowledged_and_is_used_again_within_two_seconds() {
    run(async {
        let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
        let durable = RedisConfig::new(redis.url()).durability(Durability::new(Survives::PowerLoss, 0));
        let store = set_up(durable).await.unwrap();
        let mut settled = store.settled().unwrap();
        for round in 0..10 * soak(10) {
            let from = round * 200;
            let answered = &Semaphore::new(0);
            let claims = join_all((from..from + 200).map(|number| {
                let store = &store;
                async move {
                    let answer = store.insert(&claim(number), now()).await;
                    answered.add_permits(1);
                    (number, answer)
                }
            }));
            // In the middle of it: each round after some more of them.
            let killed = async {
                answered.acquire_many(15 * (round as u32 % 10)).await.unwrap().forget();
                redis.kill();
            };
            let (answers, ()) = tokio::join!(claims, killed);
            let error = store.lookup(&id(0), now()).await.unwrap_err();
            assert!(
                matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
                    && error.is_retryable(),
                "{error:?}"
            );
            redis.restart();
            let since = Instant::now();
            until_answered(async || store.lookup(&id(0), now()).await).await;
            assert!(since.elapsed() < Duration::from_secs(2), "used again after {:?}", since.elapsed());
            for (number, answer) in answers {
                let stands = store.lookup(&id(number), now()).await.unwrap().is_some();
                assert!(stands || answer.is_err(), "{number} was acknowledged, and is gone");
            }
        }
        // The subscription is there again, too.
        assert_eq!(store.insert(&claim(9_999), now()).await.unwrap(), Inserted::Claimed);
        let heard = async {
            loop {
                store.watch(&id(9_999), now()).await.unwrap();
                let _ = store.update(&complete(9_999, "done"), now()).await.unwrap();
                if let Ok(Some(heard)) = tokio::time::timeout(Duration::from_secs(1), settled.next()).await {
                    return heard;
                }
                until_answered(async || {
                    let forget = idempotency_core::Change::Forget;
                    store.update(&update(9_999, forget), now()).await
                })
                .await;
                store.insert(&claim(9_999), now()).await.unwrap();
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap(), id(9_999));
    });
}

#[test]
fn a_server_that_does_not_answer_costs_each_call_no_more_than_its_limit() {
    run(async {
        let redis = Redis::start(&[]);
        let config = RedisConfig::new(redis.url()).call_limit(Duration::from_millis(200));
        let store = set_up(config).await.unwrap();
        redis.pause();
        let calls = join_all((0..50).map(|number| {
            let store = &store;
            async move { store.insert(&claim(number), now()).await }
        }));
        let answers = tokio::time::timeout(Duration::from_secs(5), calls).await.expect("nothing hangs");
        for answer in answers {
            let error = answer.unwrap_err();
            assert!(error.kind() == StoreErrorKind::TimedOut && !error.was_not_applied(), "{error:?}");
        }
        redis.resume();
        for number in 0..50 {
            // It may have been applied late; by its owner it is claimed once more.
            let claimed = until_answered(async || store.insert(&claim(number), now()).await).await;
            assert_eq!(claimed, Inserted::Claimed);
        }
    });
}
