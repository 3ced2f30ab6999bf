//! What a server must be like, and what is refused before anything is done.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use idempotency_core::{
    Change, Durability, Inserted, Restored, Secret, Setup, Store, StoreErrorKind, Survives, Update, Updated,
};
use idempotency_store_postgres::{PostgresConfig, PostgresStore};
use idempotency_store_testkit::servers::{Postgres, until};

use crate::{support::*, transactions::Work};

async fn refused(config: PostgresConfig, kind: StoreErrorKind, reason: &str) {
    let error = set_up(config).await.expect_err(reason);
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(reason) && error.was_not_applied(), "{error}");
}

#[test]
fn a_durability_that_the_server_does_not_give_is_refused() {
    run(async {
        let postgres = Postgres::start(&["fsync=off"]);
        let config = || PostgresConfig::new(postgres.url());
        refused(config(), StoreErrorKind::Misconfigured, "`fsync` must be `on`, and is `off`").await;
        let less = |local| config().durability(Durability::new(local, 0));
        set_up(less(Survives::ProcessCrash)).await.unwrap();
        postgres.sql("ALTER ROLE payments SET synchronous_commit = off");
        refused(less(Survives::ProcessCrash), StoreErrorKind::Misconfigured, "`synchronous_commit` must be")
            .await;
        set_up(less(Survives::Memory)).await.unwrap();
        postgres.sql("ALTER ROLE payments RESET synchronous_commit");
        let two = config().durability(Durability::new(Survives::Memory, 2));
        refused(two.clone(), StoreErrorKind::Misconfigured, "`synchronous_standby_names` waits for 0").await;
        postgres.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (a, b, c)'");
        postgres.sql("SELECT pg_reload_conf()");
        let names = async || postgres.sql("SHOW synchronous_standby_names") == "ANY 2 (a, b, c)";
        until("the new setting", names).await;
        refused(two, StoreErrorKind::Unavailable, "the server has 0 in step").await;
    });
}

#[test]
fn a_standby_is_refused() {
    run(async {
        let primary = Postgres::start(&[]);
        let standby = tokio::task::block_in_place(|| primary.standby(primary.port()));
        refused(PostgresConfig::new(standby.url()), StoreErrorKind::Unavailable, "the server is a standby")
            .await;
    });
}

