//! What a server must be like, and what is refused before anything is done.

use std::time::{Duration, Instant};

use idempotency_core::{
    Change, Durability, HaltReason, Inserted, Store, StoreCommand, StoreError, StoreErrorKind, StoreReply,
    Survives, Updated,
};
use idempotency_store_redis::{RedisConfig, RedisStore};
use idempotency_store_testkit::servers::{Redis, RedisCluster, until};

use crate::support::*;

fn durable(redis: &Redis) -> RedisConfig {
    RedisConfig::new(redis.url()).durability(Durability::new(Survives::PowerLoss, 0))
}

fn key(prefix: &str, number: u64) -> String {
    format!("{prefix}r:{}", std::str::from_utf8(id(number).as_bytes()).unwrap())
}

async fn refused(config: RedisConfig, kind: StoreErrorKind, reason: &str) {
    let error = set_up(config).await.expect_err(reason);
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(reason) && error.was_not_applied(), "{error}");
}

#[test]
fn a_server_that_evicts_is_refused_whatever_its_policy() {
    run(async {
        let redis = Redis::start(&["--maxmemory", "100mb"]);
        for policy in ["allkeys-lru", "volatile-lru", "volatile-ttl", "allkeys-random"] {
            redis.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
            refused(RedisConfig::new(redis.url()), StoreErrorKind::Misconfigured, policy).await;
        }
        redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        set_up(RedisConfig::new(redis.url())).await.unwrap();
    });
}

#[test]
fn a_durability_that_the_server_does_not_give_is_refused() {
    run(async {
        let redis = Redis::start(&[]);
        refused(durable(&redis), StoreErrorKind::Misconfigured, "`appendonly` must be `yes`").await;
        // Each key takes half a second to be written.
        redis.command(&["CONFIG", "SET", "rdb-key-save-delay", "500000"]);
        redis.command(&["SET", "something", "else"]);
        redis.command(&["CONFIG", "SET", "appendonly", "yes"]);
        refused(durable(&redis), StoreErrorKind::Unavailable, "writes its first append-only file").await;
        let is_whole = async || redis.command(&["INFO", "persistence"]).contains("aof_rewrite_in_progress:0");
        until("a file that is whole", is_whole).await;
        refused(durable(&redis), StoreErrorKind::Misconfigured, "and is `everysec`").await;
        redis.command(&["CONFIG", "SET", "appendfsync", "always"]);
        redis.command(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"]);
        refused(durable(&redis), StoreErrorKind::Misconfigured, "`no-appendfsync-on-rewrite` must be `no`")
            .await;
        redis.command(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "no"]);
        set_up(durable(&redis)).await.unwrap();
        let two = RedisConfig::new(redis.url()).durability(Durability::new(Survives::Memory, 2));
        refused(two, StoreErrorKind::Unavailable, "declares 2 replicas, and the server has 0").await;
    });
}

#[test]
fn a_replica_is_refused() {
    run(async {
        let redis = Redis::start(&[]);
        let replica = redis.replica(redis.port());
        refused(
            RedisConfig::new(replica.url()),
            StoreErrorKind::Unavailable,
            "is a slave, and not the primary",
        )
        .await;
    });
}

