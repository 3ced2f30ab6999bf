use std::path::{Path, PathBuf};

/// Where a [`RedbStore`](crate::RedbStore) keeps its records, and how.
///
/// ```
/// use idempotency_store_redb::RedbConfig;
///
/// let config = RedbConfig::new("/var/lib/payments/records.redb").cache(256 * 1024 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedbConfig {
    pub(crate) path: PathBuf,
    pub(crate) cache: usize,
    pub(crate) quick_repair: bool,
}

impl RedbConfig {
    /// A file with a cache of 64 MiB. The folder must exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cache: 64 * 1024 * 1024, quick_repair: false }
    }

    /// How many bytes of the file are kept in memory.
    #[must_use]
    pub fn cache(mut self, bytes: usize) -> Self {
        self.cache = bytes;
        self
    }

    /// Makes opening after a crash independent of the size of the file; each commit then takes longer. Off by default.
    /// `ARCHITECTURE.md` has the measurements.
    #[must_use]
    pub fn quick_repair(mut self, quick_repair: bool) -> Self {
        self.quick_repair = quick_repair;
        self
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for RedbConfig {
    fn from(path: &P) -> Self {
        Self::new(path.as_ref())
    }
}

impl From<PathBuf> for RedbConfig {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}
