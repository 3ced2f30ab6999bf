//! Whether statements take the short way, which waits for locks.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// In a statement before it locks anything: how long it waits for each lock on a row, until its transaction ends. Locks of nodes
/// are held for a statement and its commit; what is held for longer is somebody's open transaction.
pub(crate) const FOR_A_MOMENT: &str = ", set_config('lock_timeout', '20ms', true)";

/// For so long statements take the long way after one was held up.
const CAREFUL: Duration = Duration::from_secs(10);

/// A statement that waits for nobody takes a lock of its own for each id, or locks each row before it writes it: a quarter of its
/// time on the server. Where no transaction is open that is for nothing. So statements take the short way until one of them
/// waited for more than a moment. It is repeated the long way, and so is what comes in the ten seconds after it.
#[derive(Debug, Default)]
pub(crate) struct Haste {
    held_up: Mutex<Option<Instant>>,
}

impl Haste {
    pub(crate) fn is_allowed(&self, now: Instant) -> bool {
        let held_up = *self.held_up.lock().unwrap_or_else(PoisonError::into_inner);
        held_up.is_none_or(|at| now.saturating_duration_since(at) > CAREFUL)
    }

    /// A statement waited in vain.
    pub(crate) fn was_in_vain(&self, now: Instant) {
        *self.held_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haste_ends_for_ten_seconds_when_it_was_in_vain() {
        let (haste, now) = (Haste::default(), Instant::now());
        assert!(haste.is_allowed(now));
        haste.was_in_vain(now);
        for (seconds, is_allowed) in [(0, false), (10, false), (11, true)] {
            assert_eq!(haste.is_allowed(now + Duration::from_secs(seconds)), is_allowed, "{seconds}");
        }
    }
}
