//! The only place that reads the system's clocks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use time::OffsetDateTime;

/// What time it is. It never goes back: leases are judged by it.
///
/// ```
/// use idempotency_core::{Clock, ManualClock};
/// use std::time::Duration;
/// use time::OffsetDateTime;
///
/// let clock = ManualClock::new(OffsetDateTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(15));
/// assert_eq!(clock.now().unix_timestamp(), 15);
/// ```
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The present, in UTC.
    fn now(&self) -> OffsetDateTime;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> OffsetDateTime {
        (**self).now()
    }
}

/// The wall time at the start of the process plus the monotonic time since: a step of the wall clock (NTP, an
/// operator, a leap second) never lapses a lease.
///
/// ```
/// use idempotency_core::{Clock, SystemClock};
///
/// let clock = SystemClock::new();
/// assert!(clock.now() <= clock.now());
/// ```
#[derive(Debug, Clone)]
pub struct SystemClock {
    wall: OffsetDateTime,
    start: Instant,
}

impl SystemClock {
    /// Reads both clocks once.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { wall: SystemTime::now().into(), start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        self.wall + self.start.elapsed()
    }
}

/// What time it is for the callers of a store that has a clock of its own: as the last of them said it, and on from there. For
/// what nobody says the time to, such as a scan.
///
/// ```
/// use idempotency_core::{CallersClock, Clock};
/// use std::time::Duration;
/// use time::OffsetDateTime;
///
/// let clock = CallersClock::new();
/// clock.note(OffsetDateTime::UNIX_EPOCH);
/// assert!(clock.now() - OffsetDateTime::UNIX_EPOCH < Duration::from_secs(60));
/// ```
///
/// Unlike the others it goes back where a caller does.
#[derive(Debug)]
pub struct CallersClock {
    start: Instant,
    /// What the time was at the start, in microseconds since 1970.
    at_start: AtomicI64,
}

impl CallersClock {
    /// Shows the system's time until somebody says another one.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        let clock = Self { start: Instant::now(), at_start: AtomicI64::new(0) };
        clock.note(SystemTime::now().into());
        clock
    }

    /// A caller says what time it is.
    pub fn note(&self, now: OffsetDateTime) {
        let micros = (now.unix_timestamp_nanos() / 1000) as i64;
        self.at_start.store(micros - self.start.elapsed().as_micros() as i64, Ordering::Relaxed);
    }
}

impl Default for CallersClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for CallersClock {
    fn now(&self) -> OffsetDateTime {
        let at_start = time::Duration::microseconds(self.at_start.load(Ordering::Relaxed));
        OffsetDateTime::UNIX_EPOCH.saturating_add(at_start) + self.start.elapsed()
    }
}

/// A clock that stands still until it is told to go on: for tests, and to see what a node with a wrong clock does.
///
/// ```
/// use idempotency_core::{Clock, ManualClock};
/// use std::time::Duration;
///
/// let clock = ManualClock::default();
/// let (start, other_hand) = (clock.now(), clock.clone());
/// other_hand.advance(Duration::from_millis(1));
/// assert_eq!(clock.now() - start, Duration::from_millis(1));
/// ```
///
/// Clones show the same time. A tracker on a manual clock notices the new time at its next message or timer, not at
/// the moment of the advance.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Stands at `now`.
    ///
    /// # Panics
    ///
    /// If `now` is not within 292 years of 1970.
    pub fn new(now: OffsetDateTime) -> Self {
        let nanos = i64::try_from(now.unix_timestamp_nanos()).expect("a manual clock shows 1678 to 2262");
        Self(Arc::new(AtomicI64::new(nanos)))
    }

    /// Goes on by `by`.
    ///
    /// # Panics
    ///
    /// If `by` is more than 292 years.
    pub fn advance(&self, by: Duration) {
        let nanos = i64::try_from(by.as_nanos()).expect("a manual clock shows 1678 to 2262");
        self.0.fetch_add(nanos, Ordering::AcqRel);
    }
}

/// Stands at midnight, 1 January 2026.
impl Default for ManualClock {
    fn default() -> Self {
        Self::new(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(self.0.load(Ordering::Acquire).into())
            .expect("every 64-bit number of nanoseconds is a date")
    }
}

/// Follows tokio's time, also where it is paused, so that timers and `now` move together in tests.
///
/// ```
/// use idempotency_core::{Clock, TokioClock};
/// use std::time::Duration;
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
/// # runtime.block_on(async {
/// let clock = TokioClock::new(); // here: in a test with `start_paused`
/// let start = clock.now();
/// tokio::time::sleep(Duration::from_secs(3600)).await; // takes no time at all
/// assert!(clock.now() - start >= Duration::from_secs(3600));
/// # });
/// ```
#[cfg(feature = "tokio-clock")]
#[derive(Debug, Clone)]
pub struct TokioClock {
    wall: OffsetDateTime,
    start: tokio::time::Instant,
}

#[cfg(feature = "tokio-clock")]
impl TokioClock {
    /// Reads the wall time once. To be created, and read, inside the runtime whose time it follows.
    pub fn new() -> Self {
        Self { wall: SystemClock::new().now(), start: tokio::time::Instant::now() }
    }
}

#[cfg(feature = "tokio-clock")]
impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "tokio-clock")]
impl Clock for TokioClock {
    fn now(&self) -> OffsetDateTime {
        self.wall + self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_clock_goes_on_from_what_it_was_told() {
        let clock = CallersClock::new();
        while clock.start.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        let told = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let before = clock.start.elapsed();
        clock.note(told);
        let since = clock.now() - told;
        let after = clock.start.elapsed();
        // It counts whole microseconds.
        let microsecond = Duration::from_micros(1);
        assert!(
            since >= time::Duration::microseconds(-1) && since <= after - before + microsecond,
            "{since}"
        );
    }

    #[test]
    fn a_manual_clock_moves_when_it_is_told_to() {
        let clock = ManualClock::default();
        let before = clock.now();
        let other = clock.clone();
        other.advance(Duration::from_secs(5));
        assert_eq!(clock.now() - before, Duration::from_secs(5));
    }

    #[expect(clippy::disallowed_methods, reason = "what the clock is compared with")]
    fn wall() -> SystemTime {
        SystemTime::now()
    }

    #[test]
    fn the_system_clock_starts_at_the_wall_time_and_never_goes_back() {
        let clock = SystemClock::new();
        let off = (OffsetDateTime::from(wall()) - clock.now()).abs();
        assert!(off < Duration::from_secs(5));
        let mut last = clock.now();
        for _ in 0..1000 {
            let now = clock.now();
            assert!(last <= now);
            last = now;
        }
    }
}
