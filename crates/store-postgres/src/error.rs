use idempotency_core::{StoreError, StoreErrorKind};
use tokio_postgres::{
    Error,
    error::{Severity, SqlState},
};

/// What an error of the server or the driver means, for a statement that is a transaction of its own.
pub(crate) fn store_error(error: Error) -> StoreError {
    let (kind, message, is_not_applied) = meaning(&error);
    let said = StoreError::new(kind, message).with_source(Quiet(error));
    if is_not_applied { said.not_applied() } else { said }
}

/// What failed as a whole changed nothing; so says a server that lives to say it.
fn meaning(error: &Error) -> (StoreErrorKind, &'static str, bool) {
    use StoreErrorKind::{Corrupt, Full, Misconfigured, Other, TimedOut, Unavailable};
    let Some(code) = error.code() else {
        let source = std::error::Error::source(error);
        return if error.is_closed() {
            (Unavailable, "the connection to the server is closed", false)
        } else if source.is_some_and(|source| source.is::<std::io::Error>()) {
            (Unavailable, "the server cannot be reached", false)
        } else {
            (Other, "the driver and the server do not understand each other", false)
        };
    };
    match code {
        &SqlState::DISK_FULL => (Full, "the disk of the server is full", true),
        &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => {
            (TimedOut, "the statement took too long", true)
        }
        &SqlState::READ_ONLY_SQL_TRANSACTION => (Unavailable, "the server is a standby", true),
        &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => {
            (Unavailable, "another transaction came between", true)
        }
        &SqlState::TOO_MANY_CONNECTIONS | &SqlState::CANNOT_CONNECT_NOW => {
            (Unavailable, "the server is not ready", true)
        }
        &SqlState::OUT_OF_MEMORY => {
            (Unavailable, "the server has no room for the locks of so many claims at once", true)
        }
        &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_COLUMN | &SqlState::INVALID_SCHEMA_NAME => {
            (Misconfigured, "the tables are not there, or are not this store's", true)
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => (Misconfigured, "the user may not do this on the server", true),
        &SqlState::INDEX_CORRUPTED | &SqlState::DATA_CORRUPTED => {
            (Corrupt, "the server says that its data is corrupt", true)
        }
        code => match &code.code()[..2] {
            "28" | "3D" => (Misconfigured, "the server refused the login", true),
            // It ends, perhaps between the commit and its acknowledgement.
            "08" | "57" => (Unavailable, "the server is going down", false),
            "40" | "58" | "XX" => (Unavailable, "the server failed", false),
            _ => (Other, "the server answered with an error", true),
        },
    }
}

/// The error of the driver, of which nothing is shown that the user of the application has sent: the server repeats values in
/// `detail`, and rows that break a rule.
struct Quiet(Error);

impl std::fmt::Display for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_db_error() {
            Some(said) => write!(f, "{} {}", said.code().code(), said.message()),
            None => write!(f, "{}", self.0),
        }
    }
}

impl std::fmt::Debug for Quiet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Quiet {}

/// Whether the same call may succeed a moment later on another connection, whatever became of it here.
pub(crate) fn is_passing(error: &StoreError) -> bool {
    of_driver(error).is_some_and(|error| is_lost(error) || is_conflict(error))
}

/// What the driver said, at the bottom of an error.
fn of_driver(error: &StoreError) -> Option<&Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Quiet(error)) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

/// The connection is lost, or the server says that it is about to be.
pub(crate) fn is_lost(error: &Error) -> bool {
    let is_ending = |code: &str| code.starts_with("08") || code.starts_with("57P");
    error.is_closed() || error.code().is_some_and(|code| is_ending(code.code()))
}

/// The server lives to say that it did not do it.
pub(crate) fn is_certain(error: &Error) -> bool {
    let is_error = error.as_db_error().is_some_and(|said| said.parsed_severity() == Some(Severity::Error));
    is_error && !is_lost(error) && error.code() != Some(&SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN)
}

/// The same error behind something that was done: it is not said any more that nothing was applied.
pub(crate) fn unsure(error: StoreError) -> StoreError {
    if !error.was_not_applied() {
        return error;
    }
    StoreError::new(error.kind(), "the server failed in the middle of it").with_source(error)
}

/// Whether a statement for many may have failed because of one of them, or because they were many.
pub(crate) fn is_perhaps_of_one(error: &StoreError) -> bool {
    let is_too_many = of_driver(error).is_some_and(|error| error.code() == Some(&SqlState::OUT_OF_MEMORY));
    is_too_many || matches!(error.kind(), StoreErrorKind::Other | StoreErrorKind::Corrupt)
}

/// Somebody holds what the statement waited for.
pub(crate) fn is_locked(error: &StoreError) -> bool {
    of_driver(error).is_some_and(|error| error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
}

/// Another transaction came between: the whole of this one is to be repeated.
pub(crate) fn is_conflict(error: &Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
}

pub(crate) fn misconfigured(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Misconfigured, message).not_applied()
}

pub(crate) fn late() -> StoreError {
    StoreError::new(StoreErrorKind::TimedOut, "the server did not answer in time")
}

pub(crate) fn corrupt(message: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, message).not_applied()
}
