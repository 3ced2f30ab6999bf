use std::time::Duration;

use time::OffsetDateTime;

/// An instant as nanoseconds since 1970. A date compares in ten times the time, and deadlines compare a lot. What lies before 1677
/// or after 2262 is the first or the last one.
///
/// ```
/// use idempotency_engine::Moment;
/// use time::OffsetDateTime;
///
/// let moment = Moment::from(OffsetDateTime::UNIX_EPOCH);
/// assert_eq!(moment.nanos(), 0);
/// assert_eq!(OffsetDateTime::from(moment), OffsetDateTime::UNIX_EPOCH);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// So many nanoseconds after 1970.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since 1970.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// This instant plus `by`; at the end of time (the year 2262) it stays there.
    pub(crate) fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long it is until `later`; nothing if that has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl From<OffsetDateTime> for Moment {
    fn from(instant: OffsetDateTime) -> Self {
        Self(instant.unix_timestamp_nanos().clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }
}

impl From<Moment> for OffsetDateTime {
    fn from(moment: Moment) -> Self {
        Self::from_unix_timestamp_nanos(moment.0.into())
            .expect("every 64-bit number of nanoseconds is a date")
    }
}
