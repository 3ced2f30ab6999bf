//! Claim + put beside bare batched statements at their best batch size; what it costs with many rows; and what one open
//! transaction does to the others.
//!
//! `cargo bench -p idempotency-store-postgres --bench statements [-- --quick]`. Fails beyond its bounds.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

mod bare;

use std::{
    convert::Infallible,
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use idempotency_core::{Clock, Fingerprint, SecretCheck, Setup, Store, StoreCommand, SystemClock};
use idempotency_store_postgres::{PostgresConfig, PostgresStore, WorkError};
use idempotency_store_testkit::servers::Postgres;
use tokio::{sync::oneshot, task::JoinHandle};

use bare::{BARE, Bare, Batch, Call, Gathered, NEXT, claim, id, put, slice};

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

fn of_store(store: &PostgresStore) -> Batch {
    let store = store.clone();
    Arc::new(move |calls| {
        let store = store.clone();
        Box::pin(async move {
            let commands: Vec<_> = calls
                .iter()
                .map(|call| match call {
                    Call::Claim(number) => StoreCommand::Insert(claim(*number).into()),
                    Call::Put(number) => StoreCommand::Update(put(*number, BODY).into()),
                })
                .collect();
            for answer in store.apply(&commands, SystemClock::new().now()).await {
                answer.expect("an answer");
            }
        })
    })
}

async fn against_bare(postgres: &Postgres, store: &PostgresStore, quick: bool) -> bool {
    let (slices, runs, bound) = if quick { (5, 1, BOUND * 2.0 / 3.0) } else { (7, 5, BOUND) };
    let bare = Arc::new(Bare::open(postgres, 8, BODY).await);
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
            let (mut of_bare, mut of_store) = (BARE.map(|_| Vec::new()), Vec::new());
            for _ in 0..slices {
                for (way, times) in bare.iter().zip(&mut of_bare) {
                    times.push(slice(callers, cycles, way).await.as_secs_f64());
                }
                let before = sent(postgres);
                of_store.push(slice(callers, cycles, &ours).await.as_secs_f64());
                statements = (sent(postgres) - before) as f64 / (callers * cycles) as f64;
            }
            let of_bare = of_bare.map(median).into_iter().enumerate();
            let (best, time) = of_bare.min_by(|(_, one), (_, other)| one.total_cmp(other)).expect("one");
            best_size = BARE[best].0;
            ratios.push(time / median(of_store));
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

/// The median. A shared machine stands still for a tenth of a second now and then, which says nothing of either way: so they
/// take turns in slices that are shorter than a run, and single ones that were slow do not count.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// So many claims + puts, one after the other: the seconds that each took are noted.
async fn one_by_one(store: &PostgresStore, cycles: usize, times: &mut Vec<f64>) {
    for _ in 0..cycles {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        store.insert(&claim(number), SystemClock::new().now()).await.expect("a claim");
        store.update(&put(number, BODY), SystemClock::new().now()).await.expect("a put");
        times.push(since.elapsed().as_secs_f64());
    }
}

/// An open transaction of the store, which has claimed an id. Whoever holds the sender holds it open.
async fn opened_transaction(store: &PostgresStore) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (end, ended) = oneshot::channel();
    let (begun, has_begun) = oneshot::channel();
    // The work of a transaction may be asked for more than once; this one is not.
    let once = Mutex::new(Some((begun, ended)));
    let (store, number) = (store.clone(), NEXT.fetch_add(1, Ordering::Relaxed));
    let transaction = tokio::spawn(async move {
        let outcome = store.transact(id(number), Fingerprint::derive(None, []), move |_| {
            let (begun, ended) = once.lock().expect("a lock").take().expect("once");
            Box::pin(async move {
                begun.send(()).expect("somebody waits");
                ended.await.expect("an end");
                Ok::<_, WorkError<Infallible>>(Vec::new().into())
            })
        });
        outcome.await.expect("it commits");
    });
    has_begun.await.expect("a beginning");
    (end, transaction)
}

async fn beside_an_open_transaction(store: &PostgresStore, quick: bool) -> bool {
    let (rounds, slices, cycles, bound) =
        if quick { (3, 10, 50, 2.0 * OPEN_BOUND) } else { (5, 20, 50, OPEN_BOUND) };
    let p99 = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() * 99 / 100]
    };
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let (mut quiet, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..slices {
            one_by_one(store, cycles, &mut quiet).await;
            let (end, transaction) = opened_transaction(store).await;
            one_by_one(store, cycles, &mut beside).await;
            end.send(()).expect("it was open all the time");
            transaction.await.expect("it commits");
        }
        ratios.push(p99(beside) / p99(quiet));
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
        if quick { (1, 5, 100_000, 2.0 * ROWS_BOUND) } else { (5, 7, 1_000_000, ROWS_BOUND) };
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
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..slices {
                for (way, times) in ways.iter().zip(&mut times) {
                    times.push(slice(callers, 4_000 / callers.max(8), way).await.as_secs_f64());
                }
            }
            let [of_few, of_many] = times.map(median);
            ratios.push(of_many / of_few);
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
