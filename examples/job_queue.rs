//! A queue that delivers each job at least once, and workers that do each job once. No HTTP.
//!
//! ```sh
//! cargo run --example job_queue
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency::{
    ChildKey, Error, MemoryStore, OnConcurrent, OnOrphan, Once, Outcome, Scope, Track, Tracker, TrackerHandle,
};
use rand::seq::SliceRandom;
use tokio::task::JoinSet;

const JOBS: usize = 20;
const DELIVERIES: usize = 5;
const WORKERS: usize = 4;

/// A job as the queue delivers it: again and again, until somebody has acknowledged it, and sometimes afterwards.
#[derive(Debug, Clone)]
struct Job {
    id: String,
    address: String,
}

/// Sends mails, and takes the same key as the same mail, as such services do.
#[derive(Debug, Default)]
struct Mailer {
    sent: Mutex<HashSet<ChildKey>>,
    calls: AtomicUsize,
}

impl Mailer {
    async fn send(&self, key: ChildKey, _address: &str) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    // With a store that all machines share (`RedisStore`, `PostgresStore`) the workers may be on any of them.
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
    let mailer = Arc::new(Mailer::default());

    let mut deliveries: Vec<Job> = (0..JOBS * DELIVERIES)
        .map(|number| number % JOBS)
        .map(|number| Job { id: format!("job-{number}"), address: format!("{number}@example.com") })
        .collect();
    deliveries.shuffle(&mut rand::rng());
    let queue = Arc::new(Mutex::new(deliveries));

    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (tracker, mailer, queue) = (tracker.clone(), mailer.clone(), queue.clone());
        workers.spawn(async move {
            let (mut done, mut known) = (0, 0);
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(job) = next else { return Ok::<_, Error>((done, known)) };
                match handle(&tracker, &mailer, job.clone()).await? {
                    // Acknowledged: the job is done, by this worker or another.
                    Once::Done { replayed: false, .. } => done += 1,
                    Once::Done { .. } => known += 1,
                    // Not acknowledged: it will be delivered again.
                    _ => queue.lock().unwrap_or_else(PoisonError::into_inner).insert(0, job),
                }
            }
        });
    }
    let (mut done, mut known) = (0, 0);
    while let Some(worker) = workers.join_next().await {
        let (by_it, seen) = worker.expect("a worker does not panic")?;
        (done, known) = (done + by_it, known + seen);
    }
    let calls = mailer.calls.load(Ordering::Relaxed);
    println!("{JOBS} jobs delivered {DELIVERIES} times: {done} done, {known} known already, {calls} mails");
    tracker.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// Does a job once, however often it is delivered.
async fn handle(tracker: &TrackerHandle, mailer: &Arc<Mailer>, job: Job) -> Result<Once<()>, Error> {
    let id = tracker.request_id(&Scope::principal(["mail"]), [job.id.as_bytes()]);
    let track = Track::new(id, tracker.fingerprint([job.address.as_bytes()]))
        // A queue delivers again: longer than it remembers a job, we need not either.
        .retention(Duration::from_secs(7 * 24 * 60 * 60))
        // Another worker has it: wait for what becomes of it.
        .on_concurrent(OnConcurrent::Wait { at_most: Duration::from_secs(5) })
        // Its worker died: the job is done again, and the mailer recognises the mail by its key.
        .on_orphan(OnOrphan::Rerun);
    let (mailer, mail) = (mailer.clone(), tracker.child_key(&id, "mail"));
    let work = move |_lease| async move {
        mailer.send(mail, &job.address).await;
        Outcome::done("sent")
    };
    tracker.once_with(track, work).await
}
