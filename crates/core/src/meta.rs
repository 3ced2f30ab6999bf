use std::fmt;

use bytes::Bytes;

/// Opaque bytes that a claim sets and nobody changes: a trace id, field digests, what a resolver needs.
///
/// ```
/// use idempotency_core::Meta;
///
/// let meta = Meta::new(&b"traceparent=00-..."[..]).unwrap();
/// assert_eq!(meta.as_bytes().len(), 18);
/// assert!(Meta::new(vec![0; Meta::MAX_LEN + 1]).is_err());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Meta(Bytes);

impl Meta {
    /// The most that fits: 1 KiB.
    pub const MAX_LEN: usize = 1024;

    /// Takes the bytes.
    ///
    /// # Errors
    ///
    /// More than [`Meta::MAX_LEN`] bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, MetaTooLarge> {
        let bytes = bytes.into();
        if bytes.len() > Self::MAX_LEN {
            return Err(MetaTooLarge { len: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// The bytes as they were set.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meta({} bytes)", self.0.len())
    }
}

/// More than [`Meta::MAX_LEN`] bytes of [`Meta`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the meta of a claim has {len} bytes, at most {} are allowed", Meta::MAX_LEN)]
pub struct MetaTooLarge {
    len: usize,
}
