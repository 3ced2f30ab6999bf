//! What happens at the same moment.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use idempotency_core::{Change, Inserted, Owner, Store, Updated};
use idempotency_store_postgres::{PostgresConfig, PostgresStore};

use idempotency_store_testkit::servers::{Postgres, until};

use crate::support::*;

/// Everybody wants the same keys in the same order.
#[test]
fn i1_of_eight_callers_of_four_hundred_keys_one_is_given_each() {
    run(async {
        let store =
            set_up(PostgresConfig::new(SERVER.url()).table("eight_callers").connections(8)).await.unwrap();
        let callers = (0..8).map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut given = 0;
                for number in 0..400 {
                    let mut claim = claim(number);
                    claim.owner = Owner::from_u128(caller * 1_000 + u128::from(number));
                    match store.insert(&claim, now()).await.unwrap() {
                        Inserted::Claimed => given += 1,
                        Inserted::Exists(_) => {}
                        Inserted::Busy => panic!("there is no transaction"),
                    }
                }
                given
            })
        });
        let given: Vec<usize> = join_all(callers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(given.iter().sum::<usize>(), 400, "{given:?}");
    });
}

/// A row that has just expired is neither free nor taken for whoever looks before he writes.
#[test]
fn i1_of_a_hundred_callers_of_a_key_that_has_just_expired_one_is_given_it() {
    run(async {
        let config = PostgresConfig::new(SERVER.url()).table("just_expired").connections(8);
        let store = set_up(config.call_limit(Duration::from_secs(20))).await.unwrap();
        for round in 0..1_000_u128 {
            // Everything of the round before has expired.
            let claims = (0..100_u128).map(|caller| {
                let store = store.clone();
                async move {
                    let mut claim = claim(1);
                    claim.owner = Owner::from_u128(round * 1_000 + caller);
                    store.insert(&claim, now()).await.unwrap() == Inserted::Claimed
                }
            });
            let given = join_all(claims).await.into_iter().filter(|given| *given).count();
            assert_eq!(given, 1, "in round {round}");
            sql("UPDATE idempotency.just_expired SET lease_until = now() - interval '2 s', expires_at = now() - interval '1 s'").await;
        }
    });
}

/// Records that have expired are claimed anew at the moment at which they are deleted.
#[test]
fn i12_a_prune_beside_thousands_of_claims_deletes_none_of_them() {
    run(async {
        assert_eq!(live_claims_deleted(Prune::OfTheStore).await, 0);
    });
}

