//! `kill -9` in the middle of a swap from one file to another.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use idempotency::{RedbStore, Scope, SwapPolicy, Tracked, Tracker, TrackerHandle, store::StoreErrorKind};

fn request(tracker: &TrackerHandle, number: u64) -> (idempotency::RequestId, idempotency::Fingerprint) {
    let id = tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]]);
    (id, tracker.fingerprint([&b"payload"[..]]))
}

const CHILD: &str = "IDEMPOTENCY_TEST_SWAPS_IN";
const RECORDS: u64 = 3000;

/// What is killed: acknowledges records, and swaps to another file meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "it tells the one who kills it what it has acknowledged")]
async fn child_that_swaps() {
    let Some(folder) = env::var_os(CHILD) else { return };
    let folder = Path::new(&folder);
    let tracker = Tracker::builder(RedbStore::open(folder.join("old.redb")).unwrap()).spawn().await.unwrap();
    let put = async |number: u64| {
        let Ok(Tracked::Init(permit)) = tracker.track(request(&tracker, number)).await else { panic!() };
        permit.complete(format!("response {number}")).await.unwrap();
        println!("\nacknowledged {number}");
    };
    futures_util::future::join_all((0..RECORDS).map(put)).await;
    println!("\nswapping");
    let new = RedbStore::open(folder.join("new.redb")).unwrap();
    let swap = tracker.swap(new, SwapPolicy::copy("new.redb"));
    let work = async {
        for number in RECORDS.. {
            put(number).await;
        }
    };
    tokio::select! {
        report = swap => println!("\nswapped {:?}", report.unwrap()),
        () = work => {}
    }
    for number in 10 * RECORDS.. {
        put(number).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_copy_nothing_that_was_acknowledged_is_lost() {
    let (mut in_the_middle, mut after) = (0, 0);
    for round in 0..12u64 {
        let folder = tempfile::tempdir().unwrap();
        let acknowledged = kill_while_swapping(folder.path(), Duration::from_millis(round * 20));
        assert!(acknowledged.len() as u64 >= RECORDS, "round {round}");
        let old = Tracker::builder(RedbStore::open(folder.path().join("old.redb")).unwrap()).spawn().await;
        let tracker = match old {
            Ok(tracker) => {
                in_the_middle += 1;
                tracker
            }
            // Only once all was in the new one.
            Err(error) => {
                after += 1;
                let source = std::error::Error::source(&error).unwrap();
                let source = source.downcast_ref::<idempotency::store::StoreError>().unwrap();
                assert_eq!(source.kind(), StoreErrorKind::Moved, "{error}");
                let new = RedbStore::open(folder.path().join("new.redb")).unwrap();
                Tracker::builder(new).spawn().await.unwrap()
            }
        };
        for number in &acknowledged {
            match tracker.track(request(&tracker, *number)).await {
                Ok(Tracked::Cached { response, .. }) => {
                    assert_eq!(response.bytes().unwrap(), &format!("response {number}"));
                }
                other => panic!("round {round}: {number} was acknowledged, and is {other:?}"),
            }
        }
    }
    eprintln!("killed {in_the_middle} times before the flip, {after} times after it");
    assert!(in_the_middle > 0, "no kill came before the flip");
}

/// The numbers that were acknowledged.
fn kill_while_swapping(folder: &Path, after: Duration) -> Vec<u64> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "swap::child_that_swaps", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number = |line: &str| line.strip_prefix("acknowledged ").map(|number| number.parse::<u64>().unwrap());
    let mut acknowledged = Vec::new();
    for line in lines.by_ref() {
        acknowledged.extend(number(&line));
        if line == "swapping" {
            break;
        }
    }
    let killer = thread::spawn(move || {
        thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    acknowledged.extend(lines.filter_map(|line| number(&line)));
    killer.join().unwrap();
    acknowledged
}