#[test]
fn a_user_with_only_the_commands_that_are_needed_suffices_and_one_without_login_is_refused() {
    run(async {
        let redis = Redis::start(&[]);
        let rules = "on >s3cr3t ~mine:* &mine:settled +@scripting -script +info +get +set +getrange +setrange \
                     +pttl +pexpire +pexpireat +pexpiretime +del +publish +hsetnx +hmget +hset +scan +subscribe +ping";
        let command: Vec<&str> =
            ["ACL", "SETUSER", "payments"].into_iter().chain(rules.split_whitespace()).collect();
        redis.command(&command);
        let at = |login: &str| format!("redis://{login}127.0.0.1:{}", redis.port());
        let store = set_up(RedisConfig::new(at("payments:s3cr3t@")).prefix("mine:")).await.unwrap();
        assert_eq!(store.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        store.watch(&id(1), now()).await.unwrap();
        assert_eq!(store.update(&complete(1, "done"), now()).await.unwrap(), Updated::Applied);
        assert_eq!(store.scan(None, 10).await.unwrap().records.len(), 1);
        // Nothing but its own keys.
        let other = set_up(RedisConfig::new(at("payments:s3cr3t@")).prefix("other:")).await.unwrap_err();
        assert_eq!(other.kind(), StoreErrorKind::Misconfigured, "{other}");
        let wrong = set_up(RedisConfig::new(at("payments:wrong@"))).await.unwrap_err();
        assert!(
            !format!("{wrong:?} {store:?}").contains("s3cr3t") && !format!("{wrong:?}").contains("wrong@")
        );
        assert_eq!(wrong.kind(), StoreErrorKind::Misconfigured, "{wrong}");
    });
}

#[test]
fn what_would_travel_unencrypted_to_another_machine_is_refused() {
    run(async {
        let secret = "redis://payments:s3cr3t@redis.example:6379";
        let error = RedisStore::open(secret).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
        assert!(
            error.to_string().contains("redis.example is another machine")
                && !error.to_string().contains("s3cr3t")
        );
        assert!(RedisStore::open(RedisConfig::new(secret).allow_plaintext(true)).is_ok());
        for nonsense in ["", "http://127.0.0.1", "redis://:s3cr3t@[::1"] {
            let error = RedisStore::open(nonsense).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
        assert!(RedisStore::open(RedisConfig::cluster::<String>([])).is_err());
    });
}

/// The claim that is refused does not matter; the result that is refused would.
#[test]
fn a_server_that_is_out_of_memory_refuses_claims_and_takes_results() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        for number in 0..5 {
            store.insert(&claim(number), now()).await.unwrap();
        }
        redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
        let error = store.insert(&claim(9), now()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Full, "{error:?}");
        assert!(error.was_not_applied());
        // What is there is answered, renewed and settled.
        assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
        store.watch(&id(0), now()).await.unwrap();
        let renewal = Change::Renew { lease: HOUR, retention: HOUR };
        let halt = Change::Halt { reason: HaltReason::Panicked, retention: HOUR };
        for (number, change) in [(0, renewal), (1, halt), (2, Change::Release)] {
            assert_eq!(
                store.update(&update(number, change), now()).await.unwrap(),
                Updated::Applied,
                "{number}"
            );
        }
        let body = vec![7; 100_000];
        assert_eq!(store.update(&complete(3, body.clone()), now()).await.unwrap(), Updated::Applied);
        let stored = store.lookup(&id(3), now()).await.unwrap().unwrap();
        assert_eq!(stored.state, idempotency_core::State::Completed(body.into()));
        set_up(RedisConfig::new(redis.url())).await.expect("another node starts on it");
        // The way out: nobody starts on it again after a swap away.
        store.retire("a larger one").await.unwrap();
        refused(RedisConfig::new(redis.url()), StoreErrorKind::Moved, "a larger one").await;
    });
}

#[test]
fn scripts_that_the_server_has_forgotten_are_sent_again() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        store.insert(&claim(1), now()).await.unwrap();
        redis.command(&["SCRIPT", "FLUSH"]);
        assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
        redis.command(&["SCRIPT", "FLUSH"]);
        assert_eq!(store.update(&complete(1, "done"), now()).await.unwrap(), Updated::Applied);
    });
}

