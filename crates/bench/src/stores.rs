//! Stores in a file and on servers, through the tracker and with its defaults, beside the bare client at its best batch size, and on
//! Redis beside `idempotent`.

#[path = "../../store-postgres/benches/bare/mod.rs"]
mod statements;

#[path = "../../store-redb/benches/bare/mod.rs"]
mod file;

#[path = "../../store-redis/benches/bare/mod.rs"]
mod scripts;

use std::{
    cell::Cell,
    ops::Range,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use futures_util::future::LocalBoxFuture;
use idempotency::store::Store;
use idempotency_store_postgres::{PostgresConfig, PostgresStore};
use idempotency_store_redb::RedbStore;
use idempotency_store_redis::{RedisConfig, RedisStore};
use idempotency_store_testkit::servers::{Postgres, Redis};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{
    memory::Work,
    report::{Ratios, Report, Table},
    target::Target,
};

/// How often each column has its turn in a round.
const SLICES: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Redb,
    Redis,
    Postgres,
}

/// What so many callers do so many times each.
#[derive(Clone, Copy)]
struct Load {
    callers: u64,
    turns: u64,
}

impl Load {
    /// As many turns as take a few tenths of a second, on a slow disk a little longer.
    fn new(kind: Kind, callers: usize) -> Self {
        let callers = callers as u64;
        let (each, all) = match kind {
            Kind::Redb => (32, 2_048),
            Kind::Redis => (400, 20_000),
            Kind::Postgres => (200, 8_000),
        };
        Self { callers, turns: ((each * callers).min(all) / callers).max(1) }
    }
}

/// A contestant: ours, a peer, or the bare client with some size of a batch.
struct Column(Box<dyn Fn(Load) -> LocalBoxFuture<'static, ()>>);

impl Column {
    fn new<F: Future<Output = ()> + 'static>(turns: impl Fn(Load) -> F + 'static) -> Self {
        Self(Box::new(move |load| Box::pin(turns(load))))
    }

    /// Claims and puts by callers that each wait for their own.
    fn of(target: Target, len: usize) -> Self {
        let next = Cell::new(1 << 40);
        Self::new(move |load| {
            let salt = next.replace(next.get() + load.callers);
            let callers: Vec<_> = (salt..salt + load.callers)
                .map(|salt| tokio::spawn(target.clone().turns(Work::First, salt, load.turns as usize, len)))
                .collect();
            async {
                for caller in callers {
                    caller.await.expect("a caller");
                }
            }
        })
    }
}

/// The bare client at each size of a batch, and all others with their names.
struct Columns<'a> {
    bare: Vec<Column>,
    others: Vec<(&'static str, Column)>,
    /// Before each round.
    clean: Box<dyn Fn() + 'a>,
    /// Where the files are, if there are any.
    _folder: Option<TempDir>,
}

pub(crate) fn run(report: &Report, kind: Kind, callers: &[usize], rounds: usize, len: usize) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match kind {
        // A new file for each number of callers, for all of a batch lands in one place.
        Kind::Redb => compare(report, &runtime, kind, callers, (rounds, len), |callers| {
            runtime.block_on(redb(callers, len))
        }),
        Kind::Redis => {
            let redis = Redis::start(&[]);
            compare(report, &runtime, kind, callers, (rounds, len), |_| {
                runtime.block_on(on_redis(&redis, len))
            });
        }
        Kind::Postgres => {
            let postgres = Postgres::start(&["max_wal_size=8GB"]);
            compare(report, &runtime, kind, callers, (rounds, len), |_| {
                runtime.block_on(on_postgres(&postgres, len))
            });
        }
    }
}