#[test]
fn tables_of_a_later_version_are_refused_and_those_of_a_later_step_are_not() {
    run(async {
        let config = || PostgresConfig::new(SERVER.url()).table("versions");
        set_up(config()).await.unwrap();
        let version = |to: &str| {
            SERVER
                .sql(&format!("UPDATE idempotency.versions_about SET value = '{to}' WHERE name = 'version'"))
        };
        version("2.1");
        refused(config(), StoreErrorKind::Misconfigured, "the tables have version 2").await;
        version("1.99");
        SERVER.sql("ALTER TABLE idempotency.versions ADD COLUMN added text");
        let store = set_up(config()).await.unwrap();
        assert_eq!(store.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        version("nonsense");
        refused(config(), StoreErrorKind::Corrupt, "version").await;
        version("1.1");
        SERVER.sql("ALTER TABLE idempotency.versions SET UNLOGGED");
        refused(config(), StoreErrorKind::Misconfigured, "is unlogged").await;
    });
}

#[test]
fn nodes_that_start_at_once_make_the_tables_once() {
    run(async {
        let starts = (0..8).map(|_| set_up(PostgresConfig::new(SERVER.url()).schema("at_once")));
        for store in futures_util::future::join_all(starts).await {
            store.unwrap();
        }
    });
}

/// Whoever may create tables calls `migrate`; the application may not.
#[test]
fn a_user_who_may_only_read_and_write_suffices_once_the_tables_are_there() {
    run(async {
        SERVER.sql("CREATE ROLE clerk LOGIN");
        let url = SERVER.url().replace("payments@", "clerk@");
        let clerk = || PostgresConfig::new(&*url).schema("office").migrates(false);
        refused(clerk(), StoreErrorKind::Misconfigured, "call `migrate`").await;
        refused(clerk().migrates(true), StoreErrorKind::Misconfigured, "the user may not do this").await;
        PostgresStore::open(PostgresConfig::new(SERVER.url()).schema("office"))
            .unwrap()
            .migrate()
            .await
            .unwrap();
        SERVER.sql("GRANT USAGE ON SCHEMA office TO clerk");
        SERVER.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA office TO clerk");
        for config in [clerk(), clerk().migrates(true)] {
            let store = set_up(config).await.unwrap();
            store.insert(&claim(1), now()).await.unwrap();
            store.watch(&id(1), now()).await.unwrap();
            let _ = store.update(&complete(1, "done"), now()).await.unwrap();
            assert_eq!(store.scan(None, 10).await.unwrap().records.len(), 1);
        }
    });
}

#[test]
fn names_that_are_none_and_what_would_travel_unencrypted_are_refused() {
    run(async {
        let here = || PostgresConfig::new("postgres://payments@127.0.0.1/payments");
        for name in ["", "Records", "a b", "a;b", "a\"b", "1a", "tabelle_ü", &"a".repeat(49)] {
            for config in [here().table(name), here().schema(name)] {
                let error = PostgresStore::open(config).unwrap_err();
                assert_eq!(error.kind(), StoreErrorKind::Misconfigured, "{name}");
            }
        }
        assert!(PostgresStore::open(here().table("a".repeat(48)).schema("_1")).is_ok());
        let secret = "postgres://payments:s3cr3t@database.example/payments";
        let error = PostgresStore::open(secret).unwrap_err();
        assert!(error.to_string().contains("database.example is another machine"), "{error}");
        assert!(PostgresStore::open(PostgresConfig::new(secret).allow_plaintext(true)).is_ok());
        for nonsense in
            ["", "http://127.0.0.1", "postgres://:s3cr3t@[::1", "postgres://u:s3cr3t@h/d?nonsense=1"]
        {
            let error = PostgresStore::open(nonsense).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Misconfigured);
            assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
        }
        let elsewhere = "postgres://localhost/payments?hostaddr=10.0.0.5";
        assert!(
            PostgresStore::open(elsewhere).unwrap_err().to_string().contains("10.0.0.5 is another machine")
        );
        let with_space = format!("{}?options=-c%20work_mem%3D5MB%20-c%20jit%3Doff", SERVER.url());
        set_up(PostgresConfig::from_url(&with_space).unwrap().table("with_space")).await.unwrap();
        for nonsense in ["postgres://h/d?replicas=x", "postgres://127.0.0.1/d?nonsense=1"] {
            assert!(PostgresConfig::from_url(nonsense).is_err(), "{nonsense}");
        }
        let url = "postgres://u:s3cr3t@127.0.0.1:1/d?schema=s&table=t&replicas=1&durability=process_crash&connect_timeout=3";
        let config = PostgresConfig::from_url(url).unwrap();
        let said = format!("{config:?} {:?}", PostgresStore::open(config.clone()).unwrap());
        assert!(said.contains("ProcessCrash") && !said.contains("s3cr3t"), "{said}");
    });
}

/// All that any part of the program, the driver among them, says at the finest level.
static SAID: Mutex<String> = Mutex::new(String::new());

struct Listens;

impl log::Log for Listens {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        SAID.lock().unwrap().push_str(&format!("{}\n", record.args()));
    }

    fn flush(&self) {}
}

#[test]
fn nothing_that_a_client_sent_is_in_any_log() {
    run(async {
        log::set_logger(&Listens).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let store = set_up(PostgresConfig::new(SERVER.url()).table("quiet")).await.unwrap();
        let (canary, meta) = (b"canary in a body".to_vec(), b"canary in meta".to_vec());
        let mut claim = claim(1);
        claim.id = idempotency_core::RequestId::from_bytes(*b"canary in an id, of 32 bytes....");
        claim.meta = idempotency_core::Meta::new(meta.clone()).unwrap();
        store.insert(&claim, now()).await.unwrap();
        let response = canary.clone().into();
        let change = Change::Complete { response, retention: HOUR };
        let put = Update::new(claim.id, claim.owner, change);
        assert_eq!(store.update(&put, now()).await.unwrap(), Updated::Applied);
        store.lookup(&claim.id, now()).await.unwrap();
        let mut takeover = rival(1);
        (takeover.id, takeover.takes_over) = (claim.id, Some(claim.owner));
        store.insert(&takeover, now()).await.unwrap();
        let records = store.scan(None, 10).await.unwrap().records;
        assert_eq!(records.len(), 1);
        store.update(&Update::new(claim.id, claim.owner, Change::Forget), now()).await.unwrap();
        assert_eq!(store.restore(&claim.id, &records[0].1, now()).await.unwrap(), Restored::Restored);
        let (outbox, payload) = (store.outbox(), canary.clone());
        let work: Work<Infallible> = Box::new(move |transaction| {
            let (outbox, payload) = (outbox.clone(), payload.clone());
            Box::pin(async move {
                outbox.put(transaction, "canary of a topic", &payload).await?;
                Ok(payload.into())
            })
        });
        store.transact(id(2), claim.fingerprint, work).await.unwrap();
        let handed_on = store.outbox().relay(1, async |_| Ok::<_, Infallible>(())).await.unwrap().handed_on;
        assert_eq!(handed_on, 1);
        let said = SAID.lock().unwrap().clone();
        assert!(said.contains("executing statement"), "the driver does speak");
        for secret in [&canary[..], &meta, &claim.id.as_bytes()[..], b"canary of a topic"] {
            let text = String::from_utf8_lossy(secret).into_owned();
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let list = format!("{secret:?}").trim_matches(['[', ']']).to_owned();
            for form in [text, hex, list] {
                assert!(!said.contains(&form), "{form}");
            }
        }
        log::set_max_level(log::LevelFilter::Off);
    });
}

