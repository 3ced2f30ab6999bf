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
        }
    }
}
