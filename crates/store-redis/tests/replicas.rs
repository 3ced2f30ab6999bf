//! A primary that dies takes with it what its replicas do not have.

use std::time::Duration;

use futures_util::future::join_all;
use idempotency_core::{Durability, Inserted, Store, StoreErrorKind, Survives, Updated};
use idempotency_store_redis::RedisConfig;
use idempotency_store_testkit::servers::{Proxy, Redis, RedisCluster, until};

use crate::support::*;

const CLAIMS: u64 = 20;

fn config(redis: &Redis, replicas: u8) -> RedisConfig {
    RedisConfig::new(redis.url())
        .durability(Durability::new(Survives::Memory, replicas))
        .call_limit(Duration::from_secs(1))
}

/// The replica is cut off, the primary killed, and the replica promoted. Returns how many claims that were handed out were
/// handed out a second time.
async fn offered_twice(replicas: u8) -> usize {
    let mut primary = Redis::start(&[]);
    let between = Proxy::start(primary.port());
    let replica = primary.replica(between.port());
    let store = set_up_in_the_end(config(&primary, replicas)).await;
    // In step first, and then cut off.
    for number in 0..3 {
        assert_eq!(store.insert(&claim(number), now()).await.unwrap(), Inserted::Claimed);
    }
    between.down(true);
    let is_alone = async || primary.command(&["INFO", "replication"]).contains("connected_slaves:0");
    until("a replica that is cut off", is_alone).await;
    let mut given = vec![0, 1, 2];
    for number in 3..3 + if replicas > 0 { 3 } else { CLAIMS } {
        match store.insert(&claim(number), now()).await {
            Ok(answer) => {
                assert_eq!(answer, Inserted::Claimed);
                given.push(number);
            }
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}"),
        }
    }
    primary.kill();
    replica.promote();
    let store = set_up(config(&replica, 0)).await.unwrap();
    let mut twice = 0;
    for number in given {
        twice += usize::from(store.insert(&rival(number), now()).await.unwrap() == Inserted::Claimed);
    }
    twice
}

#[test]
fn i6_a_claim_that_a_replica_acknowledged_survives_its_primary() {
    run(async {
        for _ in 0..5 * soak(10) {
            assert_eq!(offered_twice(1).await, 0);
        }
    });
}

/// Or the test above shows nothing.
#[test]
fn without_waiting_for_the_replica_claims_are_offered_twice() {
    run(async {
        assert!(offered_twice(0).await >= CLAIMS as usize);
    });
}