/// Or the test above shows nothing.
#[test]
fn a_prune_by_a_list_of_ids_deletes_live_claims() {
    run(async {
        for _ in 0..10 {
            if live_claims_deleted(Prune::ByAListOfIds).await > 0 {
                return;
            }
        }
        panic!("not one in ten attempts");
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Prune {
    OfTheStore,
    ByAListOfIds,
}

async fn live_claims_deleted(how: Prune) -> usize {
    const KEYS: u64 = 36_000;
    let table = if how == Prune::OfTheStore { "pruned" } else { "pruned_badly" };
    let config = PostgresConfig::new(SERVER.url()).table(table).call_limit(Duration::from_secs(20));
    let store = set_up(config).await.unwrap();
    let records = format!("idempotency.{table}");
    sql(&format!("TRUNCATE {records}")).await;
    sql(&format!(
        "INSERT INTO {records} SELECT {ID_OF_N}, \
             decode(repeat('ff', 16), 'hex'), 'unknown', now(), now() - interval '1 s', NULL, false, \
             decode(repeat('00', 33), 'hex'), NULL, '', NULL FROM generate_series(0, {}) n",
        KEYS - 1
    ))
    .await;
    let claimed = Arc::new(AtomicUsize::new(0));
    let claims = {
        let (store, claimed) = (store.clone(), claimed.clone());
        tokio::spawn(async move {
            for from in (0..KEYS).step_by(200) {
                let claims: Vec<_> = (from..from + 200)
                    .map(|number| idempotency_core::StoreCommand::Insert(claim(number).into()))
                    .collect();
                for answer in store.apply(&claims, now()).await {
                    assert_eq!(answer.unwrap().inserted().unwrap(), Inserted::Claimed);
                    claimed.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    };
    while !claims.is_finished() {
        match how {
            Prune::OfTheStore => drop(store.prune(now(), 500).await.unwrap()),
            Prune::ByAListOfIds => {
                // In any order: in that of the claims it would run ahead of them.
                let list = format!(
                    "SELECT encode(id, 'hex') FROM {records} WHERE expires_at <= now() ORDER BY random() LIMIT 500"
                );
                let ids = sql(&list).await;
                let ids: Vec<String> = ids.lines().map(|id| format!("'\\x{id}'")).collect();
                if !ids.is_empty() {
                    sql(&format!("DELETE FROM {records} WHERE id IN ({})", ids.join(","))).await;
                }
            }
        }
    }
    claims.await.unwrap();
    assert_eq!(claimed.load(Ordering::SeqCst) as u64, KEYS);
    KEYS as usize - SERVER.sql(&format!("SELECT count(*) FROM {records}")).parse::<usize>().unwrap()
}

/// Another's row that is locked for long holds up nobody but those who want it.
#[test]
fn a_row_that_is_locked_holds_up_no_other_and_is_updated_once_it_is_free() {
    run(async {
        let store = set_up(PostgresConfig::new(SERVER.url()).table("locked")).await.unwrap();
        for number in 0..3 {
            store.insert(&claim(number), now()).await.unwrap();
        }
        let mut other = direct().await;
        let lock = other.transaction().await.unwrap();
        lock.execute("SELECT FROM idempotency.locked WHERE id = $1 FOR UPDATE", &[&&id(0).as_bytes()[..]])
            .await
            .unwrap();
        let batch: Vec<_> = (0..3)
            .map(|number| idempotency_core::StoreCommand::Update(complete(number, "done").into()))
            .collect();
        let applying = {
            let (store, batch) = (store.clone(), batch.clone());
            tokio::spawn(async move { store.apply(&batch, now()).await })
        };
        // The others are done long before.
        let is_settled = async || store.lookup(&id(2), now()).await.unwrap().unwrap().state.is_settled();
        until("an update that is held up by a row of another", is_settled).await;
        let watching = {
            let store = store.clone();
            tokio::spawn(async move { store.watch(&id(0), now()).await })
        };
        let asked = "SELECT count(*) FROM pg_stat_activity \
            WHERE query LIKE '%UPDATE idempotency.locked r SET wanted%' AND pid <> pg_backend_pid()";
        until("the wish to hear of it", async || SERVER.sql(asked) != "0").await;
        assert!(!applying.is_finished() && !watching.is_finished());
        lock.commit().await.unwrap();
        watching.await.unwrap().unwrap();
        for answer in applying.await.unwrap() {
            assert_eq!(answer.unwrap().updated().unwrap(), Updated::Applied);
        }
        // One that stays locked is an error in time.
        let lock = other.transaction().await.unwrap();
        lock.execute("SELECT FROM idempotency.locked WHERE id = $1 FOR UPDATE", &[&&id(1).as_bytes()[..]])
            .await
            .unwrap();
        let error = store.update(&update(1, Change::Forget), now()).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
    });
}

/// One who meets an open transaction waits for a moment, and in the next seconds nobody does.
#[test]
fn an_open_transaction_holds_up_a_batch_once_and_nobody_after_it() {
    run(async {
        let server = Postgres::start(&[]);
        let store = set_up(PostgresConfig::new(server.url())).await.unwrap();
        let log = || std::fs::read_to_string(server.data().parent().unwrap().join("log")).unwrap();
        let held_up = || log().matches("due to lock timeout").count();
        let mut other = direct_to(&server).await;
        let open = other.transaction().await.unwrap();
        assert_eq!(store.claim_in(&open, &claim(1)).await.unwrap(), Inserted::Claimed);

        let rivals: Vec<_> =
            (0..3).map(|number| idempotency_core::StoreCommand::Insert(rival(number).into())).collect();
        for others in [Inserted::Claimed, Inserted::Claimed] {
            let answers = store.apply(&rivals, now()).await.into_iter();
            let answers: Vec<_> = answers.map(|answer| answer.unwrap().inserted().unwrap()).collect();
            assert_eq!(answers, [others.clone(), Inserted::Busy, others]);
            assert_eq!(held_up(), 1, "those who come later do not wait");
        }
        open.commit().await.unwrap();
        assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
        assert_eq!(held_up(), 1);
    });
}

/// What is decided counts for the record as it is when it is written, not as it was when somebody looked.
#[test]
fn i1_a_result_that_waits_for_a_takeover_is_fenced() {
    run(async {
        let mut waited = 0;
        let (mut other, looks) = (direct().await, direct().await);
        // Each round has a store that has met no open transaction so far.
        for round in 0..20 {
            let store = set_up(PostgresConfig::new(SERVER.url()).table("overtaken")).await.unwrap();
            store.insert(&claim(round), now()).await.unwrap();
            let (number, thief) = (id(round), owner(1_000));
            let takeover = other.transaction().await.unwrap();
            takeover
                .execute(
                    "UPDATE idempotency.overtaken SET owner = $2 WHERE id = $1",
                    &[&&number.as_bytes()[..], &&thief.as_bytes()[..]],
                )
                .await
                .unwrap();
            let putting = {
                let store = store.clone();
                tokio::spawn(async move { store.update(&complete(round, "done"), now()).await })
            };
            let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%idempotency.overtaken%'";
            let waits = async || !looks.query(waits, &[]).await.unwrap().is_empty();
            while !waits().await && !putting.is_finished() {}
            waited += usize::from(waits().await);
            takeover.commit().await.unwrap();
            assert_eq!(putting.await.unwrap().unwrap(), Updated::Fenced);
            let record = store.lookup(&id(round), now()).await.unwrap().unwrap();
            assert_eq!((record.owner, record.state.is_settled()), (thief, false));
        }
        assert!(waited > 0, "none of the results waited");
    });
}

/// Of a statement that stands on its own.
#[test]
fn a_replay_writes_nothing() {
    run(async {
        let store: PostgresStore = set_up(PostgresConfig::new(SERVER.url()).table("replays")).await.unwrap();
        store.insert(&claim(1), now()).await.unwrap();
        store.update(&complete(1, "done"), now()).await.unwrap();
        let row = "SELECT xmin, xmax, ctid FROM idempotency.replays";
        let before = SERVER.sql(row);
        for _ in 0..20 {
            assert!(matches!(store.insert(&rival(1), now()).await.unwrap(), Inserted::Exists(_)));
        }
        assert_eq!(SERVER.sql(row), before, "neither written nor locked");
    });
}
