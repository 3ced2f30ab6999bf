//! The one thread that writes: everything that waits goes into one transaction and one `fsync`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use futures_channel::oneshot;
use idempotency_core::{StoreCommand, StoreError, StoreReply};
use redb::Durability;
use time::OffsetDateTime;

use crate::{
    disk::{Disk, closed},
    error::{Failure, of_command},
    tables::Tables,
};

/// How many commands go into one transaction at most, so that the first of them need not wait for ever.
const GROUP: usize = 1024;

/// The part of the time of the last commit that is waited for those who were just answered: one in so many; and the part
/// after which, if none of them has come, no more of them are waited for.
const LINGER: u32 = 4;
const QUIET: u32 = 32;

/// A sleep shorter than this takes longer than it says.
const TOO_SHORT: Duration = Duration::from_micros(100);

/// No more of the last commit than this counts: one that stood still for a minute says nothing of the next.
const LONGEST: Duration = Duration::from_millis(200);

/// The rest after a failure is doubled no more often than this: to 6.4 s.
const LONGEST_REST: u32 = 5;

/// How long what needs no `fsync` may wait for one that comes along.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

type Replies = Vec<Result<StoreReply, StoreError>>;

/// Commands that belong together, and where their answers go.
pub(crate) struct Job {
    pub(crate) commands: Vec<StoreCommand>,
    pub(crate) now: OffsetDateTime,
    pub(crate) reply: oneshot::Sender<Replies>,
}

/// How much was put into how many commits, and how much waits.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Commands that were sent to the writer and not taken by it yet.
    pub(crate) queued: AtomicUsize,
    pub(crate) commits: AtomicU64,
    pub(crate) commands: AtomicU64,
}

pub(crate) struct Writer {
    disk: Arc<Disk>,
    jobs: Receiver<Job>,
    counts: Arc<Counts>,
    /// Since when something is committed that is not on the disk yet.
    unsynced: Option<Instant>,
    /// The disk failed; when it may be opened anew.
    broken: Option<Instant>,
    /// How often in a row, with nothing written in between. From the second time on nothing is written for a while, since
    /// each attempt costs a repair, during which nobody can read.
    failures: u32,
    resting: Option<(Instant, StoreError)>,
    /// How many commands may be expected to come together, and how long the last commit took.
    expected: usize,
    last: Duration,
}

impl Writer {
    pub(crate) fn new(disk: Arc<Disk>, jobs: Receiver<Job>, counts: Arc<Counts>) -> Self {
        Self {
            disk,
            jobs,
            counts,
            unsynced: None,
            broken: None,
            failures: 0,
            resting: None,
            expected: 0,
            last: Duration::ZERO,
        }
    }

