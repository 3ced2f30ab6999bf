use std::io;

use idempotency_core::{StoreCommand, StoreError, StoreErrorKind};
use redb::{CommitError, DatabaseError, StorageError, TableError, TransactionError};

/// Why a transaction cannot go on. What one command did wrong is its own error; this is one of all.
#[derive(Debug)]
pub(crate) enum Failure {
    Storage(StorageError),
    /// Something in redb panicked, as it may on a file that somebody else wrote.
    Panicked,
}

impl Failure {
    /// `may_be_applied` if the commit had begun.
    pub(crate) fn error(&self, may_be_applied: bool) -> StoreError {
        let error = match self {
            Self::Storage(StorageError::Io(error)) => io_error(error),
            Self::Storage(error @ StorageError::Corrupted(_)) => {
                StoreError::new(StoreErrorKind::Corrupt, "the file is damaged").with_source(error.to_string())
            }
            Self::Storage(error) => StoreError::new(StoreErrorKind::Unavailable, "the file cannot be used")
                .with_source(error.to_string()),
            Self::Panicked => StoreError::new(StoreErrorKind::Corrupt, "reading the file panicked"),
        };
        if may_be_applied { error } else { error.not_applied() }
    }
}

fn io_error(error: &io::Error) -> StoreError {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let (kind, message) = match full {
        true => (StoreErrorKind::Full, "the disk is full"),
        false => (StoreErrorKind::Unavailable, "the disk fails"),
    };
    StoreError::new(kind, message).with_source(error.to_string())
}

/// What a command hears of an error of all. Only what begins something is refused for want of room: a result must be
/// tried again until there is some, or its body would be given up.
pub(crate) fn of_command(command: &StoreCommand, error: &StoreError) -> StoreError {
    let begins = matches!(command, StoreCommand::Insert(_) | StoreCommand::Restore { .. });
    if error.kind() != StoreErrorKind::Full || begins {
        return error.clone();
    }
    let full = StoreError::new(StoreErrorKind::Unavailable, "the disk is full");
    if error.was_not_applied() { full.not_applied() } else { full }
}

/// Why the file cannot be opened.
pub(crate) fn open_error(error: &DatabaseError) -> StoreError {
    let (kind, message) = match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            (StoreErrorKind::Unavailable, "another process has the file open")
        }
        DatabaseError::UpgradeRequired(_) => {
            (StoreErrorKind::Misconfigured, "the file has an older format of redb")
        }
        DatabaseError::Storage(StorageError::Io(error)) => {
            return match error.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::ReadOnlyFilesystem => {
                    let message = format!("the file cannot be opened: {error}");
                    StoreError::new(StoreErrorKind::Misconfigured, message)
                }
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    let message = "the file is no redb database, or a damaged one";
                    StoreError::new(StoreErrorKind::Corrupt, message).with_source(error.to_string())
                }
                _ => io_error(error),
            }
            .not_applied();
        }
        DatabaseError::Storage(StorageError::Corrupted(_)) => {
            (StoreErrorKind::Corrupt, "the file is damaged")
        }
        _ => (StoreErrorKind::Unavailable, "the file cannot be opened"),
    };
    StoreError::new(kind, message).with_source(error.to_string()).not_applied()
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => Self::Storage(error),
            other => Self::Storage(StorageError::Corrupted(other.to_string())),
        }
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => Self::Storage(error),
            other => Self::Storage(StorageError::Corrupted(other.to_string())),
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => Self::Storage(error),
            other => Self::Storage(StorageError::Corrupted(other.to_string())),
        }
    }
}