/// How many bytes a record takes, beside its body and meta, and that Redis lets go of it after its retention.
#[test]
fn a_record_takes_little_more_than_its_body() {
    run(async {
        const RECORDS: u64 = 20_000;
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        let used = || -> u64 {
            let info = redis.command(&["INFO", "memory"]);
            let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:")).unwrap();
            used.trim().parse().unwrap()
        };
        for (name, body) in [("no body", None), ("256 bytes", Some(256)), ("1 KiB", Some(1024))] {
            redis.command(&["FLUSHALL"]);
            let before = used();
            for start in (0..RECORDS).step_by(500) {
                let claims = (start..start + 500).map(|number| {
                    let store = &store;
                    async move {
                        let mut claim = claim(number);
                        claim.retention = Duration::from_secs(600);
                        store.insert(&claim, now()).await.unwrap();
                        if let Some(body) = body {
                            store.update(&complete(number, vec![7; body]), now()).await.unwrap();
                        }
                    }
                });
                futures_util::future::join_all(claims).await;
            }
            let each = (used() - before) / RECORDS;
            eprintln!("a record with {name}: {each} bytes of the server's memory");
            assert!(each < 450 + 5 * body.unwrap_or(0) as u64 / 4, "{name}: {each}");
        }
        let keys = redis.command(&["DBSIZE"]);
        assert_eq!(keys, RECORDS.to_string());
        let left: i64 = redis.command(&["TTL", &redis.command(&["RANDOMKEY"])]).parse().unwrap_or(-2);
        assert!(left == -2 || (1..=3600).contains(&left), "{left}");
    });
}

/// Each answer to its own command, however they went to the server.
#[test]
fn a_batch_on_a_single_server_answers_each_command_by_itself() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        store.insert(&claim(1), now()).await.unwrap();
        for number in [2, 3, 8] {
            store.insert(&claim(number), now()).await.unwrap();
        }
        store.update(&complete(2, "two"), now()).await.unwrap();
        store
            .update(&update(3, Change::Halt { reason: HaltReason::Panicked, retention: HOUR }), now())
            .await
            .unwrap();
        redis.command(&["SET", &key("idempotency:", 5), "no record"]);
        // What whoever waits for replicas leaves for a moment.
        redis.command(&["SET", &key("idempotency:", 6), "", "PX", "60000"]);
        redis.command(&["SCRIPT", "FLUSH"]);
        let mut takeover = rival(3);
        takeover.takes_over = Some(claim(3).owner);
        // More bytes than go in one request.
        let large = vec![7; 300_000];
        let batch = [
            StoreCommand::Insert(claim(4).into()),
            StoreCommand::Insert(claim(1).into()),
            StoreCommand::Insert(rival(1).into()),
            StoreCommand::Lookup(id(2)),
            StoreCommand::Insert(rival(2).into()),
            StoreCommand::Insert(takeover.into()),
            StoreCommand::Insert(claim(5).into()),
            StoreCommand::Update(complete(8, large.clone()).into()),
            StoreCommand::Update(complete(9, "nine").into()),
            StoreCommand::Insert(claim(6).into()),
            StoreCommand::Insert(claim(7).into()),
        ];
        let answers = store.apply(&batch, now()).await;
        let word = |answer: &Result<StoreReply, StoreError>| match answer {
            Ok(StoreReply::Inserted(Inserted::Exists(record))) if record.state.is_settled() => {
                "settled".to_owned()
            }
            Ok(StoreReply::Inserted(Inserted::Exists(_))) => "running".to_owned(),
            Ok(StoreReply::Inserted(inserted)) => format!("{inserted:?}"),
            Ok(StoreReply::Found(found)) => format!("found: {}", found.is_some()),
            Ok(StoreReply::Updated(updated)) => format!("{updated:?}"),
            Ok(_) => "something else".to_owned(),
            Err(error) => error.kind().as_str().to_owned(),
        };
        let words: Vec<String> = answers.iter().map(word).collect();
        let expected = [
            "Claimed",
            "Claimed",
            "running",
            "found: true",
            "settled",
            "Claimed",
            "corrupt",
            "Applied",
            "NotFound",
            "Claimed",
            "Claimed",
        ];
        assert_eq!(words, expected);
        let stored = store.lookup(&id(8), now()).await.unwrap().unwrap();
        assert_eq!(stored.state, idempotency_core::State::Completed(large.into()));
    });
}

