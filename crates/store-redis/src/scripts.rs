//! One script for each step. They are short, and the server knows each by its hash once it has run.

use std::{sync::LazyLock, time::Duration};

use idempotency_core::HaltReason;

/// A script and the hash by which the server knows it.
pub(crate) struct Step {
    pub(crate) source: String,
    pub(crate) hash: String,
}

impl Step {
    /// `flags` of Redis 7: what settles must work also when the server is out of memory, a claim must not.
    fn new(flags: &str, source: &str) -> Self {
        let source = format!("{flags}{}\n{source}", include_str!("scripts/common.lua"));
        let hash = redis::Script::new(&source).get_hash().to_owned();
        Self { source, hash }
    }
}

const ALSO_WHEN_FULL: &str = "#!lua flags=allow-oom\n";

pub(crate) static INSERT: LazyLock<Step> =
    LazyLock::new(|| Step::new("", include_str!("scripts/insert.lua")));
pub(crate) static UPDATE: LazyLock<Step> =
    LazyLock::new(|| Step::new(ALSO_WHEN_FULL, include_str!("scripts/update.lua")));
pub(crate) static LOOKUP: LazyLock<Step> =
    LazyLock::new(|| Step::new("", include_str!("scripts/lookup.lua")));
pub(crate) static WATCH: LazyLock<Step> =
    LazyLock::new(|| Step::new(ALSO_WHEN_FULL, include_str!("scripts/watch.lua")));
pub(crate) static RESTORE: LazyLock<Step> =
    LazyLock::new(|| Step::new("", include_str!("scripts/restore.lua")));

pub(crate) static MARK: LazyLock<Step> =
    LazyLock::new(|| Step::new(ALSO_WHEN_FULL, include_str!("scripts/mark.lua")));

/// What stands for a state in a value: the scripts know 0, 16 and more, and 17.
pub(crate) const PROCESSING: u8 = 0;
pub(crate) const COMPLETED: u8 = 1;
pub(crate) const NOT_KEPT: u8 = 2;

const REASONS: [(u8, HaltReason); 7] = [
    (16, HaltReason::Cancelled),
    (17, HaltReason::Shutdown),
    (18, HaltReason::Panicked),
    (19, HaltReason::TimedOut),
    (20, HaltReason::Unknown),
    (21, HaltReason::Unresolved),
    (22, HaltReason::OwnerLost),
];

pub(crate) fn code_of(reason: HaltReason) -> u8 {
    // A reason that this version does not know is at least an unknown outcome.
    REASONS.iter().find(|(_, known)| *known == reason).map_or(20, |(code, _)| *code)
}

pub(crate) fn reason_of(code: u8) -> Option<HaltReason> {
    let known = REASONS.iter().find(|(known, _)| *known == code).map(|(_, reason)| *reason);
    // A later version may have others.
    known.or_else(|| (code >= 16).then_some(HaltReason::Unknown))
}

/// Milliseconds, rounded up, and at most a hundred years of them: Lua counts exactly up to 2^53.
pub(crate) fn millis(duration: Duration) -> u64 {
    const LONGEST: u128 = 3_155_695_200_000;
    duration.as_nanos().div_ceil(1_000_000).min(LONGEST) as u64
}
