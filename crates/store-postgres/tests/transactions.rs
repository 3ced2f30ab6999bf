//! Effect and record in one transaction.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use idempotency_core::{Fingerprint, HaltReason, Inserted, Store, StoredResponse, Updated};
use idempotency_store_postgres::{
    PostgresConfig, PostgresStore, TransactError, Transacted, WorkError, tokio_postgres::Transaction,
};
use idempotency_store_testkit::servers::{Postgres, Proxy, until};
use tokio::sync::Semaphore;

use crate::support::*;

fn payload() -> Fingerprint {
    Fingerprint::derive(None, [])
}

/// A store, and a table of effects beside it.
async fn with_effects(config: PostgresConfig, server: &Postgres, name: &str) -> PostgresStore {
    server.sql(&format!("CREATE TABLE IF NOT EXISTS {name}_effects (number bigint, by text)"));
    set_up(config.table(name)).await.unwrap()
}

pub(crate) type Work<E> = Box<
    dyn for<'a> Fn(&'a Transaction<'a>) -> BoxFuture<'a, Result<StoredResponse, WorkError<E>>> + Send + Sync,
>;

/// One effect.
fn effect(name: &str, number: u64) -> Work<Infallible> {
    held(name, number, || std::future::ready(()).boxed())
}

/// One effect, and its transaction stays open until then.
fn held(
    name: &str,
    number: u64,
    until: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> Work<Infallible> {
    let statement = format!("INSERT INTO {name}_effects VALUES ({number}, 'work')");
    Box::new(move |transaction| {
        let (statement, until) = (statement.clone(), until());
        Box::pin(async move {
            transaction.execute(&statement, &[]).await?;
            until.await;
            Ok(format!("done {number}").into_bytes().into())
        })
    })
}

fn effects(server: &Postgres, name: &str) -> usize {
    server.sql(&format!("SELECT count(*) FROM {name}_effects")).parse().unwrap()
}

fn done(number: u64, replayed: bool) -> Transacted {
    Transacted::Done { response: format!("done {number}").into_bytes().into(), replayed }
}

#[test]
fn work_is_done_once_and_replayed_after_its_commit() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "once").await;
        for replayed in [false, true, true] {
            let outcome = store.transact(id(1), payload(), effect("once", 1)).await.unwrap();
            assert_eq!(outcome, done(1, replayed));
        }
        assert_eq!(effects(&SERVER, "once"), 1);
        let other = Fingerprint::derive(None, [&b"other"[..]]);
        let outcome = store.transact(id(1), other, effect("once", 2)).await.unwrap();
        assert_eq!(outcome, Transacted::Mismatch);
        // The tracker sees the same record.
        let Inserted::Exists(record) = store.insert(&rival(1), now()).await.unwrap() else { panic!() };
        assert!(record.state.is_settled());
    });
}

#[test]
fn work_that_fails_or_panics_leaves_nothing_and_may_be_done_again() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "fails").await;
        let fails: Work<&'static str> = Box::new(|transaction| {
            Box::pin(async move {
                transaction.execute("INSERT INTO fails_effects VALUES (1, 'work')", &[]).await?;
                Err(WorkError::Other("no money"))
            })
        });
        let outcome = store.transact(id(1), payload(), fails).await;
        assert!(matches!(outcome, Err(TransactError::Work("no money"))), "{outcome:?}");
        let breaks: Work<Infallible> = Box::new(|transaction| {
            Box::pin(async move {
                transaction.execute("INSERT INTO fails_effects VALUES (1, 'work')", &[]).await?;
                transaction.execute("SELECT 1 / 0", &[]).await?;
                Ok(Vec::new().into())
            })
        });
        let outcome = store.transact(id(1), payload(), breaks).await;
        assert!(matches!(outcome, Err(TransactError::Database(_))), "{outcome:?}");
        let panics: Work<Infallible> = Box::new(|transaction| {
            Box::pin(async move {
                transaction.execute("INSERT INTO fails_effects VALUES (1, 'work')", &[]).await?;
                panic!("on purpose")
            })
        });
        let of_task = store.clone();
        let ended = tokio::spawn(async move { of_task.transact(id(1), payload(), panics).await }).await;
        assert!(ended.unwrap_err().is_panic());
        assert_eq!(effects(&SERVER, "fails"), 0);
        let outcome = store.transact(id(1), payload(), effect("fails", 1)).await.unwrap();
        assert_eq!(outcome, done(1, false));
        assert_eq!(effects(&SERVER, "fails"), 1);
    });
}

