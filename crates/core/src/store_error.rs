use std::{error::Error, fmt, sync::Arc};

/// Why a store could not answer: a kind, whether to try again, whether anything was written, and the source.
///
/// ```
/// use idempotency_core::{StoreError, StoreErrorKind};
///
/// let lost = StoreError::new(StoreErrorKind::Unavailable, "the connection was closed")
///     .with_source(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
/// assert!(lost.is_retryable());
/// // The reply is missing, so the write may have happened.
/// assert!(!lost.was_not_applied());
///
/// let refused = StoreError::new(StoreErrorKind::Full, "256 MiB in use").not_applied();
/// assert!(!refused.is_retryable() && refused.was_not_applied());
/// ```
///
/// It goes to the log and to `source()` of the tracker's error, never to a client: the message may name hosts, but
/// must not hold keys, bodies or passwords.
#[derive(Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: Arc<str>,
    retryable: bool,
    not_applied: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl StoreError {
    /// An error of unknown fate, retryable if its kind is by nature.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into().into(),
            retryable: kind.is_retryable(),
            not_applied: false,
            source: None,
        }
    }

    /// Keeps what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// Overrides what the kind says of trying again.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// Says that nothing was written, and nothing of this call will be written later. Only a store that *knows*
    /// may say so: after a time limit or a lost connection nobody does.
    #[must_use]
    pub fn not_applied(mut self) -> Self {
        self.not_applied = true;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Whether it is certain that nothing was written.
    pub fn was_not_applied(&self) -> bool {
        self.not_applied
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("retryable", &self.retryable)
            .field("not_applied", &self.not_applied)
            .field("source", &self.source)
            .finish()
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Equal kind, message and flags; sources cannot be compared.
impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.message, self.retryable, self.not_applied)
            == (other.kind, &other.message, other.retryable, other.not_applied)
    }
}

impl Eq for StoreError {}

/// What went wrong in a store.
///
/// ```
/// use idempotency_core::{StoreError, StoreErrorKind};
///
/// let error = StoreError::new(StoreErrorKind::TimedOut, "no answer within 2000 ms");
/// assert_eq!(error.kind().as_str(), "timed_out");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It cannot be reached, or lost its connection.
    Unavailable,
    /// It did not answer in time.
    TimedOut,
    /// It panicked.
    Panicked,
    /// It has no room for a new claim.
    Full,
    /// It holds the check value of another secret.
    WrongSecret,
    /// It was left behind by a swap.
    Moved,
    /// Its configuration does not give what it declares.
    Misconfigured,
    /// It does not offer this.
    Unsupported,
    /// What it holds cannot be read.
    Corrupt,
    /// It was asked for something that makes no sense.
    Invalid,
    /// Anything else.
    Other,
}

impl StoreErrorKind {
    /// Whether the same call may succeed later, unless the error says otherwise.
    fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::TimedOut | Self::Panicked | Self::Other)
    }

    /// One word for logs and metrics labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
            Self::Full => "full",
            Self::WrongSecret => "wrong_secret",
            Self::Moved => "moved",
            Self::Misconfigured => "misconfigured",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Invalid => "invalid",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
