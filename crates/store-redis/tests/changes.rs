//! Servers that become something else under a live store.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use idempotency_core::{Durability, Inserted, Store, StoreError, StoreErrorKind, Survives, Updated};
use idempotency_store_redis::{RedisConfig, RedisStore};
use idempotency_store_testkit::servers::{Proxy, Redis, RedisCluster, until};

use crate::support::*;

fn through(proxy: &Proxy) -> RedisConfig {
    RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port()))
}

/// Where the store keeps it.
fn key_of(number: u64) -> String {
    format!("idempotency:r:{number:032}")
}

/// Until it is claimed.
async fn claimed_in_the_end(store: &RedisStore, number: u64) {
    until("a store that finds back", async || match store.insert(&claim(number), now()).await {
        Ok(answer) => answer == Inserted::Claimed,
        Err(error) => {
            assert!(error.kind() != StoreErrorKind::Corrupt, "{error}");
            false
        }
    })
    .await;
}

/// As often as the client gives up to connect by itself, and then some: what it keeps of that must not last.
async fn refused_again_and_again(store: &RedisStore) {
    let mut attempts = 0;
    until("attempts that are refused", async || {
        store.insert(&claim(1), now()).await.expect_err("nobody is let in");
        attempts += 1;
        attempts == 20
    })
    .await;
}

#[test]
fn a_primary_that_becomes_a_replica_answers_nothing_stale_and_is_left() {
    run(async {
        for replicas in [0, 1] {
            let first = Redis::start(&[]);
            let second = first.replica(first.port());
            let proxy = Proxy::start(first.port());
            let config = through(&proxy).durability(Durability::new(Survives::Memory, replicas));
            let store = set_up_in_the_end(config).await;
            claimed_in_the_end(&store, 1).await;
            for _ in 0..50 {
                if store.update(&complete(1, "done"), now()).await.is_ok() {
                    break;
                }
            }
            // Nobody waited for it, with no replica to wait for.
            until("a replica in step", async || second.command(&["EXISTS", &key_of(1)]) == "1").await;
            second.promote();
            first.command(&["REPLICAOF", "127.0.0.1", &second.port().to_string()]);
            for _ in 0..3 {
                let error = store.insert(&rival(1), now()).await.expect_err("it knows what was, not what is");
                assert!(error.is_retryable(), "{error}");
                store.lookup(&id(1), now()).await.expect_err("it knows what was, not what is");
                store.insert(&claim(2), now()).await.expect_err("nothing can be written");
            }
            proxy.lead_to(second.port());
            claimed_in_the_end(&store, 3).await;
            assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
        }
    });
}

/// It goes on as a primary, without the replica that has taken over; only where the address leads has changed.
#[test]
fn a_former_primary_without_its_replica_is_left_by_all_connections() {
    run(async {
        let first = Redis::start(&[]);
        let second = first.replica(first.port());
        let proxy = Proxy::start(first.port());
        let config = through(&proxy).durability(Durability::new(Survives::Memory, 1));
        let store = set_up_in_the_end(config).await;
        claimed_in_the_end(&store, 1).await;
        second.promote();
        let _third = second.replica(second.port());
        proxy.lead_to(second.port());
        claimed_in_the_end(&store, 2).await;
        assert_eq!(second.command(&["EXISTS", &key_of(2)]), "1");
    });
}

