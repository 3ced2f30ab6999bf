//! Claim + put beside the bare client that sends the same commands, and how many round trips that takes.
//!
//! `cargo bench -p idempotency-store-redis --bench scripts [-- --quick]`. Fails below the bound.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

mod bare;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use idempotency_core::{
    Change, Claim, Clock, Fingerprint, Owner, SecretCheck, Setup, Store, SystemClock, Update,
};
use idempotency_store_redis::{RedisConfig, RedisStore};
use idempotency_store_testkit::servers::Redis;
use tokio::runtime::{Builder, Runtime};

use bare::{Bare, id};

/// The store to the bare client.
const BOUND: f64 = 0.75;
const BODY: usize = 256;

/// A claim and a put, and a ping of the subscription now and then.
const MOST_TRIPS: f64 = 2.01;

fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (slices, runs, bound) = if quick { (9, 1, BOUND * 2.0 / 3.0) } else { (11, 5, BOUND) };
    let redis = Redis::start(&[]);
    println!(
        "claim + put with {BODY} bytes, cycles a second; medians of {runs} runs of {slices} slices by turns"
    );
    let mut good = true;
    for callers in [1, 8, 64, 512] {
        good &= runtime(callers).block_on(measure(&redis, callers, slices, runs, bound));
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One caller waits for its connection's task and that for the server: on two threads it is the scheduler's chance for a whole
/// run whether they wake each other, and either way is four times slower if they do.
fn runtime(callers: u64) -> Runtime {
    let mut builder = if callers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

async fn measure(redis: &Redis, callers: u64, slices: u64, runs: usize, bound: f64) -> bool {
    let store = Arc::new(
        RedisStore::open(RedisConfig::new(redis.url()).call_limit(Duration::from_secs(60))).unwrap(),
    );
    store.setup(&Setup::new(SecretCheck::unkeyed(), SystemClock::new().now())).await.unwrap();
    let bare = Arc::new(Bare::open(redis, BODY).await);
    let mut good = true;
    let mut ratios = Vec::new();
    let (mut rates, mut trips) = ((0.0, 0.0), 0.0);
    for _ in 0..runs {
        let (mut of_bare, mut of_store) = (Vec::new(), Vec::new());
        // So many that a slice takes a tenth of a second or so.
        let cycles = (400 * callers).min(20_000) / callers;
        let before = round_trips(redis);
        slice(callers, cycles, &store, |store, number| async move { stored(&store, number).await }).await;
        trips = (round_trips(redis) - before) as f64 / (callers * cycles) as f64;
        for _ in 0..slices {
            redis.command(&["FLUSHDB"]);
            of_bare.push(
                slice(callers, cycles, &bare, |bare, number| async move { bare.cycle(number, false).await })
                    .await,
            );
            of_store.push(
                slice(callers, cycles, &store, |store, number| async move { stored(&store, number).await })
                    .await,
            );
        }
        let count = (callers * cycles) as f64;
        rates = (count / median(of_bare), count / median(of_store));
        ratios.push(rates.1 / rates.0);
    }
    ratios.sort_by(f64::total_cmp);
    let (median, least, most) = (ratios[runs / 2], ratios[0], ratios[runs - 1]);
    println!(
        "{callers:>4} callers: bare {:>7.0}, store {:>7.0}, ratio {median:.2} ({least:.2} to {most:.2}); {trips:.2} round trips a cycle",
        rates.0, rates.1
    );
    if trips > MOST_TRIPS {
        println!("     more than {MOST_TRIPS} round trips");
        good = false;
    }
    if median < bound {
        println!("     below the bound of {bound:.2}");
        good = false;
    }
    good
}

/// The median in seconds. A shared machine stands still for a tenth of a second now and then, which says nothing of the store.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// How many requests the server was sent, but for those of this benchmark: scripts, and claims, of which each writes once, as
/// each script does.
fn round_trips(redis: &Redis) -> u64 {
    const OTHERS: [&str; 8] = ["pttl", "get", "set", "getrange", "publish", "del", "info", "flushdb"];
    let stats = redis.command(&["INFO", "commandstats"]);
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name, rest.split(',').next()?.parse::<u64>().ok()?))
    });
    let of = |name: &str| calls.clone().filter(|(is, _)| *is == name).map(|(_, calls)| calls).sum::<u64>();
    let sent = calls.clone().filter(|(name, _)| !OTHERS.contains(name)).map(|(_, calls)| calls).sum::<u64>();
    sent + of("set").saturating_sub(of("evalsha"))
}

static NEXT: AtomicU64 = AtomicU64::new(1);

async fn slice<S: Send + Sync + 'static, F: Future<Output = ()> + Send + 'static>(
    callers: u64,
    cycles: u64,
    on: &Arc<S>,
    cycle: impl Fn(Arc<S>, u64) -> F + Copy + Send + 'static,
) -> Duration {
    let since = Instant::now();
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let on = on.clone();
            tokio::spawn(async move {
                for _ in 0..cycles {
                    cycle(on.clone(), NEXT.fetch_add(1, Ordering::Relaxed)).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller");
    }
    since.elapsed()
}

async fn stored(store: &RedisStore, number: u64) {
    let now = SystemClock::new().now();
    let claim = Claim::new(id(number), Owner::from_u128(number.into()), Fingerprint::derive(None, []));
    store.insert(&claim, now).await.expect("a claim");
    let change = Change::Complete { response: vec![7; BODY].into(), retention: claim.retention };
    store.update(&Update::new(claim.id, claim.owner, change), now).await.expect("a put");
}