/// What a rule of the table says of a row stays in the server.
#[test]
fn an_error_of_the_server_shows_no_values() {
    run(async {
        let store = set_up(PostgresConfig::new(SERVER.url()).table("rules")).await.unwrap();
        SERVER.sql("ALTER TABLE idempotency.rules ADD CHECK (meta <> 'canary')");
        let mut claim = claim(1);
        claim.meta = idempotency_core::Meta::new(&b"canary"[..]).unwrap();
        let error = store.insert(&claim, now()).await.unwrap_err();
        let said = format!("{error:?} {error}");
        assert!(
            said.contains("23514") && !said.contains("canary") && !said.contains("63616e617279"),
            "{said}"
        );
    });
}

/// One that breaks a rule of the table, and many that have no place among the locks.
#[test]
fn of_a_batch_only_the_guilty_one_fails_and_too_many_at_once_are_done_in_parts() {
    run(async {
        let postgres = Postgres::start(&["max_locks_per_transaction=10", "max_connections=20"]);
        let store =
            set_up(PostgresConfig::new(postgres.url()).call_limit(Duration::from_secs(20))).await.unwrap();
        postgres.sql("ALTER TABLE idempotency.records ADD CHECK (meta <> 'poison')");
        let log = || std::fs::read_to_string(postgres.data().parent().unwrap().join("log")).unwrap();
        let failed = async |from: u64| {
            let mut claims: Vec<_> = (from..from + 3_000).map(claim).collect();
            claims[77].meta = idempotency_core::Meta::new(&b"poison"[..]).unwrap();
            let batch: Vec<_> = claims
                .into_iter()
                .map(|claim| idempotency_core::StoreCommand::Insert(claim.into()))
                .collect();
            let answers = store.apply(&batch, now()).await;
            let failed = answers.iter().enumerate().filter(|(_, answer)| answer.is_err());
            failed.map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(failed(0).await, [77]);
        assert!(!log().contains("out of shared memory"), "in haste none has a lock of its own");
        // Once a transaction was in the way each takes a place among the locks.
        held_up(&store, &mut direct_to(&postgres).await, 9_000).await;
        assert_eq!(failed(4_000).await, [77]);
        assert_eq!(postgres.sql("SELECT count(*) FROM idempotency.records"), "5998");
        assert!(log().contains("out of shared memory"), "there were too many");
    });
}

#[test]
fn another_secret_is_refused_by_a_second_node() {
    run(async {
        let config = || PostgresConfig::new(SERVER.url()).table("secrets");
        set_up(config()).await.unwrap();
        let other = PostgresStore::open(config()).unwrap();
        let setup = Setup::new(Secret::new([7; 32]).check(), now());
        assert_eq!(other.setup(&setup).await.unwrap_err().kind(), StoreErrorKind::WrongSecret);
    });
}

/// Locks and rows of two tables of one database have nothing to do with each other.
#[test]
fn two_tables_are_two_stores() {
    run(async {
        let [one, two] = ["one", "two"].map(|table| PostgresConfig::new(SERVER.url()).table(table));
        let (one, two) = (set_up(one).await.unwrap(), set_up(two).await.unwrap());
        assert_eq!(one.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        assert_eq!(two.insert(&rival(1), now()).await.unwrap(), Inserted::Claimed);
    });
}
