//! What a `track` and a put cost when much is going on, as ratios to the same when little is: with 50,000 claims in
//! flight, and while a million expired records are pruned. Medians of five interleaved runs.
//!
//! ```sh
//! cargo bench -p idempotency-tracker --bench load              # fails at the bounds
//! cargo bench -p idempotency-tracker --bench load -- --quick   # a tenth of the records; fails at three times the bounds
//! ```
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark measures and prints")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use idempotency_core::{
    Claim, Clock, Fingerprint, Owner, Record, RequestId, Scheme, Store, SystemClock, Write,
};
use idempotency_store_memory::{MemoryConfig, MemoryStore};
use idempotency_tracker::{Permit, Tracked, Tracker, TrackerHandle};
use tokio::runtime::Runtime;

const RUNS: usize = 5;
const AN_HOUR: Duration = Duration::from_secs(3600);
const IN_FLIGHT: u64 = 50_000;
const IN_FLIGHT_BOUND: f64 = 1.5;
const PRUNE_BOUND: f64 = 3.0;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (records, slack) = if quick { (100_000, 3.0) } else { (1_000_000, 1.0) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let in_flight = claims_in_flight(&runtime);
    let pruning = pruning(&runtime, records);
    assert!(
        in_flight <= IN_FLIGHT_BOUND * slack,
        "{IN_FLIGHT} in flight cost {in_flight:.2} times what ten cost"
    );
    assert!(pruning <= PRUNE_BOUND * slack, "while pruning the p99 is {pruning:.2} times the quiet one");
}

/// The cost of claim + put with 50,000 other claims in flight, to that with ten.
fn claims_in_flight(runtime: &Runtime) -> f64 {
    let trackers = [10, IN_FLIGHT].map(|count| {
        runtime.block_on(async {
            let tracker = Tracker::builder(roomy()).max_in_flight(100_000).spawn().await.unwrap();
            let mut held = Vec::new();
            for number in 0..count {
                held.push(init(&tracker, number).await);
            }
            (tracker, held)
        })
    });
    let mut costs = [Vec::new(), Vec::new()];
    let mut next = 1 << 32;
    for _ in 0..=RUNS {
        for (which, (tracker, _)) in trackers.iter().enumerate() {
            costs[which].push(runtime.block_on(cycles(tracker, &mut next)));
        }
    }
    // The first run warms up.
    let [few, many] = costs.map(|costs| median(costs.into_iter().skip(1).collect()));
    println!(
        "in flight:  claim + put with {IN_FLIGHT} claims in flight costs {:.2} times what it costs with 10",
        many / few
    );
    println!(
        "            ({:.2} µs and {:.2} µs a cycle, 64 callers; bound {IN_FLIGHT_BOUND})",
        many * 1e6,
        few * 1e6
    );
    for (tracker, held) in trackers {
        drop(held);
        runtime.block_on(tracker.shutdown(Duration::ZERO)).unwrap();
    }
    many / few
}

/// Seconds a cycle, with 64 callers.
async fn cycles(tracker: &TrackerHandle, next: &mut u64) -> f64 {
    const EACH: u64 = 1_000;
    let since = Instant::now();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (tracker, first) = (tracker.clone(), *next);
            *next += EACH;
            tokio::spawn(async move {
                for number in first..first + EACH {
                    init(&tracker, number).await.complete("201 Created").await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    since.elapsed().as_secs_f64() / (64 * EACH) as f64
}

/// The p99 of a `track` while expired records are pruned, to the quiet p99.
fn pruning(runtime: &Runtime, records: u64) -> f64 {
    let mut quiet = Vec::new();
    let mut busy = Vec::new();
    let mut pruned = Duration::ZERO;
    for run in 0..RUNS as u64 {
        let clock = Ahead::default();
        let store = Arc::new(roomy());
        fill(&store, &clock, records);
        runtime.block_on(async {
            let tracker = Tracker::builder(store.clone())
                .clock(clock.clone())
                .prune_every(24 * AN_HOUR)
                .max_in_flight(1 << 20)
                .spawn()
                .await
                .unwrap();
            let mut latencies = Vec::new();
            for number in 0..20_000 {
                latencies.push(track(&tracker, (run << 40) + number).await);
            }
            quiet.push(p99(&mut latencies));

            // Now all of them have expired.
            clock.0.1.store(2 * AN_HOUR.as_secs(), Ordering::Release);
            let since = Instant::now();
            let pruning = tokio::spawn({
                let tracker = tracker.clone();
                async move { tracker.prune().await.unwrap() }
            });
            let mut latencies = Vec::new();
            let mut number = 1 << 32;
            while !pruning.is_finished() {
                latencies.push(track(&tracker, (run << 40) + number).await);
                number += 1;
            }
            pruned = since.elapsed();
            assert_eq!(pruning.await.unwrap() as u64, records);
            assert!(latencies.len() > 100, "{} requests passed between the steps", latencies.len());
            busy.push(p99(&mut latencies));
            tracker.shutdown(Duration::ZERO).await.unwrap();
        });
    }
    let (quiet, busy) = (median(quiet), median(busy));
    println!(
        "pruning:    while {records} expired records are pruned the p99 of a track is {:.2} times the quiet p99",
        busy / quiet
    );
    println!(
        "            ({:.1} µs and {:.1} µs; the prune took {:.2} s; bound {PRUNE_BOUND})",
        busy * 1e6,
        quiet * 1e6,
        pruned.as_secs_f64()
    );
    busy / quiet
}

/// Seconds until a `track` is answered. Its claim is released, which is not measured.
async fn track(tracker: &TrackerHandle, number: u64) -> f64 {
    let since = Instant::now();
    let permit = init(tracker, number).await;
    let took = since.elapsed().as_secs_f64();
    permit.release().await.unwrap();
    took
}

/// The default budget would be full before the benchmark is over.
fn roomy() -> MemoryStore {
    MemoryStore::with_config(MemoryConfig::new().budget(4 << 30))
}

/// The system's clock, some seconds ahead.
#[derive(Debug, Clone, Default)]
struct Ahead(Arc<(SystemClock, AtomicU64)>);

impl Clock for Ahead {
    fn now(&self) -> time::OffsetDateTime {
        self.0.0.now() + Duration::from_secs(self.0.1.load(Ordering::Acquire))
    }
}

/// Settled records that expire an hour later.
fn fill(store: &MemoryStore, clock: &Ahead, records: u64) {
    let now = clock.now();
    for number in 0..records {
        let claim = Claim::new(id((1 << 62) + number), Owner::from_u128(number.into()), payload());
        let Write::Put(mut record) = Record::on_insert(None, &claim, now).write else { unreachable!() };
        record.state = idempotency_core::State::Completed("201 Created".into());
        record.expires_at = now + AN_HOUR;
        let restored = futures_util::FutureExt::now_or_never(store.restore(&claim.id, &record, now));
        restored.expect("at once").expect("there is room");
    }
}

async fn init(tracker: &TrackerHandle, number: u64) -> Permit {
    match tracker.track((id(number), payload())).await {
        Ok(Tracked::Init(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

fn id(number: u64) -> RequestId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    RequestId::from_bytes(bytes)
}

fn payload() -> Fingerprint {
    Fingerprint::from_parts(Scheme::RAW, [7; 32])
}

fn p99(latencies: &mut [f64]) -> f64 {
    latencies.sort_by(f64::total_cmp);
    latencies[latencies.len() * 99 / 100]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
