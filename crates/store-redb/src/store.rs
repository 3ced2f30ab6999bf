use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use futures_channel::oneshot;
use idempotency_core::{
    Capabilities, Claim, Cursor, Durability, Inserted, Page, Pruned, Record, RequestId, Restored, Setup,
    Store, StoreCommand, StoreError, StoreErrorKind, StoreReply, Survives, Update, Updated,
};
use time::OffsetDateTime;

use crate::{
    RedbConfig,
    disk::{Disk, closed, died},
    reader::{self, Read, What},
    writer::{Counts, Job, Writer},
};

/// The store in one file; see the [crate](crate).
///
/// ```no_run
/// use idempotency_store_redb::{RedbConfig, RedbStore};
///
/// let store = RedbStore::open("payments.redb").unwrap();
/// // Or with more memory:
/// let store = RedbStore::open(RedbConfig::new("orders.redb").cache(256 * 1024 * 1024)).unwrap();
/// ```
///
/// A call that is given up may be applied all the same, unless it still waited for its turn; it is repeated by owner. When
/// the store is dropped, what waits is written and the file is closed.
pub struct RedbStore {
    disk: Arc<Disk>,
    counts: Arc<Counts>,
    threads: Mutex<Option<Threads>>,
}

/// Dropping the senders ends the threads.
struct Threads {
    jobs: Sender<Job>,
    reads: Sender<Read>,
    handles: Vec<JoinHandle<()>>,
}

impl RedbStore {
    /// Opens the file, or makes it. Blocks: after a crash the file is repaired first, which takes the longer the larger
    /// it is.
    ///
    /// # Errors
    ///
    /// * `Unavailable`: another process has it open.
    /// * `Misconfigured`: the folder is not there or cannot be written to, a later version wrote the file, or it is a
    ///   database of something else.
    /// * `Corrupt`: it is damaged, or no such file at all. It is left as it is.
    /// * `Full`: there is no room on the disk.
    pub fn open(config: impl Into<RedbConfig>) -> Result<Self, StoreError> {
        Self::on(Disk::open(config.into())?)
    }

    pub(crate) fn on(disk: Disk) -> Result<Self, StoreError> {
        let store = Self { disk: Arc::new(disk), counts: Arc::default(), threads: Mutex::new(None) };
        let threads = store.start().map_err(|error| {
            StoreError::new(StoreErrorKind::Unavailable, "no thread can be started").with_source(error)
        })?;
        *store.threads() = Some(threads);
        Ok(store)
    }

