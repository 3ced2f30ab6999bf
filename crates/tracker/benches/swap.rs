//! The pause of a swap of a thousand live claims from memory to a file, beside what their writing takes bare.
//!
//! `cargo bench -p idempotency-tracker --bench swap [-- --quick]`. Fails above the bound.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use idempotency_core::{Scope, Store, StoreCommand};
use idempotency_store_memory::MemoryStore;
use idempotency_store_redb::RedbStore;
use idempotency_tracker::{SwapPolicy, Tracked, Tracker};

const CLAIMS: u64 = 1000;
/// A median of so many, quick or not: of a single one a standstill of the disk would be the whole story.
const RUNS: usize = 5;

#[tokio::main]
async fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let mut ratios = Vec::new();
    for _ in 0..RUNS {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on this disk");
        let tracker = Tracker::builder(MemoryStore::new()).spawn().await.expect("a tracker");
        let mut permits = Vec::new();
        for number in 0..CLAIMS {
            let id = tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]]);
            let tracked = tracker.track((id, tracker.fingerprint([]))).await;
            let Ok(Tracked::Init(permit)) = tracked else { panic!("{tracked:?}") };
            permits.push(permit);
        }
        let mut restores = Vec::new();
        for permit in &permits {
            let record = tracker.lookup(permit.id()).await.expect("a lookup").expect("a record");
            restores.push(StoreCommand::Restore { id: permit.id(), record: record.into() });
        }
        let bare = RedbStore::open(folder.path().join("bare.redb")).expect("a store");
        let now = tracker.clock().now();
        let (one, all) = restores.split_first().expect("a thousand");
        let commit = timed(&bare, std::slice::from_ref(one), now).await;
        let carry = timed(&bare, all, now).await;

        let file = RedbStore::open(folder.path().join("new.redb")).expect("a store");
        let report = tracker.swap(file, SwapPolicy::copy("a file")).await.expect("a swap");
        assert_eq!(report.live as u64, CLAIMS);
        let bound = 10 * commit + carry;
        println!("pause {:?}; bare, a commit {commit:?} and the carry {carry:?}", report.pause);
        ratios.push(report.pause.as_secs_f64() / bound.as_secs_f64());
        for permit in permits {
            permit.complete("done").await.expect("a put");
        }
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!("pause of {CLAIMS} live claims to ten commits and the carry: {ratio:.2}; bound 1");
    // CI fails at three times a bound.
    if ratio <= if quick { 3.0 } else { 1.0 } { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn timed(store: &RedbStore, commands: &[StoreCommand], now: time::OffsetDateTime) -> Duration {
    let since = Instant::now();
    assert!(store.apply(commands, now).await.iter().all(Result::is_ok));
    since.elapsed()
}
