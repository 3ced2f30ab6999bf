/// How much a [`MemoryStore`](crate::MemoryStore) may hold.
///
/// ```
/// use idempotency_store_memory::{MemoryConfig, MemoryStore};
///
/// let store = MemoryStore::with_config(MemoryConfig::new().budget(16 * 1024 * 1024));
/// assert_eq!(store.used(), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryConfig {
    pub(crate) budget: usize,
}

impl MemoryConfig {
    /// 256 MiB.
    pub fn new() -> Self {
        Self { budget: 256 * 1024 * 1024 }
    }

    /// The most bytes that all records together may take, their bookkeeping included. New claims are refused from
    /// nine tenths on; the last tenth is for settling what runs.
    #[must_use]
    pub fn budget(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self::new()
    }
}
