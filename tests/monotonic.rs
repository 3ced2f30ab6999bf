use idempotency::Clock;
use time::OffsetDateTime;

/// The machine's monotonic clock: the same for all processes, and no step of the wall clock moves it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonic;

impl Clock for Monotonic {
    fn now(&self) -> OffsetDateTime {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        OffsetDateTime::UNIX_EPOCH + time::Duration::new(now.tv_sec, now.tv_nsec as i32)
    }
}
