//! Claim + put beside bare batched statements at their best batch size; what it costs with many rows; and what one open
//! transaction does to the others.
//!
//! `cargo bench -p idempotency-store-postgres --bench statements [-- --quick]`. Fails beyond its bounds.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use idempotency_core::{
    Change, Claim, Clock, Fingerprint, Owner, RequestId, SecretCheck, Setup, Store, StoreCommand,
    SystemClock, Update,
};
use idempotency_store_postgres::{
    PostgresConfig, PostgresStore, WorkError,
    tokio_postgres::{self, Client, NoTls, Statement},
};
use idempotency_store_testkit::servers::Postgres;
use tokio::sync::{Mutex, mpsc, oneshot};

/// The store to the bare statements.
const BOUND: f64 = 0.75;
/// With a hundred times as many rows.
const ROWS_BOUND: f64 = 1.3;
/// The p99 of other keys beside an open transaction, to the quiet one.
const OPEN_BOUND: f64 = 2.0;
const BODY: usize = 256;

fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let good = runtime.expect("a runtime").block_on(measure(quick));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(quick: bool) -> bool {
    let postgres = Postgres::start(&["max_wal_size=8GB"]);
    let store = opened(&postgres, "records").await;
    let throughput = against_bare(&postgres, &store, quick).await;
    let open = beside_an_open_transaction(&store, quick).await;
    let rows = with_many_rows(&postgres, quick).await;
    throughput && open && rows
}

async fn opened(postgres: &Postgres, table: &str) -> PostgresStore {
    let config =
        PostgresConfig::new(postgres.url()).table(table).connections(8).call_limit(Duration::from_secs(60));
    let store = PostgresStore::open(config).unwrap();
    store.setup(&Setup::new(SecretCheck::unkeyed(), SystemClock::new().now())).await.unwrap();
    store
}

/// A claim or a put of a number.
#[derive(Clone, Copy)]
enum Call {
    Claim(u64),
    Put(u64),
}