#[test]
fn a_claim_without_its_replica_is_given_back_and_a_result_is_repeated() {
    run(async {
        let primary = Redis::start(&[]);
        let replica = primary.replica(primary.port());
        let store = set_up_in_the_end(config(&primary, 1)).await;
        assert_eq!(store.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        replica.pause();
        let error = store.insert(&claim(2), now()).await.unwrap_err();
        assert!(error.kind() == StoreErrorKind::Unavailable && error.is_retryable(), "{error}");
        let error = store.update(&complete(1, "done"), now()).await.unwrap_err();
        assert!(error.kind() == StoreErrorKind::Unavailable && !error.was_not_applied(), "{error}");
        replica.resume();
        assert_eq!(store.lookup(&id(2), now()).await.unwrap(), None, "nobody is blocked by it");
        // What was written before counts: the repetition waits for it.
        assert_eq!(store.update(&complete(1, "done"), now()).await.unwrap(), Updated::AlreadyApplied);
        assert_eq!(store.insert(&claim(2), now()).await.unwrap(), Inserted::Claimed);
    });
}

#[test]
fn in_a_cluster_each_claim_waits_for_the_replica_of_its_own_primary() {
    run(async {
        let mut cluster = RedisCluster::start(3).with_replicas();
        let config = RedisConfig::cluster(cluster.urls())
            .durability(Durability::new(Survives::Memory, 1))
            .call_limit(Duration::from_secs(1));
        let store = set_up_in_the_end(config).await;
        for number in 0..30 {
            assert_eq!(store.insert(&claim(number), now()).await.unwrap(), Inserted::Claimed);
            assert_eq!(store.update(&complete(number, "done"), now()).await.unwrap(), Updated::Applied);
        }
        // Without the replica of one primary a third of all claims cannot be made.
        cluster.replicas()[0].pause();
        let (mut made, mut refused) = (0, 0);
        for number in 30..42 {
            match store.insert(&claim(number), now()).await {
                Ok(answer) => made += usize::from(answer == Inserted::Claimed),
                Err(error) => refused += usize::from(error.kind() == StoreErrorKind::Unavailable),
            }
        }
        cluster.replicas()[0].resume();
        assert!(made > 0 && refused > 0 && made + refused == 12, "{made} made, {refused} refused");
        let held: usize =
            cluster.nodes().iter().map(|node| node.command(&["DBSIZE"]).parse::<usize>().unwrap()).sum();
        // And the key of the store itself.
        assert_eq!(held, 30 + made + 1, "what was refused was given back");
    });
}

/// Many at once, before, while and after the way to the replica is cut.
#[test]
fn i6_of_many_claims_around_the_loss_of_a_replica_those_that_were_made_survive() {
    run(async {
        let mut primary = Redis::start(&[]);
        let between = Proxy::start(primary.port());
        let replica = primary.replica(between.port());
        let store = set_up_in_the_end(config(&primary, 1)).await;
        let (mut made, mut refused) = (Vec::new(), Vec::new());
        for wave in 0..12 {
            let claims = join_all((wave * 64..(wave + 1) * 64).map(|number| {
                let store = &store;
                async move { (number, store.insert(&claim(number), now()).await) }
            }));
            let cut = async {
                match wave {
                    3 => between.down(true),
                    6 => {
                        between.down(false);
                        in_step(&primary).await;
                    }
                    _ => {}
                }
            };
            // It connects again only after the claims of the sixth wave have waited in vain.
            let (answers, ()) = tokio::join!(claims, cut);
            for (number, answer) in answers {
                match answer {
                    Ok(answer) => {
                        assert_eq!(answer, Inserted::Claimed);
                        made.push(number);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
                        refused.push(number);
                    }
                }
            }
        }
        assert!(made.len() >= 5 * 64 && refused.len() >= 2 * 64, "{} made", made.len());
        for number in refused {
            assert_eq!(store.lookup(&id(number), now()).await.unwrap(), None, "{number} was given back");
        }
        primary.kill();
        replica.promote();
        let store = set_up(config(&replica, 0)).await.unwrap();
        for number in made {
            let answer = store.insert(&rival(number), now()).await.unwrap();
            assert!(matches!(answer, Inserted::Exists(_)), "{number} is offered twice");
        }
    });
}

async fn in_step(primary: &Redis) {
    let is_online = async || primary.command(&["INFO", "replication"]).contains("state=online");
    until("a replica in step", is_online).await;
}

/// A response that only the primary has could be gone with it, after a client has seen it.
#[test]
fn i6_a_result_that_its_replica_does_not_have_is_not_replayed() {
    run(async {
        let primary = Redis::start(&[]);
        let replica = primary.replica(primary.port());
        let store = set_up_in_the_end(config(&primary, 1)).await;
        store.insert(&claim(1), now()).await.unwrap();
        store.insert(&claim(2), now()).await.unwrap();
        replica.pause();
        store.update(&complete(1, "done"), now()).await.unwrap_err();
        let error = store.insert(&rival(1), now()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        let error = store.lookup(&id(1), now()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
        // That somebody else is at it needs no waiting: it was waited for.
        assert!(matches!(store.insert(&rival(2), now()).await.unwrap(), Inserted::Exists(_)));
        replica.resume();
        assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
    });
}

#[test]
fn a_claim_that_is_made_again_meanwhile_is_not_given_back() {
    run(async {
        let primary = Redis::start(&[]);
        let replica = primary.replica(primary.port());
        let between = Proxy::start(primary.port());
        let through = RedisConfig::new(format!("redis://127.0.0.1:{}", between.port()))
            .durability(Durability::new(Survives::Memory, 1))
            .call_limit(Duration::from_secs(4));
        let store = set_up_in_the_end(through).await;
        let direct = set_up(config(&primary, 0)).await.unwrap();
        replica.pause();
        // It hears after two seconds that too few have it, and this one second later.
        between.delay(Duration::from_secs(1));
        let again = async {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            assert_eq!(direct.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        };
        let given = claim(1);
        let (answer, ()) = tokio::join!(store.insert(&given, now()), again);
        assert_eq!(answer.unwrap_err().kind(), StoreErrorKind::Unavailable);
        replica.resume();
        assert!(matches!(direct.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
    });
}

/// A replica that is gone holds up nobody for longer than his own limit, however many there are.
#[test]
fn i9_many_callers_without_a_replica_are_answered_within_their_limit() {
    run(async {
        let primary = Redis::start(&[]);
        let replica = primary.replica(primary.port());
        let store = set_up_in_the_end(config(&primary, 1)).await;
        // The server knows the script.
        store.insert(&claim(9_999), now()).await.unwrap();
        replica.pause();
        // More than have their turn in that time, in three rounds of 64 on four connections.
        let claims = join_all((0..1_500).map(|number| {
            let store = &store;
            async move { store.insert(&claim(number), now()).await }
        }));
        let reads = async {
            for number in 0..20 {
                store.lookup(&id(number), now()).await.expect("a read waits for nobody");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let (answers, ()) =
            tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(claims, reads) })
                .await
                .expect("nothing hangs");
        let (mut given_back, mut not_sent) = (0, 0);
        for answer in answers {
            let error = answer.unwrap_err();
            assert!(error.is_retryable(), "{error}");
            match error.was_not_applied() {
                true => not_sent += 1,
                false => given_back += 1,
            }
        }
        assert!(given_back > 0 && not_sent > 0, "{given_back} given back, {not_sent} not sent");
        replica.resume();
        for number in 0..1_500 {
            assert_eq!(store.insert(&claim(number), now()).await.unwrap(), Inserted::Claimed);
        }
    });
}
