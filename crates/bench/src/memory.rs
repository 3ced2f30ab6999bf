//! What is in memory, through the public API of each: ours with the defaults of its builder, the memory store of `idempotent`, and
//! as limits two maps with the same semantics and no lease, and bare round trips to an actor.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::{
    runtime::{Builder, Runtime},
    task::LocalSet,
};

use crate::{
    report::{Ratios, Report, Table},
    target::{Bare, Target},
};

pub(crate) const CALLERS: [usize; 4] = [1, 8, 64, 512];

/// What a caller asks again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// A claim and its result, each time of another key
    First,
    /// The result of a key that was completed before
    Replay,
    /// A key that somebody works on
    Conflict,
    /// A completed key with another payload
    Mismatch,
}

impl Work {
    const ALL: [Self; 4] = [Self::First, Self::Replay, Self::Conflict, Self::Mismatch];

    fn name(self) -> &'static str {
        match self {
            Self::First => "claim + put",
            Self::Replay => "replay",
            Self::Conflict => "conflict",
            Self::Mismatch => "mismatch",
        }
    }
}

/// Which column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Dedicated,
    Local,
    Idempotent,
    Sharded,
    Concurrent,
    Actor,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Dedicated, Self::Local, Self::Idempotent, Self::Sharded, Self::Concurrent, Self::Actor];

    fn name(self) -> &'static str {
        match self {
            Self::Dedicated => "ours",
            Self::Local => "ours, local",
            Self::Idempotent => "idempotent",
            Self::Sharded => "mutex map",
            Self::Concurrent => "concurrent map",
            Self::Actor => "bare actor",
        }
    }
}

/// Where one column lives: on two threads, or all of it on one.
struct Column {
    kind: Kind,
    runtime: Runtime,
    local: Option<LocalSet>,
    target: Target,
}

impl Column {
    fn new(kind: Kind, bare: &Bare) -> Self {
        if kind == Kind::Local {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let local = LocalSet::new();
            let target = local.block_on(&runtime, Target::local());
            return Self { kind, runtime, local: Some(local), target };
        }
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let target = runtime.block_on(async {
            match kind {
                Kind::Idempotent => Target::idempotent(),
                Kind::Sharded => Target::sharded(),
                Kind::Concurrent => Target::concurrent(),
                Kind::Actor => Target::actor(bare),
                Kind::Dedicated | Kind::Local => Target::dedicated().await,
            }
        });
        Self { kind, runtime, local: None, target }
    }

    /// What each of so many callers took for each of its turns, and how many turns a second that is.
    fn run(&self, work: Work, callers: usize, turns: usize, len: usize, salt: u64) -> Measured {
        let turns_of_all = async {
            let since = Instant::now();
            let callers: Vec<_> = (0..callers as u64)
                .map(|caller| {
                    let turns = self.target.clone().turns(work, salt << 32 | caller, turns, len);
                    match self.local {
                        Some(_) => tokio::task::spawn_local(turns),
                        None => tokio::spawn(turns),
                    }
                })
                .collect();
            let mut latencies = Vec::new();
            for caller in callers {
                latencies.extend(caller.await.expect("a caller"));
            }
            (latencies, since.elapsed())
        };
        let (latencies, took) = match &self.local {
            Some(local) => local.block_on(&self.runtime, turns_of_all),
            None => self.runtime.block_on(turns_of_all),
        };
        Measured::new(latencies, took)
    }
}

struct Measured {
    rate: f64,
    /// In nanoseconds, ascending.
    latencies: Vec<u64>,
}

impl Measured {
    fn new(mut latencies: Vec<u64>, took: Duration) -> Self {
        latencies.sort_unstable();
        Self { rate: latencies.len() as f64 / took.as_secs_f64(), latencies }
    }

    fn quantile(&self, quantile: f64) -> f64 {
        self.latencies[((self.latencies.len() - 1) as f64 * quantile) as usize] as f64
    }
}

/// Each kind of work at each number of callers, all columns in each round.
pub(crate) fn run(report: &Report, rounds: usize, len: usize) {
    let bare = Bare::start();
    for work in Work::ALL {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Actor || work != Work::Conflict);
        let columns: Vec<Column> = kinds.map(|kind| Column::new(kind, &bare)).collect();
        let names: Vec<&str> = columns.iter().map(|column| column.kind.name()).collect();
        let at = |kind| columns.iter().position(|column| column.kind == kind).expect("a column");
        let title = format!("{}, {len} bytes", work.name());
        let mut rates =
            Table::new(format!("{title}: turns a second, to those of `idempotent`"), "callers", &names);
        let mut tails = Table::new(format!("{title}: microseconds, p50 / p99 / p99.9"), "callers", &names);
        let mut plotted: Vec<(&str, Vec<f64>)> = names.iter().map(|name| (*name, Vec::new())).collect();
        for callers in CALLERS {
            let mut ratios = Ratios::new(columns.len());
            let mut quantiles = vec![[(); 3].map(|()| Vec::new()); columns.len()];
            for round in 0..rounds {
                let mut measured: Vec<Option<Measured>> = columns.iter().map(|_| None).collect();
                // Each is first in turn.
                for index in 0..columns.len() {
                    let index = (index + round) % columns.len();
                    let turns = if callers == 1 { 4_000 } else { 40_000 / callers };
                    let salt = (round as u64 + 1) << 16 | callers as u64;
                    measured[index] = Some(columns[index].run(work, callers, turns, len, salt));
                }
                let measured: Vec<Measured> = measured.into_iter().flatten().collect();
                ratios.add(measured.iter().map(|it| it.rate), at(Kind::Idempotent));
                for (of_column, measured) in quantiles.iter_mut().zip(&measured) {
                    for (values, quantile) in of_column.iter_mut().zip([0.5, 0.99, 0.999]) {
                        values.push(measured.quantile(quantile) / 1000.0);
                    }
                }
            }
            for ((_, plotted), median) in plotted.iter_mut().zip(ratios.medians()) {
                plotted.push(median);
            }
            rates.row(callers.to_string(), ratios.shown());
            tails.row(
                callers.to_string(),
                quantiles.into_iter().map(|of_column| {
                    let [p50, p99, p999] = of_column.map(crate::report::median);
                    format!("{p50:.1} / {p99:.0} / {p999:.0}")
                }),
            );
        }
        report.table(rates);
        report.table(tails);
        let (file, title) =
            (format!("{}-{len}.svg", work.name().replace(" + ", "-")), format!("{title}, to `idempotent`"));
        report.plot(&file, &title, &CALLERS, &plotted);
    }
}

/// One column by itself, to be profiled.
pub(crate) fn profile(kind: Kind, work: Work, callers: usize, turns: usize) {
    let measured = Column::new(kind, &Bare::start()).run(work, callers, turns, 256, 1);
    println!(
        "{} turns, p50 {:.1} µs, {:.0} a second",
        measured.latencies.len(),
        measured.quantile(0.5) / 1000.0,
        measured.rate
    );
}
