//! `ledger_postgres`, killed at every point: the money and the record of its transfer are there together, or neither is.

use std::{
    io::Read,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use idempotency::{
    Fingerprint, HaltReason, PostgresConfig, PostgresStore, RequestId, Scope, SystemClock,
    postgres::tokio_postgres::{self, Client, NoTls},
    store::{Change, Claim, Inserted, SecretCheck, Setup, Store, Update},
};
use idempotency_store_testkit::servers::{Postgres, Proxy};

use crate::support::{example, soak};

const ROUNDS: usize = 20;

/// Where the process is when it is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Point {
    /// It has claimed, and waits to take the money.
    BeforeTheDebit,
    /// It has taken it, and waits to give it.
    BeforeTheCredit,
    /// It has given it, and waits to tell of it.
    BeforeTheOutbox,
    /// Its `COMMIT` is on the way, and does not arrive.
    BeforeTheCommit,
    /// It is committed, and the process does not hear of it.
    AfterTheCommit,
}

struct Ledger {
    postgres: Postgres,
    proxy: Proxy,
}

impl Ledger {
    fn open() -> Self {
        let postgres = Postgres::start(&[]);
        let ledger = Self { proxy: Proxy::start(postgres.port()), postgres };
        // Makes the tables.
        assert!(ledger.run(&["balances"]).contains("alice: 1000000"));
        assert!(ledger.run(&["transfer", "first", "alice", "bob", "0"]).contains("moved"));
        ledger
    }

