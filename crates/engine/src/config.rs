use std::time::Duration;

/// The numbers that the engine decides by. The tracker's builder validates them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// How long one store call may take. A `Track` waits twice that, so that one lost reply can be repeated.
    pub store_limit: Duration,
    /// How long a put keeps its caller waiting before it is answered `Deferred`.
    pub put_patience: Duration,
    /// How often expired records are pruned; `None` where they vanish by themselves.
    pub prune_every: Option<Duration>,
    /// How many records one prune step deletes at most, so that requests pass between steps.
    pub prune_limit: usize,
    /// How many claims may be live; past it only a `Track` that would claim is refused.
    pub max_in_flight: usize,
    /// How many callers may wait for the end of one claim, and of all.
    pub max_waiters_per_key: usize,
    /// The same over all keys.
    pub max_waiters: usize,
    /// How often a record that callers wait for is read at most, unless a hint says that it is worth it.
    pub look_every: Duration,
    /// How long a resolver may take, and the caller for whom it runs waits.
    pub resolve_limit: Duration,
    /// How many bytes of responses that the store did not take so far are kept; past it only that the work was done.
    pub max_deferred_bytes: usize,
    /// How many claims of one tenant may be live.
    pub tenant_in_flight: usize,
    /// How many bytes this node stores for one tenant before it takes no new claims of his.
    pub tenant_bytes: u64,
}

impl Config {
    /// How long a `Track` waits for the store.
    pub(crate) fn track_patience(&self) -> Duration {
        self.store_limit * 2
    }

    /// How long to wait before a call is tried again: from 20 ms, doubling, up to one store limit.
    pub(crate) fn backoff(&self, attempts: u32) -> Duration {
        let first = Duration::from_millis(20).min(self.store_limit);
        first.saturating_mul(1 << attempts.min(16)).min(self.store_limit)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store_limit: Duration::from_secs(2),
            put_patience: Duration::from_secs(1),
            prune_every: Some(Duration::from_secs(60)),
            prune_limit: 128,
            max_in_flight: 4096,
            max_waiters_per_key: 1024,
            max_waiters: 8192,
            look_every: Duration::from_secs(5),
            resolve_limit: Duration::from_secs(10),
            max_deferred_bytes: 64 << 20,
            tenant_in_flight: usize::MAX,
            tenant_bytes: u64::MAX,
        }
    }
}