    /// Until the last handle is gone.
    pub(crate) fn run(mut self) {
        loop {
            let first = match self.unsynced {
                Some(since) => self.jobs.recv_timeout((since + FLUSH_AFTER).saturating_duration_since(now())),
                None => self.jobs.recv().map_err(RecvTimeoutError::from),
            };
            match first {
                Ok(first) => {
                    let group = self.gather(first);
                    if !group.is_empty() {
                        self.commit(group);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.commit(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => {
                    if self.unsynced.is_some() {
                        self.commit(Vec::new());
                    }
                    self.disk.close();
                    return;
                }
            }
        }
    }

    /// Whoever was just answered is likely to ask again at once. Without waiting for them two halves of the callers would
    /// take turns, each with a commit of its own; so they are waited for, for as long as they keep coming, and for a
    /// fraction of what the last commit took.
    fn gather(&self, first: Job) -> Vec<Job> {
        let mut size = first.commands.len();
        let mut group = vec![first];
        let (mut quiet, until) = (Duration::ZERO, now() + self.last / LINGER);
        while size < GROUP {
            if let Ok(job) = self.jobs.try_recv() {
                size += job.commands.len();
                group.push(job);
                quiet = Duration::ZERO;
            } else if size >= self.expected || quiet >= self.last / QUIET || now() >= until {
                break;
            } else {
                // Asleep, and not at the channel: whoever comes would have to wake this thread, each of them anew.
                let since = now();
                match self.last / (2 * QUIET) {
                    rest if rest >= TOO_SHORT => thread::sleep(rest),
                    _ => thread::yield_now(),
                }
                quiet += since.elapsed();
            }
        }
        self.counts.queued.fetch_sub(size, Ordering::Relaxed);
        // What nobody waits for any more is not done: whoever gave it up sends it again if he still wants it.
        group.retain(|job| !job.reply.is_canceled());
        group
    }

    /// One transaction for all of them; with none, what is unsynced is written.
    fn commit(&mut self, group: Vec<Job>) {
        if let Err(error) = self.mend() {
            return refuse(group, &error);
        }
        if let Some((until, error)) = &self.resting
            && now() < *until
        {
            return refuse(group, error);
        }
        let began = now();
        let synced = self.counts.commits.load(Ordering::Relaxed);
        let done = catch_unwind(AssertUnwindSafe(|| self.transact(&group)));
        // What wrote nothing took no time, and says nothing of what does.
        if self.counts.commits.load(Ordering::Relaxed) > synced {
            self.last = began.elapsed().min(LONGEST);
        }
        match done.unwrap_or(Err((Failure::Panicked, true))) {
            Ok(replies) => {
                (self.failures, self.resting) = (0, None);
                let answered: usize = group.iter().map(|job| job.commands.len()).sum();
                // Counted before anybody is answered, who would be counted twice.
                self.expected = answered + self.counts.queued.load(Ordering::Relaxed);
                for (job, replies) in group.into_iter().zip(replies) {
                    answer(job.reply, replies);
                }
            }
            Err((failure, may_be_applied)) => {
                tracing::error!(path = %self.disk.path().display(), ?failure, "a transaction failed");
                self.broken = Some(now());
                self.unsynced = None;
                if self.failures > 0 {
                    let rest = self.disk.rest() * 2u32.pow(self.failures.min(LONGEST_REST));
                    self.resting = Some((now() + rest, failure.error(false)));
                }
                self.failures = self.failures.saturating_add(1);
                refuse(group, &failure.error(may_be_applied));
            }
        }
    }

    /// On an error also whether the commit had begun.
    fn transact(&mut self, group: &[Job]) -> Result<Vec<Replies>, (Failure, bool)> {
        let begun = |failure| (failure, true);
        let not_begun = |failure| (failure, false);
        let database = self.disk.database();
        let Some(database) = &*database else {
            return Ok(group
                .iter()
                .map(|job| job.commands.iter().map(|_| Err(closed())).collect())
                .collect());
        };
        let mut txn = database.begin_write().map_err(Failure::from).map_err(not_begun)?;
        let mut tables = Tables::open(&txn).map_err(not_begun)?;
        let mut replies = Vec::with_capacity(group.len());
        for job in group {
            let applied = job.commands.iter().map(|command| tables.apply(command, job.now));
            replies.push(applied.collect::<Result<Replies, Failure>>().map_err(not_begun)?);
        }
        let overdue = self.unsynced.is_some_and(|since| since + FLUSH_AFTER <= now());
        let (wrote, must_sync) = (tables.wrote || overdue, tables.must_sync || group.is_empty() || overdue);
        drop(tables);
        if !wrote && !group.is_empty() {
            txn.abort().map_err(Failure::from).map_err(not_begun)?;
            return Ok(replies);
        }
        if must_sync {
            txn.set_quick_repair(self.disk.quick_repair());
        } else {
            // It cannot be refused: no savepoint is ever made.
            let _ = txn.set_durability(Durability::None);
        }
        txn.commit().map_err(Failure::from).map_err(begun)?;
        self.unsynced = if must_sync { None } else { self.unsynced.or_else(|| Some(now())) };
        self.counts.commits.fetch_add(u64::from(must_sync), Ordering::Relaxed);
        let commands: usize = group.iter().map(|job| job.commands.len()).sum();
        self.counts.commands.fetch_add(commands as u64, Ordering::Relaxed);
        Ok(replies)
    }

    /// Opens the file anew after the disk failed.
    fn mend(&mut self) -> Result<(), StoreError> {
        match self.broken {
            None if self.disk.is_suspect() => {
                self.broken = Some(now());
                self.unsynced = None;
                self.mend()
            }
            None => Ok(()),
            Some(not_before) if now() < not_before => {
                Err(self.resting.as_ref().map_or_else(closed, |(_, error)| error.clone()))
            }
            Some(_) => match self.disk.reopen() {
                Ok(()) => {
                    tracing::info!(path = %self.disk.path().display(), "the file is open again");
                    self.broken = None;
                    Ok(())
                }
                Err(error) => {
                    let until = now() + self.disk.rest();
                    (self.broken, self.resting) = (Some(until), Some((until, error.clone())));
                    Err(error)
                }
            },
        }
    }
}

/// How long a disk takes or is left alone is real time, not the tracker's.
#[expect(clippy::disallowed_methods, reason = "of all stores this one waits for a disk")]
fn now() -> Instant {
    Instant::now()
}

fn refuse(group: Vec<Job>, error: &StoreError) {
    for job in group {
        let replies = job.commands.iter().map(|command| Err(of_command(command, error))).collect();
        answer(job.reply, replies);
    }
}

/// Whoever asked may have stopped waiting; and what a foreign waker does is not to end this thread.
fn answer(reply: oneshot::Sender<Replies>, replies: Replies) {
    let _ = catch_unwind(AssertUnwindSafe(|| reply.send(replies)));
}
