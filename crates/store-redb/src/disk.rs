use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use idempotency_core::{StoreError, StoreErrorKind};
use redb::Database;

use crate::{RedbConfig, error, error::Failure, tables::Tables};

/// The open file. After an error of the disk redb refuses everything until the file is opened anew; so it is.
pub(crate) struct Disk {
    config: RedbConfig,
    open: Opener,
    database: RwLock<Option<Database>>,
}

type Opener = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send + Sync>;

impl Disk {
    pub(crate) fn open(config: RedbConfig) -> Result<Self, StoreError> {
        let path = config.path.clone();
        let cache = config.cache;
        let open = move || Database::builder().set_cache_size(cache).create(&path);
        Self::open_with(config, Box::new(open))
    }

    /// On something else than a file, for tests of disks that fail.
    #[cfg(test)]
    pub(crate) fn open_on<B: redb::StorageBackend>(
        config: RedbConfig,
        backend: impl Fn() -> B + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let cache = config.cache;
        let open = move || Database::builder().set_cache_size(cache).create_with_backend(backend());
        Self::open_with(config, Box::new(open))
    }

    fn open_with(config: RedbConfig, open: Opener) -> Result<Self, StoreError> {
        let disk = Self { config, open, database: RwLock::new(None) };
        disk.reopen()?;
        Ok(disk)
    }

    /// Closes what is open and opens it anew, which repairs it.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // First, for it holds the lock of the file.
        drop(database.take());
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = (self.open)().map_err(|error| error::open_error(&error))?;
            self.prepare(&database)?;
            Ok(database)
        }));
        *database = Some(opened.unwrap_or_else(|_| Err(Failure::Panicked.error(false)))?);
        Ok(())
    }

    fn prepare(&self, database: &Database) -> Result<(), StoreError> {
        let prepare = || {
            let txn = database.begin_write()?;
            let mut tables = Tables::open(&txn)?;
            if let Err(refused) = tables.check_schema()? {
                return Ok(Err(refused));
            }
            drop(tables);
            txn.commit()?;
            Ok(Ok(()))
        };
        prepare().unwrap_or_else(|failure: Failure| Err(failure.error(false)))
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

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.config.path
    }
}

/// How long a file that could not be opened is left alone.
pub(crate) const REST: Duration = Duration::from_millis(200);

pub(crate) fn closed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the file is not open").not_applied()
}