#[test]
fn while_a_transaction_is_open_its_id_is_busy_and_no_other_waits() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "open").await;
        store.insert(&claim(2), now()).await.unwrap();
        let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let open = {
            let (store, begun, may_end) = (store.clone(), begun.clone(), may_end.clone());
            let work = held("open", 1, move || {
                begun.add_permits(1);
                let may_end = may_end.clone();
                async move { drop(may_end.acquire().await) }.boxed()
            });
            tokio::spawn(async move { store.transact(id(1), payload(), work).await })
        };
        // It has claimed, and its body has begun.
        begun.acquire().await.unwrap().forget();
        // A batch of the node with the id in it.
        let batch = [
            idempotency_core::StoreCommand::Insert(rival(1).into()),
            idempotency_core::StoreCommand::Insert(claim(3).into()),
            idempotency_core::StoreCommand::Update(complete(2, "done").into()),
            idempotency_core::StoreCommand::Update(complete(1, "not mine").into()),
            idempotency_core::StoreCommand::Lookup(id(1)),
        ];
        let answers = tokio::time::timeout(Duration::from_secs(1), store.apply(&batch, now()))
            .await
            .expect("nobody waits");
        let answers: Vec<String> =
            answers.into_iter().map(|answer| format!("{:?}", answer.unwrap())).collect();
        assert_eq!(
            answers,
            ["Inserted(Busy)", "Inserted(Claimed)", "Updated(Applied)", "Updated(NotFound)", "Found(None)"]
        );
        // Retries that come together do not hide each other, nor do they keep the first from its end.
        let retries = join_all((0..20).map(|_| store.transact(id(1), payload(), effect("open", 1)))).await;
        assert!(retries.into_iter().all(|outcome| outcome.unwrap() == Transacted::Processing));
        assert!(!open.is_finished());
        may_end.add_permits(1);
        assert_eq!(open.await.unwrap().unwrap(), done(1, false));
        let outcome = store.transact(id(1), payload(), effect("open", 1)).await.unwrap();
        assert_eq!(outcome, done(1, true));
        assert_eq!(effects(&SERVER, "open"), 1);
    });
}

/// Of many at once for each key one does the work; the others hear of it, or that it is being done.
#[test]
fn many_at_once_do_each_work_once() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "many").await;
        let outcomes = join_all((0..200_u64).map(|caller| {
            let store = store.clone();
            tokio::spawn(async move {
                let number = caller % 20;
                store.transact(id(number), payload(), effect("many", number)).await.unwrap()
            })
        }))
        .await;
        let first = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Transacted::Done { replayed: false, .. })))
            .count();
        assert_eq!((first, effects(&SERVER, "many")), (20, 20));
    });
}

#[test]
fn transactions_that_came_in_each_others_way_are_repeated_as_a_whole() {
    run(async {
        let url = format!("{}?options=-c%20default_transaction_isolation%3Dserializable", SERVER.url());
        let store =
            with_effects(PostgresConfig::new(url).call_limit(Duration::from_secs(10)), &SERVER, "serial")
                .await;
        SERVER.sql("CREATE TABLE serial_counter AS SELECT 0 AS value");
        let attempts = Arc::new(AtomicUsize::new(0));
        let outcomes = join_all((0..40_u64).map(|number| {
            let (store, attempts) = (store.clone(), attempts.clone());
            let work: Work<Infallible> = Box::new(move |transaction| {
                attempts.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move {
                    let row = transaction.query_one("SELECT value FROM serial_counter", &[]).await?;
                    let next = row.get::<_, i32>(0) + 1;
                    transaction.execute("UPDATE serial_counter SET value = $1", &[&next]).await?;
                    Ok(Vec::new().into())
                })
            });
            tokio::spawn(async move { store.transact(id(number), payload(), work).await })
        }))
        .await;
        let done =
            outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(Ok(Transacted::Done { .. })))).count();
        let attempts = attempts.load(Ordering::SeqCst);
        assert!(attempts > 40, "some were repeated: {attempts}");
        assert_eq!(SERVER.sql("SELECT value FROM serial_counter"), done.to_string());
        let completed = SERVER.sql("SELECT count(*) FROM idempotency.serial WHERE state = 'completed'");
        assert_eq!(completed, done.to_string());
        assert!(done >= 20, "{done} of 40");
    });
}