    fn spawn(&self, url: &str, args: &[&str]) -> Child {
        let mut command = example("ledger_postgres");
        command.args(["--url", url]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let mut child = self.spawn(&self.postgres.url(), args);
        let (mut said, mut errors) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(child.wait().unwrap().success(), "{args:?}: {errors}");
        said
    }

    fn count(&self, what: &str) -> usize {
        self.postgres.sql(&format!("SELECT count(*) FROM {what}")).parse().unwrap()
    }

    /// Begins a transfer, and kills it there.
    fn killed(&self, key: &str, point: Point) {
        let locks = match point {
            Point::BeforeTheDebit => Some("SELECT FROM accounts WHERE name = 'alice' FOR UPDATE"),
            Point::BeforeTheCredit => Some("SELECT FROM accounts WHERE name = 'bob' FOR UPDATE"),
            Point::BeforeTheOutbox => Some("LOCK TABLE idempotency.records_outbox IN EXCLUSIVE MODE"),
            Point::BeforeTheCommit | Point::AfterTheCommit => None,
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut client = runtime.block_on(connect(&self.postgres.url()));
        let lock = runtime.block_on(async {
            let lock = client.transaction().await.unwrap();
            lock.batch_execute(locks.unwrap_or("SELECT")).await.unwrap();
            lock
        });
        let lost = self.proxy.lost();
        match point {
            Point::BeforeTheCommit => self.proxy.lose_requests(1, "COMMIT"),
            Point::AfterTheCommit => self.proxy.lose_replies(1, "COMMIT"),
            _ => {}
        }
        // What is not a transfer does not commit anything: the tables are there.
        let transfer = || {
            let url = self.postgres.url_through(self.proxy.port());
            self.spawn(&url, &["transfer", key, "alice", "bob", "5"])
        };
        let (mut child, mut tries) = (transfer(), 1);
        let is_there = || match locks {
            Some(_) => {
                let waits =
                    "pg_stat_activity WHERE application_name = 'idempotency' AND wait_event_type = 'Lock'";
                self.count(waits) > 0
            }
            None => self.proxy.lost() > lost,
        };
        for attempt in 0.. {
            if is_there() {
                break;
            }
            assert!(attempt < 10_000, "{point:?} is not reached");
            // It gave up, on a machine that is too slow for it, and is tried again as by any client.
            if let Some(ended) = child.try_wait().unwrap() {
                assert!(!ended.success() && tries < 5, "{point:?} is not reached: {ended}");
                (child, tries) = (transfer(), tries + 1);
            }
            thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        runtime.block_on(lock.rollback()).unwrap();
        // The server notices that nobody is there any more.
        let open = "pg_stat_activity WHERE application_name = 'idempotency' AND state <> 'idle'";
        for attempt in 0.. {
            if self.count(open) == 0 {
                break;
            }
            assert!(attempt < 1_000, "a transaction stays open");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Effects, messages and records are the same ones.
    fn check(&self, transfers: usize, context: &str) {
        let moved = format!("accounts WHERE name = 'bob' AND balance = {}", 1_000_000 + 5 * transfers);
        assert_eq!(self.count(&moved), 1, "{context}");
        let kept = format!("accounts WHERE name = 'alice' AND balance = {}", 1_000_000 - 5 * transfers);
        assert_eq!(self.count(&kept), 1, "{context}");
        assert_eq!(self.count("idempotency.records WHERE state = 'completed'"), transfers + 1, "{context}");
        assert_eq!(self.count("idempotency.records_outbox"), transfers + 1, "{context}");
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[test]
fn a_ledger_that_is_killed_at_any_point_has_moved_the_money_once_or_not_at_all() {
    let ledger = Ledger::open();
    let mut transfers = 0;
    for point in [
        Point::BeforeTheDebit,
        Point::BeforeTheCredit,
        Point::BeforeTheOutbox,
        Point::BeforeTheCommit,
        Point::AfterTheCommit,
    ] {
        for round in 0..ROUNDS * soak(10) {
            let key = format!("{point:?}-{round}");
            ledger.killed(&key, point);
            let was_moved = point == Point::AfterTheCommit;
            transfers += usize::from(was_moved);
            ledger.check(transfers, &key);
            // Whoever retries hears the truth.
            let said = ledger.run(&["transfer", &key, "alice", "bob", "5"]);
            let expected = if was_moved { "was moved before: 5 from alice to bob" } else { "moved: 5 from" };
            assert!(said.starts_with(expected), "{key}: {said}");
            transfers += usize::from(!was_moved);
            ledger.check(transfers, &key);
        }
    }
    assert_eq!(
        ledger.run(&["transfer", "broke", "alice", "bob", "99999999"]).trim(),
        "not moved: there is not enough money"
    );
    assert_eq!(
        ledger.run(&["transfer", "nobody", "alice", "eve", "5"]).trim(),
        "not moved: there is no such account"
    );
    ledger.check(transfers, "what was refused was rolled back");
    assert!(ledger.run(&["relay"]).contains("transfers: 5 from alice to bob"));
}

/// The same with a transaction for the claim, one for the effect and one for the result, and a retry that takes over what it
/// finds orphaned: or the test above shows nothing.
#[test]
fn with_three_transactions_instead_of_one_money_moves_twice() {
    let postgres = Postgres::start(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let doubles = runtime.block_on(async {
        let client = connect(&postgres.url()).await;
        client.batch_execute("CREATE TABLE effects (number bigint)").await.unwrap();
        let store = PostgresStore::open(PostgresConfig::new(postgres.url())).unwrap();
        store.setup(&Setup::new(SecretCheck::unkeyed(), now())).await.unwrap();
        for number in 0..ROUNDS as u64 {
            for dies in [true, false] {
                three_transactions(&store, &client, number, dies).await;
            }
        }
        let twice = "SELECT count(*) FROM (SELECT FROM effects GROUP BY number HAVING count(*) > 1) twice";
        client.query_one(twice, &[]).await.unwrap().get::<_, i64>(0)
    });
    assert_eq!(doubles as usize, ROUNDS);
}

fn now() -> time::OffsetDateTime {
    idempotency::Clock::now(&SystemClock::new())
}

async fn three_transactions(store: &PostgresStore, client: &Client, number: u64, dies: bool) {
    let id = RequestId::derive(None, &Scope::global(), [&number.to_le_bytes()[..]]);
    let owner = idempotency::Owner::from_u128(u128::from(number) * 2 + u128::from(dies));
    let mut claim = Claim::new(id, owner, Fingerprint::derive(None, []));
    if let Inserted::Exists(orphan) = store.insert(&claim, now()).await.unwrap() {
        claim.takes_over = Some(orphan.owner);
        assert_eq!(store.insert(&claim, now()).await.unwrap(), Inserted::Claimed);
    }
    client.execute("INSERT INTO effects VALUES ($1)", &[&(number as i64)]).await.unwrap();
    let retention = claim.retention;
    let change = match dies {
        // What its orphan is found to be.
        true => Change::Halt { reason: HaltReason::OwnerLost, retention },
        false => Change::Complete { response: b"moved".to_vec().into(), retention },
    };
    store.update(&Update::new(id, owner, change), now()).await.unwrap();
}
