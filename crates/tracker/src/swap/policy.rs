use std::time::Duration;

use idempotency_core::Capabilities;

/// What becomes of the records when a tracker moves to another backend.
///
/// ```
/// use idempotency_tracker::SwapPolicy;
///
/// // All of them come along. The name is what a restart on the old store is told.
/// let copy = SwapPolicy::copy("redb:./payments.redb");
/// // Only what runs comes along: a retry of what was settled runs again.
/// let forget = SwapPolicy::forget_settled("memory").allow_less_durable();
/// ```
///
/// Claims whose permit lives in this process always come along, with their owners, and so do results that are not stored
/// yet. A swap is of one process: other nodes on the same store know nothing of it.
#[derive(Debug, Clone)]
#[must_use = "a policy does nothing by itself"]
pub struct SwapPolicy {
    pub(super) to: String,
    pub(super) records: Records,
    less_durable: bool,
    sole_user: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    Copied,
    ReadThrough,
    Forgotten,
}

impl SwapPolicy {
    /// Copies all records while requests run, then what has changed meanwhile. Needs a store that can be scanned, and one
    /// that can be restored to, and that is empty: after a swap that failed, take another one for the next attempt.
    pub fn copy(to: impl Into<String>) -> Self {
        Self { to: to.into(), records: Records::Copied, less_durable: false, sole_user: false }
    }

    /// Moves every record when it is asked for; see [`ReadThrough`](crate::ReadThrough). The old store stays in use until the last record in it
    /// has expired, and a restart must name it: [`Builder::read_through`](crate::Builder::read_through).
    pub fn read_through(to: impl Into<String>) -> Self {
        Self { records: Records::ReadThrough, ..Self::copy(to) }
    }

    /// Leaves settled records behind. The promise that a swap loses no response (I11) does not hold for it.
    pub fn forget_settled(to: impl Into<String>) -> Self {
        Self { records: Records::Forgotten, ..Self::copy(to) }
    }

    /// Also to a store that survives less.
    pub fn allow_less_durable(mut self) -> Self {
        self.less_durable = true;
        self
    }

    /// Also away from a store that nodes share: no other node uses it, or each is swapped and none takes requests
    /// meanwhile.
    pub fn sole_user(mut self) -> Self {
        self.sole_user = true;
        self
    }

    pub(super) fn refusal(&self, old: Capabilities, new: Capabilities) -> Option<&'static str> {
        [
            (old.shared && !self.sole_user, "other nodes may use the store; say `sole_user` if none does"),
            (
                !new.durability.covers(old.durability) && !self.less_durable,
                "the new store survives less; say `allow_less_durable` if that is meant",
            ),
            (
                self.records == Records::Copied && !old.scan,
                "the old store cannot be scanned; `read_through` and `forget_settled` are possible",
            ),
            (self.records != Records::Forgotten && !new.restore, "nothing can be restored to the new store"),
        ]
        .into_iter()
        .find_map(|(refused, reason)| refused.then_some(reason))
    }
}

/// What a swap did.
///
/// ```
/// use idempotency_tracker::SwapReport;
///
/// fn describe(report: &SwapReport) -> String {
///     format!("{} records copied, {} carried in {:?}", report.copied, report.carried, report.pause)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SwapReport {
    /// Records that were copied while requests ran.
    pub copied: usize,
    /// Records that were looked at while calls were held, and copied, again or for the first time, where they differed.
    pub carried: usize,
    /// Claims among them whose permit lives in this process.
    pub live: usize,
    /// For how long calls were held.
    pub pause: Duration,
    /// Whether the old store will refuse to be set up again. One that is gone with the process need not.
    pub retired: bool,
}