#[test]
fn a_commit_whose_acknowledgement_is_lost_is_found_out() {
    run(async {
        let proxy = Proxy::start(SERVER.port());
        let config = PostgresConfig::new(SERVER.url_through(proxy.port()));
        let store = with_effects(config, &SERVER, "lost").await;
        let rounds = 20 * soak(10);
        for number in 0..rounds {
            proxy.lose_replies(1, "COMMIT");
            let outcome = store.transact(id(number), payload(), effect("lost", number)).await.unwrap();
            assert_eq!(outcome, done(number, false));
        }
        assert_eq!(proxy.lost() as u64, rounds);
        assert_eq!(effects(&SERVER, "lost") as u64, rounds);
        // Lost on its way to the server, it is rolled back and done again.
        for number in rounds..2 * rounds {
            proxy.lose_requests(1, "COMMIT");
            let outcome = store.transact(id(number), payload(), effect("lost", number)).await.unwrap();
            assert_eq!(outcome, done(number, false));
        }
        assert_eq!(effects(&SERVER, "lost") as u64, 2 * rounds);
    });
}

/// With one connection for transactions, and a body that takes longer than anybody waits for a connection.
#[test]
fn a_lost_acknowledgement_is_found_out_on_the_only_connection_and_after_a_long_body() {
    run(async {
        let proxy = Proxy::start(SERVER.port());
        let config = PostgresConfig::new(SERVER.url_through(proxy.port()))
            .transactions(1)
            .call_limit(Duration::from_millis(200));
        let store = with_effects(config, &SERVER, "lost_alone").await;
        // It takes ten times the limit of a call until nobody waits for a connection any more.
        let long = || tokio::time::sleep(Duration::from_millis(2_500)).boxed();
        for (number, work) in [(1, effect("lost_alone", 1)), (2, held("lost_alone", 2, long))] {
            proxy.lose_replies(1, "COMMIT");
            let outcome = store.transact(id(number), payload(), work).await;
            assert_eq!(outcome.unwrap(), done(number, false));
        }
        assert_eq!((proxy.lost(), effects(&SERVER, "lost_alone")), (2, 2));
    });
}

/// A rule that is checked at the end, by a trigger that says no.
#[test]
fn a_commit_that_the_server_refuses_is_an_error_at_once() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "deferred").await;
        SERVER.sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$; \
             CREATE CONSTRAINT TRIGGER refuses AFTER INSERT ON deferred_effects DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION refuse()",
        );
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = attempts.clone();
        let inner = effect("deferred", 1);
        let work: Work<Infallible> = Box::new(move |transaction| {
            counted.fetch_add(1, Ordering::SeqCst);
            inner(transaction)
        });
        let outcome = store.transact(id(1), payload(), work).await;
        assert!(matches!(outcome, Err(TransactError::Database(_))), "{outcome:?}");
        assert_eq!((attempts.load(Ordering::SeqCst), effects(&SERVER, "deferred")), (1, 0));
    });
}

/// What a body has set would weaken the commits of all that come after it.
#[test]
fn what_a_transaction_has_set_for_its_session_is_gone_before_the_next() {
    run(async {
        let config = PostgresConfig::new(SERVER.url()).transactions(1);
        let store = with_effects(config, &SERVER, "session").await;
        let sets: Work<Infallible> = Box::new(|transaction| {
            Box::pin(async move {
                transaction.batch_execute("SET synchronous_commit = off; SELECT pg_advisory_lock(7)").await?;
                Ok(Vec::new().into())
            })
        });
        store.transact(id(1), payload(), sets).await.unwrap();
        let looks: Work<Infallible> = Box::new(|transaction| {
            Box::pin(async move {
                let row = transaction.query_one("SELECT current_setting('synchronous_commit')", &[]).await?;
                Ok(row.get::<_, String>(0).into_bytes().into())
            })
        });
        let outcome = store.transact(id(2), payload(), looks).await.unwrap();
        assert_eq!(outcome, Transacted::Done { response: b"on".to_vec().into(), replayed: false });
        assert_eq!(SERVER.sql("SELECT pg_try_advisory_lock(7)"), "t");
    });
}

#[test]
fn a_thousand_callers_who_stop_waiting_leave_no_half_of_anything() {
    run(async {
        let config = PostgresConfig::new(SERVER.url()).call_limit(Duration::from_secs(20));
        let store = with_effects(config, &SERVER, "cancelled").await;
        for number in 0..1_000_u64 {
            let call = store.transact(id(number), payload(), effect("cancelled", number));
            let _ = tokio::time::timeout(Duration::from_micros(number % 50 * 100), call).await;
        }
        let open = "SELECT count(*) FROM pg_stat_activity \
            WHERE query LIKE '%cancelled%' AND state <> 'idle' AND pid <> pg_backend_pid()";
        until("the end of all that were begun", async || SERVER.sql(open) == "0").await;
        let both = format!(
            "SELECT count(*) FROM (SELECT number AS n FROM cancelled_effects) e FULL JOIN idempotency.cancelled r \
             ON r.id = {ID_OF_N} WHERE n IS NULL OR r.id IS NULL OR r.state <> 'completed'"
        );
        assert_eq!(SERVER.sql(&both), "0", "effects and records are the same ones");
        assert_eq!(SERVER.sql("SELECT count(*) - count(DISTINCT number) FROM cancelled_effects"), "0");
        let effects = effects(&SERVER, "cancelled");
        assert!(effects > 100, "{effects} were done all the same");
        for number in [0, 500, 999] {
            let outcome = store.transact(id(number), payload(), effect("cancelled", number)).await.unwrap();
            assert!(matches!(outcome, Transacted::Done { .. }), "{outcome:?}");
        }
    });
}

