//! What a claim and its result cost when much is in flight or stored, and what a record takes up.

use std::time::{Duration, Instant};

use idempotency::{
    Fingerprint, MemoryConfig, MemoryStore, Meta, Owner, Permit, Record, RequestId, Scheme, State, Tracked,
    Tracker, TrackerHandle, store::Store,
};
use time::OffsetDateTime;
use tokio::runtime::{Builder, Runtime};

use crate::report::{Ratios, Report, Table};

const IN_FLIGHT: [u64; 4] = [10, 1_000, 10_000, 50_000];
const STORED: [u64; 3] = [10_000, 1_000_000, 10_000_000];
const BODY: usize = 256;
const CALLERS: u64 = 64;
const TURNS: u64 = 500;

pub(crate) fn run(report: &Report, rounds: usize) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let in_flight = IN_FLIGHT.map(|count| {
        let tracker = runtime.block_on(tracker(roomy()));
        let held: Vec<Permit> = runtime.block_on(async {
            futures_util::future::join_all((0..count).map(|it| init(&tracker, it))).await
        });
        (count, tracker, held)
    });
    let title =
        "claim + put by 64 callers: what it costs with so many claims in flight, to what it costs with 10";
    let trackers: Vec<_> = in_flight.iter().map(|(count, tracker, _)| (*count, tracker.clone())).collect();
    report.table(compared(&runtime, title, "in flight", &trackers, rounds));
    for (_, tracker, held) in in_flight {
        drop(held);
        runtime.block_on(tracker.shutdown(Duration::ZERO)).expect("it ends");
    }

    let before = resident();
    let stores = STORED.map(|count| (count, filled(&runtime, count)));
    let bytes = (resident() - before) / STORED.iter().sum::<u64>() as f64;
    let title =
        "claim + put by 64 callers: what it costs with so many records stored, to what it costs with 10,000";
    let trackers = stores.map(|(count, store)| (count, runtime.block_on(tracker(store))));
    report.table(compared(&runtime, title, "stored", &trackers, rounds));
    let least = (32 + BODY + 64) as f64;
    let mut table = Table::new(
        "bytes of memory for a record of 256 bytes, with its id and its place in the index",
        "",
        &["bytes", "of key + value + 64"],
    );
    table.row("memory store", [format!("{bytes:.0}"), format!("{:.2}", bytes / least)]);
    report.table(table);
}

fn compared(
    runtime: &Runtime,
    title: &str,
    head: &str,
    trackers: &[(u64, TrackerHandle)],
    rounds: usize,
) -> Table {
    let mut ratios = Ratios::new(trackers.len());
    let mut next = 1 << 40;
    // The first round warms up.
    for round in 0..=rounds {
        let mut costs = vec![0.0; trackers.len()];
        for at in 0..trackers.len() {
            let at = (at + round) % trackers.len();
            costs[at] = runtime.block_on(cycles(&trackers[at].1, &mut next));
        }
        if round > 0 {
            ratios.add(costs.into_iter(), 0);
        }
    }
    let mut table = Table::new(title, head, &["cost"]);
    for ((count, _), shown) in trackers.iter().zip(ratios.shown()) {
        table.row(count.to_string(), [shown]);
    }
    table
}

/// Seconds a cycle.
async fn cycles(tracker: &TrackerHandle, next: &mut u64) -> f64 {
    let since = Instant::now();
    let callers = (0..CALLERS).map(|_| {
        let (tracker, first) = (tracker.clone(), *next);
        *next += TURNS;
        tokio::spawn(async move {
            for number in first..first + TURNS {
                init(&tracker, number).await.complete(vec![b'x'; BODY]).await.expect("a result");
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("a caller");
    }
    since.elapsed().as_secs_f64() / (CALLERS * TURNS) as f64
}

async fn init(tracker: &TrackerHandle, number: u64) -> Permit {
    match tracker.track((id(number), payload())).await {
        Ok(Tracked::Init(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

async fn tracker(store: MemoryStore) -> TrackerHandle {
    Tracker::builder(store).max_in_flight(100_000).max_queued(100_000).spawn().await.expect("a tracker")
}

/// The default budget would be full before the benchmark is over.
fn roomy() -> MemoryStore {
    MemoryStore::with_config(MemoryConfig::new().budget(32 << 30))
}

fn filled(runtime: &Runtime, records: u64) -> MemoryStore {
    let store = roomy();
    let now = OffsetDateTime::now_utc();
    runtime.block_on(async {
        for number in 0..records {
            let owner = Owner::from_u128(number.into());
            let state = State::Completed(vec![b'x'; BODY].into());
            // Not all of them in one moment.
            let expires_at = now + Duration::from_secs(86_400) + Duration::from_micros(number);
            let record = Record::new(owner, payload(), now, expires_at, Meta::default(), state);
            store.restore(&id((1 << 62) + number), &record, now).await.expect("there is room");
        }
    });
    store
}

/// Bytes of memory of this process.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("a Linux machine");
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096.0
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
