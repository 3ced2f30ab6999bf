//! Replies that are lost, servers that stop and come back.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all};
use idempotency_core::{Durability, Inserted, Store, StoreError, StoreErrorKind, Survives, Updated};
use idempotency_store_postgres::{PostgresConfig, PostgresStore};
use idempotency_store_testkit::servers::{Postgres, Proxy, until};
use tokio::sync::Semaphore;

use crate::support::*;

const CALLS: u64 = 1_000;

/// Repeats what got no answer.
async fn until_answered<T>(mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let mut answer = None;
    until("an answer", async || match call().await {
        Ok(said) => answer.replace(said).is_none(),
        Err(error) => {
            assert!(error.is_retryable(), "{error:?}");
            false
        }
    })
    .await;
    answer.unwrap()
}

#[test]
fn claims_and_results_whose_replies_are_lost_are_known_when_they_are_repeated() {
    run(async {
        let proxy = Proxy::start(SERVER.port());
        let config = |url| PostgresConfig::new(url).table("lost_replies");
        let store = set_up(config(SERVER.url_through(proxy.port()))).await.unwrap();
        let direct = set_up(config(SERVER.url())).await.unwrap();
        for number in 0..CALLS {
            let (mut claim, put) = (claim(number), complete(number, "done"));
            proxy.lose_replies(1, claim.id.as_bytes());
            let claimed = until_answered(async || store.insert(&claim, now()).await).await;
            assert_eq!(claimed, Inserted::Claimed, "by one's own ghost nobody is blocked");
            proxy.lose_replies(1, claim.id.as_bytes());
            let put = until_answered(async || store.update(&put, now()).await).await;
            assert_eq!(put, Updated::AlreadyApplied, "{number}: the reply was lost after it was applied");
            claim.owner = owner(u64::MAX - 1);
            assert!(matches!(direct.insert(&claim, now()).await.unwrap(), Inserted::Exists(_)));
        }
        assert_eq!(proxy.lost() as u64, 2 * CALLS);
    });
}

#[expect(clippy::disallowed_methods, reason = "a real server comes back in real time")]
#[test]
fn i6_a_server_that_was_killed_keeps_what_it_acknowledged_and_is_used_again_within_two_seconds() {
    run(async {
        let mut postgres = Postgres::start(&[]);
        let store = set_up(PostgresConfig::new(postgres.url())).await.unwrap();
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
                tokio::task::block_in_place(|| postgres.kill());
            };
            let (answers, ()) = tokio::join!(claims, killed);
            let error = store.lookup(&id(0), now()).await.unwrap_err();
            assert!(
                matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
                    && error.is_retryable(),
                "{error:?}"
            );
            tokio::task::block_in_place(|| postgres.restart());
            let since = Instant::now();
            until_answered(async || store.lookup(&id(0), now()).await).await;
            assert!(since.elapsed() < Duration::from_secs(2), "used again after {:?}", since.elapsed());
            for (number, answer) in answers {
                let stands = store.lookup(&id(number), now()).await.unwrap().is_some();
                assert!(stands || answer.is_err(), "{number} was acknowledged, and is gone");
            }
        }
        // Hints are heard again, too.
        let heard = async {
            for number in 100_000..100_100 {
                store.insert(&claim(number), now()).await.unwrap();
                store.watch(&id(number), now()).await.unwrap();
                store.update(&complete(number, "done"), now()).await.unwrap();
                if let Ok(Some(heard)) =
                    tokio::time::timeout(Duration::from_millis(300), settled.next()).await
                {
                    return assert_eq!(heard, id(number));
                }
            }
            panic!("nobody tells of anything");
        };
        heard.await;
    });
}

#[test]
fn a_server_that_does_not_answer_costs_each_call_no_more_than_its_limit() {
    run(async {
        let postgres = Postgres::start(&[]);
        let config = PostgresConfig::new(postgres.url()).call_limit(Duration::from_millis(300));
        let store = set_up(config).await.unwrap();
        postgres.pause();
        let calls = join_all((0..50).map(|number| {
            let store = &store;
            async move { store.insert(&claim(number), now()).await }
        }));
        let answers = tokio::time::timeout(Duration::from_secs(5), calls).await.expect("nothing hangs");
        for answer in answers {
            let error = answer.unwrap_err();
            let kinds = [StoreErrorKind::TimedOut, StoreErrorKind::Unavailable];
            assert!(error.is_retryable() && kinds.contains(&error.kind()), "{error:?}");
        }
        postgres.resume();
        for number in 0..50 {
            // It may have been applied late; by its owner it is claimed once more.
            let claimed = until_answered(async || store.insert(&claim(number), now()).await).await;
            assert_eq!(claimed, Inserted::Claimed);
        }
    });
}

