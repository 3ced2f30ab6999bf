use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

use idempotency_core::{StoreError, StoreErrorKind};
use idempotency_engine::Refused;

/// Why the tracker has no answer.
///
/// ```
/// use idempotency_tracker::{Error, ErrorKind};
///
/// fn status(error: &Error) -> u16 {
///     match error.kind() {
///         ErrorKind::Invalid(_) => 400,
///         _ => 503, // with `Retry-After` where `error.retry_after()` says one
///     }
/// }
/// ```
///
/// What the store said is the [`source`](StdError::source): for the log, never for a client.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    source: Option<StoreError>,
}

/// What kind of [`Error`] it is, with what a caller can do about it.
///
/// ```
/// use idempotency_tracker::ErrorKind;
///
/// fn code(kind: &ErrorKind) -> &'static str {
///     match kind {
///         ErrorKind::Overloaded => "overloaded",
///         ErrorKind::Unavailable { .. } => "unavailable",
///         _ => "other",
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Too many claims are live, too many callers wait, or the store is full.
    Overloaded,
    /// The tracker is shutting down, or has shut down.
    ShuttingDown,
    /// The store does not answer. No work is started without it.
    Unavailable {
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// What was asked makes no sense; asked again it will not either.
    Invalid(Cow<'static, str>),
    /// The store refused to be set up, so the tracker did not start.
    Setup,
    /// The tracker goes on with the backend that it had.
    NotSwapped(Cow<'static, str>),
}

impl Error {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self { kind, source: None }
    }

    pub(crate) fn invalid(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid(reason.into()))
    }

    pub(crate) fn setup(source: StoreError) -> Self {
        Self { kind: ErrorKind::Setup, source: Some(source) }
    }

    pub(crate) fn because(mut self, source: StoreError) -> Self {
        self.source = Some(source);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// One word for logs and metrics labels.
    pub fn outcome(&self) -> &'static str {
        match self.kind {
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::ShuttingDown => "shutting_down",
            ErrorKind::Unavailable { .. } | ErrorKind::Setup | ErrorKind::NotSwapped(_) => "unavailable",
            ErrorKind::Invalid(_) => "invalid",
        }
    }

    /// Whether the same call may succeed later, here or on another node.
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            ErrorKind::Overloaded | ErrorKind::ShuttingDown | ErrorKind::Unavailable { .. } => true,
            ErrorKind::Invalid(_) => false,
            ErrorKind::NotSwapped(_) | ErrorKind::Setup => {
                self.source.as_ref().is_some_and(StoreError::is_retryable)
            }
        }
    }

    /// Whether nothing is heard from the store. One that answers with an error is not away: what it has of a request somebody
    /// must look at, and no work may run past it.
    pub fn is_store_silent(&self) -> bool {
        let is_silent = |source: &StoreError| {
            matches!(source.kind(), StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
        };
        matches!(self.kind, ErrorKind::Unavailable { .. }) && self.source.as_ref().is_some_and(is_silent)
    }

    /// When it is worth asking again, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ErrorKind::Unavailable { retry_after } => Some(retry_after),
            _ => None,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overloaded => Self::new(ErrorKind::Overloaded),
            Refused::ShuttingDown => Self::new(ErrorKind::ShuttingDown),
            Refused::Unavailable { retry_after, source } => {
                Self { kind: ErrorKind::Unavailable { retry_after }, source }
            }
        }
    }
}

/// Says nothing of the store: this text may reach a client.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ErrorKind::Overloaded => f.write_str("too many requests are in flight"),
            ErrorKind::ShuttingDown => f.write_str("the request tracker is shutting down"),
            ErrorKind::Unavailable { .. } => f.write_str("the request tracker cannot reach its store"),
            ErrorKind::Invalid(reason) => write!(f, "invalid: {reason}"),
            ErrorKind::Setup => f.write_str("the store refused to be set up"),
            ErrorKind::NotSwapped(reason) => write!(f, "the backend was not swapped: {reason}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
