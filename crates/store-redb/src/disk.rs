use std::{
    collections::hash_map::RandomState,
    fs::{File, OpenOptions},
    hash::BuildHasher,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        OnceLock, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use idempotency_core::{StoreError, StoreErrorKind};
use redb::{Database, DatabaseError, backends::FileBackend};

use crate::{RedbConfig, error, error::Failure, tables::Tables};

/// The open file. After an error of the disk redb refuses everything until the file is opened anew; so it is.
pub(crate) struct Disk {
    config: RedbConfig,
    open: Opener,
    database: RwLock<Option<Database>>,
    /// What was written into the file when it was made. Opened anew it must be the same file.
    identity: OnceLock<u64>,
    /// A reader has seen the disk fail, and the writer has not opened the file anew yet.
    suspect: AtomicBool,
    /// How long it is left alone after it could not be opened.
    rest: Duration,
}

/// Opens the file; makes it only if told so.
type Opener = Box<dyn Fn(bool) -> Result<Database, DatabaseError> + Send + Sync>;

impl Disk {
    pub(crate) fn open(config: RedbConfig) -> Result<Self, StoreError> {
        let path = config.path.clone();
        let cache = config.cache;
        let open = move |may_make| {
            let file = open_file(&path, may_make).map_err(redb::StorageError::Io)?;
            Database::builder().set_cache_size(cache).create_with_backend(FileBackend::new(file)?)
        };
        Self::open_with(config, REST, Box::new(open))
    }

    /// On something else than a file, for tests of disks that fail.
    #[cfg(test)]
    pub(crate) fn open_on<B: redb::StorageBackend>(
        config: RedbConfig,
        rest: Duration,
        backend: impl Fn() -> B + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let cache = config.cache;
        let open = move |_| Database::builder().set_cache_size(cache).create_with_backend(backend());
        Self::open_with(config, rest, Box::new(open))
    }

    fn open_with(config: RedbConfig, rest: Duration, open: Opener) -> Result<Self, StoreError> {
        let (database, identity, suspect) = (RwLock::new(None), OnceLock::new(), AtomicBool::new(false));
        let disk = Self { config, open, database, identity, suspect, rest };
        disk.reopen()?;
        Ok(disk)
    }

    /// Closes what is open and opens it anew, which repairs it. Only the first time the file may be made: one that is
    /// gone, or another one in its place, must not be taken for a store in which nothing has happened.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let opened = catch_unwind(AssertUnwindSafe(|| {
            // First, for it holds the lock of the file.
            drop(database.take());
            let opened =
                (self.open)(self.identity.get().is_none()).map_err(|error| error::open_error(&error))?;
            let identity = self.prepare(&opened)?;
            self.identity.get_or_init(|| identity);
            Ok(opened)
        }));
        *database = Some(opened.unwrap_or_else(|_| Err(Failure::Panicked.error(false)))?);
        self.suspect.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Checks what is in the file, or prepares a new one. Returns what tells it from other files.
    fn prepare(&self, database: &Database) -> Result<u64, StoreError> {
        let prepare = || {
            let txn = database.begin_write()?;
            let is_new = txn.list_tables()?.next().is_none();
            let mut tables = Tables::open(&txn)?;
            let identity = RandomState::new().hash_one(&self.config.path);
            let identity = match tables.check_schema(is_new, identity)? {
                Ok(identity) => identity,
                Err(refused) => return Ok(Err(refused)),
            };
            if self.identity.get().is_some_and(|known| *known != identity) {
                let message = "another file is where the store's was";
                return Ok(Err(StoreError::new(StoreErrorKind::Unavailable, message).not_applied()));
            }
            let wrote = tables.wrote;
            drop(tables);
            if wrote {
                let what = if is_new {
                    "a new store is made"
                } else {
                    "a store of an earlier version is taken over"
                };
                tracing::info!(path = %self.config.path.display(), "{what}");
                txn.commit()?;
                sync_folder(&self.config.path);
            } else {
                txn.abort()?;
            }
            Ok(Ok(identity))
        };
        prepare().unwrap_or_else(|failure: Failure| Err(failure.error(false)))
    }

    /// A reader has seen it fail.
    pub(crate) fn suspect(&self) {
        self.suspect.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::SeqCst)
    }

    pub(crate) fn rest(&self) -> Duration {
        self.rest
    }

    pub(crate) fn close(&self) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(database.take());
    }

    pub(crate) fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn quick_repair(&self) -> bool {
        self.config.quick_repair
    }

    pub(crate) fn path(&self) -> &Path {
        &self.config.path
    }
}

/// How long a file that could not be opened is left alone.
const REST: Duration = Duration::from_millis(200);

/// Responses are in it: nobody but its owner may read it.
fn open_file(path: &Path, may_make: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(may_make).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    if !may_make && file.metadata()?.len() == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the file was emptied"));
    }
    Ok(file)
}

/// That a new file is in its folder must survive, too. A system that cannot say so for a folder does it by itself.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
}

/// The job was sent, and its answer will not come: nobody knows whether it was done.
pub(crate) fn died() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the thread that writes died")
}

pub(crate) fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the file is not open").not_applied()
}