fn compare<'a>(
    report: &Report,
    runtime: &Runtime,
    kind: Kind,
    numbers: &[usize],
    (rounds, len): (usize, usize),
    columns: impl Fn(usize) -> Columns<'a>,
) {
    let name = kind.to_possible_value().expect("none is hidden").get_name().to_owned();
    let title = format!("claim + put on {name}, {len} bytes: turns a second, to those of the bare client");
    let (mut table, mut plotted) = (None, Vec::new());
    for &callers in numbers {
        let columns = columns(callers);
        let load = Load::new(kind, callers);
        let names: Vec<&str> =
            ["bare"].into_iter().chain(columns.others.iter().map(|(name, _)| *name)).collect();
        let all: Vec<&Column> =
            columns.bare.iter().chain(columns.others.iter().map(|(_, column)| column)).collect();
        let mut ratios = Ratios::new(names.len());
        // The first round warms up.
        for round in 0..=rounds {
            (columns.clean)();
            let mut took = vec![Duration::ZERO; all.len()];
            // Each is first, second and last in turn.
            for slice in 0..SLICES {
                for at in 0..all.len() {
                    let at = (at + slice + round) % all.len();
                    let since = Instant::now();
                    runtime.block_on(async { (all[at].0)(load).await });
                    took[at] += since.elapsed();
                }
            }
            if round > 0 {
                let (bare, others) = took.split_at(columns.bare.len());
                let best = bare.iter().min().expect("at least one size");
                ratios.add([best].into_iter().chain(others).map(|took| 1.0 / took.as_secs_f64()), 0);
            }
        }
        if plotted.is_empty() {
            plotted = names.iter().map(|name| (*name, Vec::new())).collect();
        }
        for ((_, plotted), median) in plotted.iter_mut().zip(ratios.medians()) {
            plotted.push(median);
        }
        let table = table.get_or_insert_with(|| Table::new(&title, "callers", &names));
        table.row(callers.to_string(), ratios.shown());
    }
    report.table(table.expect("callers"));
    report.plot(&format!("{name}-{len}.svg"), &title, numbers, &plotted);
}

async fn redb(callers: usize, len: usize) -> Columns<'static> {
    // Beside the program, for the folder of temporary files may be in memory.
    let program = std::env::current_exe().expect("a program");
    let folder = tempfile::tempdir_in(program.parent().expect("in a folder")).expect("a folder on this disk");
    let bare = sizes(callers)
        .map(|size| {
            let bare = file::Bare::open(&folder.path().join(format!("bare-{size}.redb")), size, len);
            let next = Cell::new(0);
            Column::new(move |load| {
                let all = load.callers * load.turns;
                let numbers: Range<u64> = next.replace(next.get() + all)..next.get();
                bare.cycles(numbers);
                std::future::ready(())
            })
        })
        .collect();
    let store = RedbStore::open(folder.path().join("ours.redb")).expect("a file");
    let others = vec![("ours", ours(store, len).await)];
    Columns { bare, others, clean: Box::new(|| {}), _folder: Some(folder) }
}

/// Of all that wait at once, a part.
fn sizes(callers: usize) -> impl Iterator<Item = usize> {
    let mut sizes = vec![callers.div_ceil(4), callers.div_ceil(2), callers];
    sizes.dedup();
    sizes.into_iter()
}

async fn on_redis(redis: &Redis, len: usize) -> Columns<'_> {
    let bare = Arc::new(scripts::Bare::open(redis, len).await);
    let next = Rc::new(Cell::new(0));
    let cycles = |by_script| {
        let (bare, next) = (bare.clone(), next.clone());
        Column::new(move |load| {
            let first = next.replace(next.get() + load.callers * load.turns);
            let callers: Vec<_> = (0..load.callers)
                .map(|caller| {
                    let (bare, first) = (bare.clone(), first + caller * load.turns);
                    tokio::spawn(async move {
                        for number in first..first + load.turns {
                            bare.cycle(number, by_script).await;
                        }
                    })
                })
                .collect();
            async {
                for caller in callers {
                    caller.await.expect("a caller");
                }
            }
        })
    };
    let store = RedisStore::open(RedisConfig::new(redis.url())).expect("a server");
    let peer = Column::of(Target::valkey(redis.url()).await, len);
    let others =
        vec![("bare, as ours claims", cycles(false)), ("ours", ours(store, len).await), ("idempotent", peer)];
    Columns {
        bare: vec![cycles(true)],
        others,
        clean: Box::new(|| drop(redis.command(&["FLUSHDB"]))),
        _folder: None,
    }
}

async fn on_postgres(postgres: &Postgres, len: usize) -> Columns<'_> {
    // First, for the bare statements write into a table like ours.
    let store = PostgresStore::open(PostgresConfig::new(postgres.url())).expect("a server");
    let others = vec![("ours", ours(store, len).await)];
    let bare = Arc::new(statements::Bare::open(postgres, 8, len).await);
    let batch: statements::Batch = Arc::new(move |calls| {
        let bare = bare.clone();
        Box::pin(async move { bare.run(calls).await })
    });
    let bare = statements::BARE.map(|(size, at_once)| {
        let way = statements::Gathered::start(size, at_once, batch.clone());
        Column::new(move |load| {
            let way = way.clone();
            async move {
                statements::slice(load.callers, load.turns, &way).await;
            }
        })
    });
    let clean = || drop(postgres.sql("TRUNCATE bare, idempotency.records"));
    Columns { bare: bare.into(), others, clean: Box::new(clean), _folder: None }
}

async fn ours(store: impl Store, len: usize) -> Column {
    Column::of(Target::ours(store).await, len)
}
