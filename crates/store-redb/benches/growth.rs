//! Bytes on disk, growth over generations of records, and how long opening takes after a crash.
//!
//! `cargo bench -p idempotency-store-redb --bench growth [-- --quick]`. Fails above the bounds.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use idempotency_core::{Change, Claim, Fingerprint, Owner, RequestId, Scope, Store, StoreCommand, Update};
use idempotency_store_redb::{RedbConfig, RedbStore};
use time::OffsetDateTime;

const BODY: usize = 1024;
const RETENTION: Duration = Duration::from_secs(60 * 60);
/// The file after five generations, to the file after the first two: growth must end.
const GROWTH: f64 = 1.5;

fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (generation, records) = if quick { (10_000, 20_000) } else { (200_000, 1_000_000) };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on this disk");
    // CI fails at three times a bound.
    let bound = if quick { 3.0 * GROWTH } else { GROWTH };
    let bounded = growth(&folder.path().join("growth.redb"), generation, bound);
    opening(folder.path(), records);
    if bounded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Claims and completes records, many in a transaction, at one moment.
fn fill(store: &RedbStore, from: u64, count: u64, now: OffsetDateTime) {
    for start in (from..from + count).step_by(500) {
        let ids = start..(start + 500).min(from + count);
        let id = |number: u64| RequestId::derive(None, &Scope::global(), [&number.to_le_bytes()[..]]);
        let claims = ids.clone().map(|number| {
            let mut claim =
                Claim::new(id(number), Owner::from_u128(number.into()), Fingerprint::derive(None, []));
            claim.retention = RETENTION;
            StoreCommand::Insert(claim.into())
        });
        let puts = ids.map(|number| {
            let change = Change::Complete { response: vec![7; BODY].into(), retention: RETENTION };
            StoreCommand::Update(Update::new(id(number), Owner::from_u128(number.into()), change).into())
        });
        for batch in [claims.collect::<Vec<_>>(), puts.collect()] {
            assert!(block_on(store.apply(&batch, now)).iter().all(Result::is_ok));
        }
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).expect("the file").len()
}

fn growth(path: &Path, generation: u64, bound: f64) -> bool {
    let store = RedbStore::open(path).expect("a store");
    let mut now = OffsetDateTime::UNIX_EPOCH;
    let mut sizes = Vec::new();
    for round in 0..5 {
        fill(&store, round * generation, generation, now);
        sizes.push(size(path));
        if round == 0 {
            println!("{:.0} bytes on disk for a record with {BODY}", sizes[0] as f64 / generation as f64);
        }
        // All of them expire, and are pruned in the tracker's steps.
        now += 2 * RETENTION;
        while block_on(store.prune(now, 128)).expect("a prune").more {}
    }
    let megabytes: Vec<_> = sizes.iter().map(|size| format!("{:.0}", *size as f64 / 1e6)).collect();
    let ratio = sizes[4] as f64 / sizes[1] as f64;
    println!(
        "five generations of {generation} records: {} MB, fifth to second {ratio:.2}",
        megabytes.join(", ")
    );
    ratio <= bound
}

fn opening(folder: &Path, records: u64) {
    for quick_repair in [false, true] {
        let path = folder.join(format!("opening-{quick_repair}.redb"));
        let store = RedbStore::open(RedbConfig::new(&path).quick_repair(quick_repair)).expect("a store");
        let since = Instant::now();
        fill(&store, 0, records, OffsetDateTime::UNIX_EPOCH);
        let filled = since.elapsed().as_secs_f64();
        // As a crash leaves it: copied while it is open.
        let copy = path.with_extension("crashed");
        fs::copy(&path, &copy).expect("a copy");
        let since = Instant::now();
        drop(RedbStore::open(RedbConfig::new(&copy).quick_repair(quick_repair)).expect("a repaired store"));
        println!(
            "quick_repair {quick_repair}: {records} records written in {filled:.1} s, opened after a crash in {:.2} s",
            since.elapsed().as_secs_f64()
        );
        drop(store);
        fs::remove_file(&path).expect("the file");
        fs::remove_file(&copy).expect("the copy");
    }
}
