//! Swaps the store of a tracker while requests run: from memory to one durable file, and back.
//!
//! ```sh
//! cargo run --example hot_swap
//! ```
//!
//! A load generator works on keys, each of them twice, while the backend is swapped under it. At the end every key was
//! worked on once, and every retry got the response of that one run. It ends by itself.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use idempotency::{
    MemoryStore, Once, Outcome, RedbStore, RequestId, Scope, SwapPolicy, SwapReport, Track, Tracked, Tracker,
    TrackerHandle,
};
use tokio::time::sleep;

const CALLERS: u64 = 64;

/// What was really done, by key.
type Runs = Arc<Mutex<HashMap<u64, u32>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("hot_swap-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("records.redb");

    let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
    let (runs, over) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let next = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| tokio::spawn(work(tracker.clone(), runs.clone(), next.clone(), over.clone())))
        .collect();

    println!("{CALLERS} callers, records in memory");
    sleep(Duration::from_secs(1)).await;
    let report = tracker.swap(RedbStore::open(&file)?, SwapPolicy::copy(file.display().to_string())).await?;
    println!("memory -> {}: {}", file.display(), told(&report));

    sleep(Duration::from_secs(1)).await;
    let back = SwapPolicy::copy("memory").allow_less_durable();
    let report = tracker.swap(MemoryStore::new(), back).await?;
    println!("and back to memory: {}", told(&report));

    sleep(Duration::from_millis(500)).await;
    over.store(true, Ordering::Relaxed);
    let (mut replays, mut refused) = (0, 0);
    for caller in callers {
        let (replayed, unexpected) = caller.await?;
        (replays, refused) = (replays + replayed, refused + unexpected);
    }

    let runs = runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let twice = runs.values().filter(|count| **count > 1).count();
    let mut lost = 0;
    for number in runs.keys() {
        let retry = tracker.track(Track::new(id(&tracker, *number), tracker.fingerprint([]))).await?;
        lost += usize::from(!matches!(retry, Tracked::Cached { .. }));
    }
    println!("{} keys, {replays} replays meanwhile, {lost} responses lost, {twice} run twice", runs.len());

    // A restart on the file that was left would work twice.
    match Tracker::builder(RedbStore::open(&file)?).spawn().await {
        Err(error) => println!("starting on the old file: {error}: {}", error.source().ok_or("a reason")?),
        Ok(_) => return Err("the old file was not retired".into()),
    }
    tracker.shutdown(Duration::from_secs(1)).await?;
    std::fs::remove_dir_all(&folder)?;
    if lost + twice + refused > 0 { Err("something was lost, or refused".into()) } else { Ok(()) }
}

fn told(report: &SwapReport) -> String {
    let SwapReport { copied, carried, live, pause, .. } = report;
    format!(
        "{copied} records copied, {carried} carried over ({live} of them running), longest pause {pause:.1?}"
    )
}

fn id(tracker: &TrackerHandle, number: u64) -> RequestId {
    tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]])
}

/// One caller: works on a key, then comes with the same one again. Returns how many replays it got, and how many answers
/// that nobody expects.
async fn work(
    tracker: TrackerHandle,
    runs: Runs,
    next: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> (u64, usize) {
    let (mut replays, mut unexpected) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        for _ in 0..2 {
            let runs = runs.clone();
            let charge = move || async move {
                *runs.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
                sleep(Duration::from_millis(20)).await;
                Outcome::<()>::done(format!("charged {number}"))
            };
            match tracker.once(id(&tracker, number), tracker.fingerprint([]), charge).await {
                Ok(Once::Done { response, replayed, .. }) => {
                    let expected = format!("charged {number}");
                    assert_eq!(response.bytes().map(|bytes| &bytes[..]), Some(expected.as_bytes()));
                    replays += u64::from(replayed);
                }
                other => {
                    println!("{number}: {other:?}");
                    unexpected += 1;
                }
            }
        }
    }
    (replays, unexpected)
}