/// As behind a firewall that forgets connections: they stay, and nothing passes.
#[test]
fn connections_on_which_nothing_passes_any_more_are_given_up_and_made_anew() {
    run(async {
        let proxy = Proxy::start(SERVER.port());
        let config = PostgresConfig::new(SERVER.url_through(proxy.port())).table("silenced").connections(2);
        let store = set_up(config.call_limit(Duration::from_millis(300))).await.unwrap();
        for round in 0..3 {
            let both = [claim(2 * round), claim(2 * round + 1)];
            let claims = join_all(both.iter().map(|claim| store.insert(claim, now()))).await;
            assert!(claims.iter().all(|answer| answer.as_ref().is_ok_and(|it| *it == Inserted::Claimed)));
            proxy.silence();
            let puts = [complete(2 * round, "done"), complete(2 * round + 1, "done")];
            let silent = join_all(puts.iter().map(|put| store.update(put, now()))).await;
            assert!(silent.iter().any(Result::is_err), "a connection on which nothing passes was used");
            for put in puts {
                let put = until_answered(async || store.update(&put, now()).await).await;
                assert!(matches!(put, Updated::Applied | Updated::AlreadyApplied), "{put:?}");
            }
        }
    });
}

/// The primary is killed, and its standby promoted. Returns how many claims that were handed out were handed out again.
async fn offered_twice(replicas: u8) -> usize {
    let names = if replicas > 0 { "synchronous_standby_names=standby" } else { "synchronous_standby_names=" };
    let mut primary = Postgres::start(&[names, "synchronous_commit=on"]);
    let between = Proxy::start(primary.port());
    let standby = tokio::task::block_in_place(|| primary.standby(between.port()));
    let config = |server: &Postgres, replicas| {
        PostgresConfig::new(server.url())
            .durability(Durability::new(Survives::PowerLoss, replicas))
            // Whoever waits for a standby that is gone waits in vain.
            .call_limit(if replicas > 0 { Duration::from_millis(500) } else { Duration::from_secs(10) })
    };
    let store: PostgresStore = until_set_up(config(&primary, replicas)).await;
    let mut given = Vec::new();
    for number in 0..3 {
        assert_eq!(store.insert(&claim(number), now()).await.unwrap(), Inserted::Claimed);
        given.push(number);
    }
    between.down(true);
    let is_alone = async || primary.sql("SELECT count(*) FROM pg_stat_replication") == "0";
    until("a standby that is cut off", is_alone).await;
    for number in 3..9 {
        match store.insert(&claim(number), now()).await {
            Ok(answer) => {
                assert_eq!(answer, Inserted::Claimed);
                given.push(number);
            }
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    let twice = tokio::task::block_in_place(|| {
        primary.kill();
        standby.promote();
        standby.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
        standby.sql("SELECT pg_reload_conf()")
    });
    assert_eq!(twice, "t");
    let store = until_set_up(config(&standby, 0)).await;
    let mut twice = 0;
    for number in given {
        let again = until_answered(async || store.insert(&rival(number), now()).await).await;
        twice += usize::from(again == Inserted::Claimed);
    }
    twice
}

/// A standby is in step a moment after it follows.
async fn until_set_up(config: PostgresConfig) -> PostgresStore {
    until_answered(async || set_up(config.clone()).await.map_err(|error| error.retryable(true))).await
}

#[test]
fn i6_a_claim_that_a_standby_acknowledged_survives_its_primary() {
    run(async {
        for _ in 0..5 * soak(10) {
            assert_eq!(offered_twice(1).await, 0);
        }
    });
}

/// Or the test above shows nothing.
#[test]
fn without_a_synchronous_standby_claims_are_offered_twice() {
    run(async {
        assert!(offered_twice(0).await >= 6);
    });
}
