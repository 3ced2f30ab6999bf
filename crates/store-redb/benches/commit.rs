//! Group commit, beside bare redb at its best batch size for the same number of callers, in one run. Both look before
//! they write: a claim must know whether there is one, and a put whose it is.
//!
//! `cargo bench -p idempotency-store-redb --bench commit [-- --quick]`. Fails below the bound.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and prints it"
)]

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use idempotency_core::{
    Change, Claim, Clock, Fingerprint, Inserted, Owner, RequestId, Store, StoredResponse, SystemClock,
    Update, Updated,
};
use idempotency_store_redb::RedbStore;
use redb::{Database, ReadableTable, TableDefinition};

const BODY: usize = 1024;
const CALLERS: [usize; 3] = [8, 64, 512];
/// At 64 and 512 callers; CI fails at a third of it, the full benchmark at all of it.
const BOUND: f64 = 0.8;

struct Load {
    /// How many claims and puts each makes. By number and not by time, so that both end with as large a file: the larger
    /// it is the more pages a commit touches.
    cycles: u64,
    runs: usize,
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let load = if quick { Load { cycles: 20_000, runs: 1 } } else { Load { cycles: 60_000, runs: 5 } };
    let bound = if quick { BOUND / 3.0 } else { BOUND };
    let mut met = true;
    println!("claim + put with {BODY} bytes, cycles a second; medians of {} interleaved runs", load.runs);
    for callers in CALLERS {
        let (mut ratios, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..load.runs {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on this disk");
            let (batch, bare) = bare_at_its_best(folder.path(), callers, &load);
            let store = store(folder.path(), callers, &load);
            ratios.push(store.cycles / bare);
            lines.push((store, batch, bare));
        }
        ratios.sort_by(f64::total_cmp);
        let ratio = ratios[ratios.len() / 2];
        let (store, batch, bare) = &lines[lines.len() / 2];
        println!(
            "{callers:>4} callers: bare {bare:>7.0} (batches of {batch}), store {:>7.0}, ratio {ratio:.2} ({:.2} to {:.2}); \
             {:.0} commits a second, {:.0} commands each",
            store.cycles,
            ratios[0],
            ratios[ratios.len() - 1],
            store.commits,
            store.batch,
        );
        if callers >= 64 && ratio < bound {
            println!("     below the bound of {bound:.2}");
            met = false;
        }
        if callers == 512 && store.batch < callers as f64 / 2.0 {
            println!("     the mean batch is less than half the callers");
            met &= quick;
        }
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Measured {
    cycles: f64,
    commits: f64,
    batch: f64,
}

fn id(number: u64) -> RequestId {
    RequestId::derive(None, &idempotency_core::Scope::global(), [&number.to_le_bytes()[..]])
}

fn store(folder: &Path, callers: usize, load: &Load) -> Measured {
    let store = Arc::new(RedbStore::open(folder.join("store.redb")).expect("a store"));
    let next = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (since, of_all) = (Instant::now(), load.cycles);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                // Made once: what a response costs its maker is not the store's.
                let response = StoredResponse::new(vec![7; BODY]);
                let fingerprint = Fingerprint::derive(None, []);
                let (store, next) = (store.clone(), next.clone());
                tokio::spawn(async move {
                    let clock = SystemClock::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= of_all {
                            return;
                        }
                        let (id, owner) = (id(number), Owner::from_u128(number.into()));
                        let claim = Claim::new(id, owner, fingerprint);
                        let claimed = store.insert(&claim, clock.now()).await;
                        assert!(matches!(claimed, Ok(Inserted::Claimed)));
                        let retention = claim.retention;
                        let change = Change::Complete { response: response.clone(), retention };
                        let stored = store.update(&Update::new(id, owner, change), clock.now()).await;
                        assert!(matches!(stored, Ok(Updated::Applied)));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a caller");
        }
    });
    let took = since.elapsed().as_secs_f64();
    let (commits, commands) = store.commits();
    Measured {
        cycles: load.cycles as f64 / took,
        commits: commits as f64 / took,
        batch: commands as f64 / commits as f64,
    }
}

/// The best batch size of those that so many callers can fill, and what it reaches.
fn bare_at_its_best(folder: &Path, callers: usize, load: &Load) -> (usize, f64) {
    let sizes = [callers / 4, callers / 2, callers].map(|size| size.max(1));
    let tried = sizes.map(|size| (size, bare(&folder.join(format!("bare-{size}.redb")), size, load.cycles)));
    tried.into_iter().max_by(|one, other| one.1.total_cmp(&other.1)).expect("three sizes")
}

/// What any store on redb has to do, and nothing else: look for the row, then write it and its index entry (a claim); look
/// for the row, then write it again (a put).
fn bare(path: &Path, size: usize, of_all: u64) -> f64 {
    const RECORDS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("records");
    const EXPIRY: TableDefinition<&[u8; 44], ()> = TableDefinition::new("expiry");
    let database = Database::builder().set_cache_size(64 * 1024 * 1024).create(path).expect("a database");
    let (claim, put) = (vec![1; 130], vec![7; BODY + 150]);
    let (mut cycles, since) = (0, Instant::now());
    while cycles < of_all {
        for value in [&claim, &put] {
            let txn = database.begin_write().expect("a transaction");
            {
                let mut records = txn.open_table(RECORDS).expect("a table");
                let mut expiry = txn.open_table(EXPIRY).expect("a table");
                for number in cycles..cycles + size as u64 {
                    let id = id(number);
                    let found = records.get(id.as_bytes()).expect("a lookup").is_some();
                    assert_eq!(found, value.len() > BODY);
                    records.insert(id.as_bytes(), &value[..]).expect("a row");
                    if value.len() < BODY {
                        let mut key = [0; 44];
                        key[4..12].copy_from_slice(&number.to_be_bytes());
                        key[12..].copy_from_slice(id.as_bytes());
                        expiry.insert(&key, ()).expect("an entry");
                    }
                }
            }
            txn.commit().expect("a commit");
        }
        cycles += size as u64;
    }
    cycles as f64 / since.elapsed().as_secs_f64()
}
