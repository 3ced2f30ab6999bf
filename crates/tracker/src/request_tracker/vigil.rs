//! Whether the tracker's thread looks for more before it goes to sleep.
//!
//! Waking a thread takes longer than what it is woken for, and who wakes it pays for that, too. Measured, see ARCHITECTURE.md.

use std::time::{Duration, Instant};

/// How long it stays awake after its last work.
const AWAKE: Duration = Duration::from_micros(50);

/// How often in a row it may have been in vain until it is left off, from the highest trust.
const HIGHEST_TRUST: u8 = 16;

/// How much it is worth that it was not in vain.
const PAID: u8 = 4;

/// It is tried again after so many times that it was left off.
const TRIED_EVERY: u8 = 16;

/// Of a thread of one's own. It pays where the next caller comes at once, and is left off where it does not.
pub(super) struct Vigil {
    /// When there was work for the last time; `None` once it is over.
    since: Option<Instant>,
    /// It stays awake for the time being.
    is_on: bool,
    trust: u8,
    left_off: u8,
}

impl Vigil {
    pub(super) fn new() -> Self {
        Self { since: None, is_on: false, trust: HIGHEST_TRUST, left_off: 0 }
    }

    /// There was work.
    pub(super) fn worked(&mut self, now: Instant) {
        if self.is_on {
            self.trust = (self.trust + PAID).min(HIGHEST_TRUST);
        }
        (self.since, self.is_on) = (Some(now), false);
    }

    /// There is none: whether to look again.
    pub(super) fn looks_again(&mut self, now: Instant) -> bool {
        let Some(since) = self.since else { return false };
        if !self.is_on && self.trust == 0 {
            self.left_off += 1;
            if self.left_off < TRIED_EVERY {
                self.since = None;
                return false;
            }
            self.left_off = 0;
        }
        self.is_on = now.saturating_duration_since(since) < AWAKE;
        if !self.is_on {
            self.since = None;
            self.trust = self.trust.saturating_sub(1);
        }
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(20);
    const LATE: Duration = Duration::from_micros(51);

    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn it_lasts_for_a_moment_after_the_last_work() {
        let (mut vigil, start) = (Vigil::new(), start());
        assert!(!vigil.looks_again(start), "nothing came so far");
        vigil.worked(start);
        assert!(vigil.looks_again(start + SOON));
        vigil.worked(start + SOON);
        assert!(vigil.looks_again(start + LATE));
        assert!(!vigil.looks_again(start + SOON + LATE));
        assert!(!vigil.looks_again(start + SOON + LATE), "it is over");
    }

    #[test]
    fn where_it_is_in_vain_it_is_left_off_and_tried_again_now_and_then() {
        let (mut vigil, mut now) = (Vigil::new(), start());
        let mut in_vain = |vigil: &mut Vigil| {
            now += LATE;
            vigil.worked(now);
            let looked = vigil.looks_again(now + SOON);
            assert!(!vigil.looks_again(now + LATE));
            looked
        };
        for _ in 0..HIGHEST_TRUST {
            assert!(in_vain(&mut vigil));
        }
        for _ in 0..3 {
            for _ in 1..TRIED_EVERY {
                assert!(!in_vain(&mut vigil));
            }
            assert!(in_vain(&mut vigil), "tried again");
        }
        // Once it pays it is on again.
        for _ in 1..TRIED_EVERY {
            in_vain(&mut vigil);
        }
        vigil.worked(now);
        assert!(vigil.looks_again(now + SOON));
        vigil.worked(now + SOON);
        assert!(vigil.looks_again(now + SOON + SOON));
    }
}
