use idempotency_core::{StoreError, StoreErrorKind};

/// Why bytes are not a record, or a record cannot be bytes. Says nothing of what is in them.
///
/// ```
/// use idempotency_frame::{FrameError, decode};
///
/// assert_eq!(decode(&b"IDRC"[..]), Err(FrameError::Truncated));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// They do not begin like a frame.
    #[error("these bytes are no record")]
    Magic,
    /// There are fewer than the frame says.
    #[error("the record is cut off")]
    Truncated,
    /// There are more than the frame says.
    #[error("the record is followed by something else")]
    TooLong,
    /// They were changed since they were written.
    #[error("the checksum of the record does not match")]
    Checksum,
    /// A version that this one cannot read wrote it.
    #[error("the record has version {0}, and only 1 to {max} can be read", max = crate::VERSION + 1)]
    Version(u8),
    /// The metadata is no such message, or lacks a field.
    #[error("the metadata of the record is malformed: {0}")]
    Metadata(&'static str),
    /// The body has 4 GiB or more.
    #[error("the body of the record is too large to be stored")]
    BodyTooLarge,
}

impl From<FrameError> for StoreError {
    fn from(error: FrameError) -> Self {
        let kind = match error {
            FrameError::BodyTooLarge => StoreErrorKind::Invalid,
            _ => StoreErrorKind::Corrupt,
        };
        Self::new(kind, "a stored record cannot be read").with_source(error)
    }
}