#[test]
fn a_connection_behind_which_nobody_answers_is_replaced_and_so_is_the_subscription() {
    run(async {
        for replicas in [0, 1] {
            let redis = Redis::start(&[]);
            let _replica = redis.replica(redis.port());
            let proxy = Proxy::start(redis.port());
            let config = through(&proxy).durability(Durability::new(Survives::Memory, replicas));
            let store = set_up_in_the_end(config).await;
            let mut settled = store.settled().unwrap();
            claimed_in_the_end(&store, 1).await;
            proxy.silence();
            claimed_in_the_end(&store, 2).await;
            // The subscription notices it within two times two seconds.
            let heard = async {
                for number in 3.. {
                    claimed_in_the_end(&store, number).await;
                    // With replicas to wait for, the claims went another way than this.
                    if store.watch(&id(number), now()).await.is_err() {
                        continue;
                    }
                    assert_eq!(
                        store.update(&complete(number, "done"), now()).await.unwrap(),
                        Updated::Applied
                    );
                    if tokio::time::timeout(Duration::from_millis(200), settled.next()).await.is_ok() {
                        return;
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(20), heard).await.expect("hints are heard again");
        }
    });
}

#[test]
fn a_server_that_refuses_the_login_for_a_while_is_used_again() {
    run(async {
        let redis = Redis::start(&[]);
        redis.command(&["ACL", "SETUSER", "payments", "on", ">s3cr3t", "~*", "&*", "+@all"]);
        let url = format!("redis://payments:s3cr3t@127.0.0.1:{}", redis.port());
        let store = set_up(RedisConfig::new(url).call_limit(Duration::from_millis(300))).await.unwrap();
        redis.command(&["ACL", "SETUSER", "payments", "resetpass", ">other"]);
        redis.command(&["CLIENT", "KILL", "USER", "payments"]);
        refused_again_and_again(&store).await;
        redis.command(&["ACL", "SETUSER", "payments", ">s3cr3t"]);
        claimed_in_the_end(&store, 1).await;
    });
}

#[test]
fn a_server_that_has_no_place_for_a_while_is_used_again() {
    run(async {
        let redis = Redis::start(&[]);
        let proxy = Proxy::start(redis.port());
        let store = set_up_in_the_end(through(&proxy)).await;
        redis.command(&["CONFIG", "SET", "maxclients", "10"]);
        proxy.down(true);
        let is_alone = async || redis.command(&["INFO", "clients"]).contains("connected_clients:1\r");
        until("an end of all connections", is_alone).await;
        let others: Vec<_> =
            (0..12).map(|_| std::net::TcpStream::connect(("127.0.0.1", redis.port())).unwrap()).collect();
        proxy.down(false);
        let error = store.insert(&claim(1), now()).await.expect_err("there is no place");
        assert!(error.is_retryable(), "{error:?}");
        refused_again_and_again(&store).await;
        drop(others);
        claimed_in_the_end(&store, 1).await;
    });
}

/// How often a piece of work is tried, at most.
const ATTEMPTS: u64 = 1_000;

/// Claims and results, one after the other, until told to stop; counts what is done. Returns how many had to be repeated.
async fn stream_of_work(store: &RedisStore, from: u64, done: &AtomicU64, is_over: &AtomicBool) -> u64 {
    let mut repeated = 0;
    for number in from.. {
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        let mut attempts = 0;
        let mut failed = |error: StoreError| {
            attempts += 1;
            assert!(error.is_retryable() && attempts < ATTEMPTS, "{error:?}");
        };
        while let Err(error) = store.insert(&claim(number), now()).await {
            failed(error);
            tokio::task::yield_now().await;
        }
        while let Err(error) = store.update(&complete(number, "done"), now()).await {
            failed(error);
            tokio::task::yield_now().await;
        }
        done.fetch_add(1, Ordering::SeqCst);
        repeated += attempts;
    }
    repeated
}

#[test]
fn a_cluster_that_fails_over_and_moves_its_slots_is_followed() {
    run(async {
        for replicas in [0, 1] {
            let cluster = RedisCluster::start(3).with_replicas();
            let config =
                RedisConfig::cluster(cluster.urls()).durability(Durability::new(Survives::Memory, replicas));
            let store = set_up_in_the_end(config).await;
            let (is_over, done) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 8]);
            let from = |stream: usize| stream as u64 * 1_000_000;
            let streams = (0..8).map(|stream| stream_of_work(&store, from(stream), &done[stream], &is_over));
            let changes = async {
                // All of them have done some work, and do more after each change.
                let work = async |count: u64| {
                    let before: Vec<u64> = done.iter().map(|done| done.load(Ordering::SeqCst)).collect();
                    let is_done =
                        |(done, before): (&AtomicU64, &u64)| done.load(Ordering::SeqCst) >= before + count;
                    until("work", async || done.iter().zip(&before).all(is_done)).await;
                };
                work(20).await;
                // The former primary lives on, and says where to go.
                tokio::task::block_in_place(|| cluster.fail_over(0));
                work(20).await;
                tokio::task::block_in_place(|| {
                    (5_500..5_700).for_each(|slot| cluster.move_slot(slot, 1, 2, || {}));
                });
                work(20).await;
                is_over.store(true, Ordering::SeqCst);
            };
            let (repeated, ()) = tokio::join!(join_all(streams), changes);
            let mut total = 0;
            for (stream, done) in done.iter().enumerate() {
                let done = done.load(Ordering::SeqCst);
                for number in from(stream)..from(stream) + done {
                    let Inserted::Exists(record) = store.insert(&rival(number), now()).await.unwrap() else {
                        panic!("{number} was acknowledged, and is gone")
                    };
                    assert!(record.state.is_settled(), "{number}");
                }
                total += done;
            }
            let repeated: u64 = repeated.iter().sum();
            eprintln!("{replicas} replicas: {total} done, {repeated} repeated");
            assert!(total > 200, "{total}");
        }
    });
}

/// A slot that is on its way belongs to two nodes: what is gone already is asked for at the other.
#[test]
fn a_slot_in_the_middle_of_its_move_is_served() {
    run(async {
        let cluster = RedisCluster::start(3).with_replicas();
        for replicas in [0, 1] {
            let config = RedisConfig::cluster(cluster.urls())
                .prefix(format!("{{of one slot}}{replicas}:"))
                .durability(Durability::new(Survives::Memory, replicas));
            let store = std::sync::Arc::new(set_up_in_the_end(config).await);
            store.insert(&claim(1), now()).await.unwrap();
            let slot = cluster.slot_of("{of one slot}");
            let owner = cluster.first_owner_of(slot);
            let (from, to) = if replicas == 0 { (owner, (owner + 1) % 3) } else { ((owner + 1) % 3, owner) };
            let between = || {
                let store = store.clone();
                let in_between = async move {
                    assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
                    // A new one is written where the slot is going to.
                    assert_eq!(store.insert(&claim(2), now()).await.unwrap(), Inserted::Claimed);
                    assert_eq!(store.update(&complete(2, "done"), now()).await.unwrap(), Updated::Applied);
                };
                tokio::runtime::Handle::current().block_on(in_between);
            };
            tokio::task::block_in_place(|| cluster.move_slot(slot, from, to, between));
            assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
            assert!(matches!(store.insert(&rival(2), now()).await.unwrap(), Inserted::Exists(_)));
        }
    });
}