#[test]
fn a_record_that_never_expires_is_none() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        store.insert(&claim(1), now()).await.unwrap();
        redis.command(&["PERSIST", &key("idempotency:", 1)]);
        for error in [
            store.insert(&rival(1), now()).await.unwrap_err(),
            store.update(&complete(1, "done"), now()).await.unwrap_err(),
            store.lookup(&id(1), now()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error:?}");
        }
    });
}

/// What is not a record is neither read as nothing nor written over.
#[test]
fn a_key_that_holds_something_else_is_corrupt_and_stays() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url()).prefix("mine:")).await.unwrap();
        let key = key("mine:", 1);
        let later_version = "\u{3}".to_owned() + &"\0".repeat(111);
        for value in ["short", &later_version] {
            redis.command(&["SET", &key, value, "PX", "60000"]);
            let errors = [
                store.insert(&claim(1), now()).await.unwrap_err(),
                store.update(&complete(1, "done"), now()).await.unwrap_err(),
                store.lookup(&id(1), now()).await.unwrap_err(),
                store.watch(&id(1), now()).await.unwrap_err(),
            ];
            for error in errors {
                assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error:?}");
            }
            assert_eq!(redis.command(&["GET", &key]), value);
        }
        redis.command(&["DEL", &key]);
        redis.command(&["LPUSH", &key, "a list"]);
        assert_eq!(store.insert(&claim(1), now()).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    });
}

#[test]
fn a_server_that_refuses_writes_is_unavailable_and_what_is_there_is_read() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        store.insert(&claim(1), now()).await.unwrap();
        redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        for error in [
            store.insert(&claim(2), now()).await.unwrap_err(),
            store.update(&complete(1, "done"), now()).await.unwrap_err(),
        ] {
            assert!(error.kind() == StoreErrorKind::Unavailable && error.is_retryable(), "{error:?}");
        }
        assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
        redis.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        assert_eq!(store.update(&complete(1, "done"), now()).await.unwrap(), Updated::Applied);
    });
}

/// A look every ten seconds, and one as soon as the subscription was lost.
#[expect(clippy::disallowed_methods, reason = "a real server is looked at in real time")]
#[test]
fn a_server_that_is_not_what_it_was_is_written_to_no_more() {
    run(async {
        let redis = Redis::start(&[]);
        let store = set_up(RedisConfig::new(redis.url())).await.unwrap();
        redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let mut refused = None;
        until("a refusal", async || {
            refused = store.insert(&claim(1), now()).await.err();
            refused.is_some()
        })
        .await;
        let error = refused.unwrap();
        assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
        assert!(error.is_retryable() && error.to_string().contains("allkeys-lru"), "{error:?}");
        // It is looked soon whether it is well again.
        redis.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        let since = Instant::now();
        until("no refusal", async || store.insert(&claim(1), now()).await.is_ok()).await;
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    });
}

/// Where its nodes are a cluster says by itself.
#[test]
fn a_cluster_that_leads_to_another_machine_is_not_followed_without_encryption() {
    run(async {
        let mut cluster = RedisCluster::start(3);
        // An address for documentation, which nobody has.
        for node in cluster.nodes() {
            node.command(&["CONFIG", "SET", "cluster-announce-ip", "192.0.2.1"]);
        }
        let say_it = async || {
            cluster.nodes().iter().all(|node| node.command(&["CLUSTER", "SLOTS"]).contains("192.0.2.1"))
        };
        until("nodes that say it", say_it).await;
        for replicas in [0, 1] {
            let config =
                RedisConfig::cluster(cluster.urls()).durability(Durability::new(Survives::Memory, replicas));
            refused(config, StoreErrorKind::Misconfigured, "192.0.2.1 is another machine").await;
        }
    });
}