    fn start(&self) -> std::io::Result<Threads> {
        let ((jobs, to_write), (reads, to_read)) = (mpsc::channel(), mpsc::channel());
        let writer = Writer::new(self.disk.clone(), to_write, self.counts.clone());
        let builder = thread::Builder::new().name("idempotency-redb-writer".to_owned());
        let handles = vec![
            builder.spawn(move || writer.run())?,
            reader::start(self.disk.clone(), to_read, jobs.clone())?,
        ];
        Ok(Threads { jobs, reads, handles })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// How many transactions were written with an `fsync`, and how many commands were in all of them. Their quotient is
    /// what the group commit gains.
    pub fn commits(&self) -> (u64, u64) {
        (self.counts.commits.load(Ordering::Relaxed), self.counts.commands.load(Ordering::Relaxed))
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Option<Threads>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the store is closed.
    fn write(
        &self,
        commands: Vec<StoreCommand>,
        now: OffsetDateTime,
    ) -> Option<oneshot::Receiver<Vec<Result<StoreReply, StoreError>>>> {
        let (reply, replies) = oneshot::channel();
        let threads = self.threads();
        let threads = threads.as_ref()?;
        self.counts.queued.fetch_add(commands.len(), Ordering::Relaxed);
        // If the thread is gone the reply goes with the job, which tells whoever waits.
        let _ = threads.jobs.send(Job { commands, now, reply });
        Some(replies)
    }

    fn read(&self, what: What) -> Option<oneshot::Receiver<Result<StoreReply, StoreError>>> {
        let (reply, found) = oneshot::channel();
        let _ = self.threads().as_ref()?.reads.send(Read { what, reply });
        Some(found)
    }

    async fn read_one(&self, what: What) -> Result<StoreReply, StoreError> {
        self.read(what).ok_or_else(closed)?.await.map_err(|_| closed())?
    }

    async fn one(&self, command: StoreCommand, now: OffsetDateTime) -> Result<StoreReply, StoreError> {
        let replies = self.write(vec![command], now).ok_or_else(closed)?;
        replies.await.map_err(|_| died())?.pop().unwrap_or_else(|| Err(died()))
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.one(StoreCommand::Setup(setup.clone()), setup.now).await.map(drop)
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.read_one(What::Lookup { id: *id, now }).await?.found()
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.one(StoreCommand::Insert(claim.clone().into()), now).await?.inserted()
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.one(StoreCommand::Update(update.clone().into()), now).await?.updated()
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.one(StoreCommand::Prune { limit }, now).await?.pruned()
    }

    /// What reads goes to the reader; all the rest is one job of the writer.
    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        let what = |command: &StoreCommand| match command {
            StoreCommand::Lookup(id) => Some(What::Lookup { id: *id, now }),
            StoreCommand::Scan { cursor, limit } => {
                Some(What::Scan { cursor: cursor.clone(), limit: *limit })
            }
            _ => None,
        };
        let is_write = |command: &&StoreCommand| {
            !matches!(command, StoreCommand::Lookup(_) | StoreCommand::Scan { .. } | StoreCommand::Close)
        };
        // All of it is on its way before anything is waited for: the commands of a batch are independent of each other.
        let writes: Vec<StoreCommand> = batch.iter().filter(is_write).cloned().collect();
        let count = writes.len();
        let written = if writes.is_empty() { None } else { Some(self.write(writes, now)) };
        let reads: Vec<_> = batch.iter().filter_map(what).map(|what| self.read(what)).collect();
        let written = match written {
            None => Vec::new(),
            Some(None) => vec![Err(closed()); count],
            Some(Some(replies)) => replies.await.unwrap_or_else(|_| vec![Err(died()); count]),
        };
        let (mut reads, mut written) = (reads.into_iter(), written.into_iter());
        let mut replies = Vec::with_capacity(batch.len());
        for command in batch {
            replies.push(match command {
                StoreCommand::Lookup(_) | StoreCommand::Scan { .. } => match reads.next().flatten() {
                    Some(found) => found.await.unwrap_or_else(|_| Err(closed())),
                    None => Err(closed()),
                },
                StoreCommand::Close => self.close().await.map(|()| StoreReply::Done),
                _ => written.next().unwrap_or_else(|| Err(died())),
            });
        }
        replies
    }

    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_one(What::Scan { cursor, limit }).await?.page()
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.one(StoreCommand::Restore { id: *id, record: record.clone().into() }, now).await?.restored()
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.one(StoreCommand::Retire { to: to.to_owned() }, OffsetDateTime::UNIX_EPOCH).await.map(drop)
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durability = Durability::new(Survives::PowerLoss, 0);
        capabilities.batches = 64;
        capabilities.scan = true;
        capabilities.restore = true;
        capabilities
    }

    /// Writes what waits, and lets the file go. Blocks for as long as one transaction takes.
    async fn close(&self) -> Result<(), StoreError> {
        self.stop();
        Ok(())
    }
}

impl RedbStore {
    fn stop(&self) {
        let Some(Threads { jobs, reads, handles }) = self.threads().take() else { return };
        drop((jobs, reads));
        for handle in handles {
            // A thread that panicked has said so; what it had is in the file or was never acknowledged.
            let _ = handle.join();
        }
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("path", &self.disk.path()).finish_non_exhaustive()
    }
}