/// With transactions of one's own, and what a tracker has left.
#[test]
fn the_pieces_work_in_any_transaction() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "pieces").await;
        let mut client = direct().await;
        let transaction = client.transaction().await.unwrap();
        assert_eq!(store.claim_in(&transaction, &claim(8)).await.unwrap(), Inserted::Claimed);
        transaction.execute("INSERT INTO pieces_effects VALUES (8, 'hand')", &[]).await.unwrap();
        store.complete_in(&transaction, &claim(8), b"done 8".to_vec().into()).await.unwrap();
        assert_eq!(store.insert(&rival(8), now()).await.unwrap(), Inserted::Busy);
        transaction.commit().await.unwrap();
        let outcome = store.transact(id(8), payload(), effect("pieces", 8)).await.unwrap();
        assert_eq!(outcome, done(8, true));
        // What was not claimed cannot be completed, and spoils the transaction.
        let transaction = client.transaction().await.unwrap();
        store.complete_in(&transaction, &claim(7), b"done 7".to_vec().into()).await.unwrap_err();
        drop(transaction);
        // An orphan of a tracker is not done again unless somebody says so.
        store.insert(&claim(1), now()).await.unwrap();
        let halt = idempotency_core::Change::Halt { reason: HaltReason::Panicked, retention: HOUR };
        assert_eq!(store.update(&update(1, halt), now()).await.unwrap(), Updated::Applied);
        let outcome = store.transact(id(1), payload(), effect("pieces", 1)).await.unwrap();
        assert_eq!(outcome, Transacted::Halted { reason: HaltReason::Panicked, owner: owner(1) });
        let mut takeover = rival(1);
        takeover.takes_over = Some(owner(1));
        let outcome = store.transact_as(takeover, effect("pieces", 1)).await.unwrap();
        assert_eq!(outcome, done(1, false));
        // One that runs in a tracker is being done.
        store.insert(&claim(2), now()).await.unwrap();
        let outcome = store.transact(id(2), payload(), effect("pieces", 2)).await.unwrap();
        assert_eq!(outcome, Transacted::Processing);
    });
}

#[test]
fn what_is_put_into_the_outbox_is_handed_on_if_and_only_if_it_was_committed() {
    run(async {
        let store = with_effects(PostgresConfig::new(SERVER.url()), &SERVER, "outbox").await;
        let outbox = store.outbox();
        for number in 0..10 {
            let outbox = outbox.clone();
            let work: Work<&'static str> = Box::new(move |transaction| {
                let outbox = outbox.clone();
                Box::pin(async move {
                    outbox.put(transaction, "receipts", format!("{number}").as_bytes()).await.unwrap();
                    if number % 2 == 1 { Err(WorkError::Other("no")) } else { Ok(Vec::new().into()) }
                })
            });
            assert_eq!(store.transact(id(number), payload(), work).await.is_ok(), number % 2 == 0);
        }
        assert_eq!(outbox.count().await.unwrap(), 5);
        // The third is refused: it stays, and what is behind it.
        let seen = AtomicUsize::new(0);
        let relayed = outbox
            .relay(10, async |message| {
                assert_eq!(message.topic(), "receipts");
                if seen.fetch_add(1, Ordering::SeqCst) == 2 { Err("busy") } else { Ok(()) }
            })
            .await
            .unwrap();
        assert_eq!((relayed.handed_on, relayed.failed), (2, Some("busy")));
        let said = std::sync::Mutex::new(Vec::new());
        let take = async |message: &idempotency_store_postgres::Message| {
            said.lock().unwrap().push(message.payload().clone());
            Ok::<_, Infallible>(())
        };
        assert_eq!(outbox.relay(2, take).await.unwrap().handed_on, 2);
        assert_eq!(outbox.relay(2, take).await.unwrap().handed_on, 1);
        assert_eq!(*said.lock().unwrap(), ["4", "6", "8"]);
        assert_eq!(outbox.count().await.unwrap(), 0);
    });
}