type Batch = Arc<dyn Fn(Vec<Call>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Gathers what waits, up to a size, and has so many batches under way, as the tracker's child does.
#[derive(Clone)]
struct Gathered(mpsc::Sender<(Call, oneshot::Sender<()>)>);

impl Gathered {
    fn start(size: usize, at_once: usize, batch: Batch) -> Self {
        let (calls, waiting) = mpsc::channel(4096);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..at_once {
            let (waiting, batch) = (waiting.clone(), batch.clone());
            tokio::spawn(async move {
                let mut group = Vec::with_capacity(size);
                while waiting.lock().await.recv_many(&mut group, size).await > 0 {
                    let (calls, answers): (Vec<_>, Vec<oneshot::Sender<()>>) = group.drain(..).unzip();
                    batch(calls).await;
                    for answer in answers {
                        let _ = answer.send(());
                    }
                }
            });
        }
        Self(calls)
    }

    async fn call(&self, call: Call) {
        let (answer, answered) = oneshot::channel();
        assert!(self.0.send((call, answer)).await.is_ok(), "it runs");
        answered.await.expect("an answer");
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

async fn slice(callers: u64, cycles: u64, way: &Gathered) -> Duration {
    let since = Instant::now();
    let callers = (0..callers).map(|_| {
        let way = way.clone();
        tokio::spawn(async move {
            for _ in 0..cycles {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                way.call(Call::Claim(number)).await;
                way.call(Call::Put(number)).await;
            }
        })
    });
    join_all(callers.collect::<Vec<_>>()).await.into_iter().for_each(|caller| caller.expect("a caller"));
    since.elapsed()
}

fn id(number: u64) -> RequestId {
    // Spread as those of real requests are.
    RequestId::derive(None, &idempotency_core::Scope::global(), [&number.to_le_bytes()[..]])
}

fn claim(number: u64) -> Claim {
    Claim::new(id(number), Owner::from_u128(number.into()), Fingerprint::derive(None, []))
}

fn put(number: u64) -> Update {
    let claim = claim(number);
    let change = Change::Complete { response: vec![7; BODY].into(), retention: claim.retention };
    Update::new(claim.id, claim.owner, change)
}

fn of_store(store: &PostgresStore) -> Batch {
    let store = store.clone();
    Arc::new(move |calls| {
        let store = store.clone();
        Box::pin(async move {
            let commands: Vec<_> = calls
                .iter()
                .map(|call| match call {
                    Call::Claim(number) => StoreCommand::Insert(claim(*number)),
                    Call::Put(number) => StoreCommand::Update(put(*number)),
                })
                .collect();
            for answer in store.apply(&commands, SystemClock::new().now()).await {
                answer.expect("an answer");
            }
        })
    })
}

/// The statements by themselves, with nothing but the columns, on connections of their own.
struct Bare {
    connections: Vec<(Client, Statement, Statement)>,
    next: AtomicU64,
}

impl Bare {
    async fn open(postgres: &Postgres, connections: usize) -> Self {
        postgres.sql("CREATE TABLE IF NOT EXISTS bare (LIKE idempotency.records INCLUDING ALL)");
        let insert = "INSERT INTO bare (id, owner, state, claimed_at, lease_until, expires_at, fingerprint, meta) \
            SELECT id, owner, 'processing', now(), now() + '15 s', now() + '1 day', fingerprint, '' \
            FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) AS c (id, owner, fingerprint) ORDER BY id \
            ON CONFLICT DO NOTHING RETURNING id";
        let update = "UPDATE bare b SET state = 'completed', lease_until = NULL, expires_at = now() + '1 day', \
            digest = u.digest, body = u.body \
            FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[]) AS u (id, owner, digest, body) \
            WHERE b.id = u.id AND b.owner = u.owner RETURNING b.id";
        let opened = (0..connections).map(async |_| {
            let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.unwrap();
            tokio::spawn(connection);
            // The plan that scales, as the store has it.
            client
                .batch_execute(
                    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
                )
                .await
                .unwrap();
            let statements = (client.prepare(insert).await.unwrap(), client.prepare(update).await.unwrap());
            (client, statements.0, statements.1)
        });
        Self { connections: join_all(opened).await, next: AtomicU64::new(0) }
    }

    async fn run(&self, calls: Vec<Call>) {
        let of = |wanted: fn(&Call) -> Option<u64>| calls.iter().filter_map(wanted).collect::<Vec<_>>();
        let claims = of(|call| if let Call::Claim(number) = call { Some(*number) } else { None });
        let puts = of(|call| if let Call::Put(number) = call { Some(*number) } else { None });
        let of_claims = async {
            if !claims.is_empty() {
                let (client, insert, _) = self.connection();
                let all: Vec<_> = claims.iter().map(|number| claim(*number)).collect();
                let ids: Vec<_> = all.iter().map(|claim| &claim.id.as_bytes()[..]).collect();
                let owners: Vec<_> = all.iter().map(|claim| &claim.owner.as_bytes()[..]).collect();
                let fingerprints = vec![&[0_u8; 33][..]; ids.len()];
                let rows = client.query(insert, &[&ids, &owners, &fingerprints]).await.expect("claims");
                assert_eq!(rows.len(), ids.len());
            }
        };
        let of_puts = async {
            if !puts.is_empty() {
                let (client, _, update) = self.connection();
                let all: Vec<_> = puts.iter().map(|number| put(*number)).collect();
                let ids: Vec<_> = all.iter().map(|put| &put.id.as_bytes()[..]).collect();
                let owners: Vec<_> = all.iter().map(|put| &put.owner.as_bytes()[..]).collect();
                let digests = vec![&[0_u8; 32][..]; ids.len()];
                let bodies = vec![&[7_u8; BODY][..]; ids.len()];
                let rows = client.query(update, &[&ids, &owners, &digests, &bodies]).await.expect("puts");
                assert_eq!(rows.len(), ids.len());
            }
        };
        futures_util::future::join(of_claims, of_puts).await;
    }

    fn connection(&self) -> &(Client, Statement, Statement) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        &self.connections[next % self.connections.len()]
    }
}

/// How large batches of bare statements are, and how many are under way.
const BARE: [(usize, usize); 4] = [(1, 8), (64, 2), (512, 2), (512, 4)];

async fn against_bare(postgres: &Postgres, store: &PostgresStore, quick: bool) -> bool {
    let (slices, runs, bound) = if quick { (2, 1, BOUND * 2.0 / 3.0) } else { (6, 5, BOUND) };
    let bare = Arc::new(Bare::open(postgres, 8).await);
    let of_bare: Batch = Arc::new(move |calls| {
        let bare = bare.clone();
        Box::pin(async move { bare.run(calls).await })
    });
    // As the tracker gathers.
    let ours = Gathered::start(512, 4, of_store(store));
    let bare = BARE.map(|(size, at_once)| Gathered::start(size, at_once, of_bare.clone()));
    println!(
        "claim + put with {BODY} bytes, to bare statements at their best batch size; medians of {runs} runs"
    );
    let mut good = true;
    for callers in [1_u64, 8, 64, 512] {
        let cycles = (200 * callers).min(8_000) / callers;
        let (mut ratios, mut best_size, mut statements) = (Vec::new(), 0, 0.0);
        for _ in 0..runs {
            let (mut of_bare, mut of_store) = ([Duration::ZERO; BARE.len()], Duration::ZERO);
            for _ in 0..slices {
                for (way, time) in bare.iter().zip(&mut of_bare) {
                    *time += slice(callers, cycles, way).await;
                }
                let before = sent(postgres);
                of_store += slice(callers, cycles, &ours).await;
                statements = (sent(postgres) - before) as f64 / (callers * cycles) as f64;
            }
            let (best, time) = of_bare.iter().enumerate().min_by_key(|(_, time)| **time).expect("one");
            best_size = BARE[best].0;
            ratios.push(time.as_secs_f64() / of_store.as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        let (median, least, most) = (ratios[runs / 2], ratios[0], ratios[runs - 1]);
        println!(
            "{callers:>4} callers: {median:.2} ({least:.2} to {most:.2}) of bare with up to {best_size}; \
             {statements:.2} statements, each a round trip, a cycle"
        );
        if median < bound {
            println!("     below the bound of {bound:.2}");
            good = false;
        }
    }
    good
}

/// How many transactions have written: of the store each is one statement, sent by itself.
fn sent(postgres: &Postgres) -> u64 {
    postgres.sql("SELECT txid_current()").parse().expect("a number")
}

/// The p99 of a claim + put in microseconds, of one caller after the other.
async fn p99(store: &PostgresStore, cycles: usize) -> f64 {
    let mut times = Vec::with_capacity(cycles);
    for _ in 0..cycles {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        store.insert(&claim(number), SystemClock::new().now()).await.expect("a claim");
        store.update(&put(number), SystemClock::new().now()).await.expect("a put");
        times.push(since.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times[cycles * 99 / 100]
}

async fn beside_an_open_transaction(store: &PostgresStore, quick: bool) -> bool {
    let (rounds, cycles, bound) = if quick { (3, 200, 2.0 * OPEN_BOUND) } else { (5, 1_000, OPEN_BOUND) };
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let quiet = p99(store, cycles).await;
        let open = {
            let (store, number) = (store.clone(), NEXT.fetch_add(1, Ordering::Relaxed));
            tokio::spawn(async move {
                let outcome = store.transact(id(number), Fingerprint::derive(None, []), |_| {
                    Box::pin(async {
                        tokio::time::sleep(Duration::from_secs(10)).await;
                        Ok::<_, WorkError<Infallible>>(Vec::new().into())
                    })
                });
                outcome.await.expect("it commits");
            })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let beside = p99(store, cycles).await;
        assert!(!open.is_finished(), "it was open all the time");
        open.abort();
        ratios.push(beside / quiet);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[rounds / 2];
    println!(
        "p99 of other keys beside an open transaction, to the quiet one: {median:.2} ({:.2} to {:.2})",
        ratios[0],
        ratios[rounds - 1]
    );
    if median > bound {
        println!("     beyond the bound of {bound:.2}");
    }
    median <= bound
}

async fn with_many_rows(postgres: &Postgres, quick: bool) -> bool {
    let (runs, slices, many, bound) =
        if quick { (1, 3, 100_000, 2.0 * ROWS_BOUND) } else { (5, 6, 1_000_000, ROWS_BOUND) };
    let stores = [("few", 10_000), ("many", many)].map(async |(table, rows)| {
        let store = opened(postgres, table).await;
        postgres.sql(&format!(
            "INSERT INTO idempotency.{table} SELECT sha256(n::text::bytea), decode(repeat('ff', 16), 'hex'), 'completed', \
             now(), now() + n * interval '1 ms' + interval '1 day', NULL, false, decode(repeat('00', 33), 'hex'), \
             sha256(''), '', decode(repeat('07', 256), 'hex') FROM generate_series(1, {rows}) n"
        ));
        postgres.sql(&format!("VACUUM ANALYZE idempotency.{table}"));
        Gathered::start(512, 2, of_store(&store))
    });
    let ways = join_all(stores).await;
    postgres.sql("CHECKPOINT");
    let mut good = true;
    for callers in [1, 64] {
        let mut ratios = Vec::new();
        for _ in 0..runs {
            let mut times = [Duration::ZERO; 2];
            for _ in 0..slices {
                for (way, time) in ways.iter().zip(&mut times) {
                    *time += slice(callers, 4_000 / callers.max(8), way).await;
                }
            }
            ratios.push(times[1].as_secs_f64() / times[0].as_secs_f64());
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios[runs / 2];
        println!(
            "{callers:>4} callers with {many} rows, to the same with 10000: {median:.2} ({:.2} to {:.2})",
            ratios[0],
            ratios[runs - 1]
        );
        if median > bound {
            println!("     beyond the bound of {bound:.2}");
            good = false;
        }
    }
    good
}
