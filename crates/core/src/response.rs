use std::fmt;

use bytes::Bytes;

use crate::hash::{Parts, Purpose};

static DIGEST: Purpose = Purpose::new("idempotency 2026-11 response digest");

/// What is kept of a response: a digest of all of it, and its bytes or the fact that they were not kept.
///
/// ```
/// use idempotency_core::{Body, StoredResponse};
///
/// let response = StoredResponse::new("201 Created");
/// assert_eq!(response.body(), &Body::Kept("201 Created".into()));
///
/// // Too large to keep: a retry still learns that the work was done.
/// let marker = response.clone().without_body();
/// assert_eq!(marker.body(), &Body::NotKept);
/// assert_eq!(marker.digest(), response.digest());
/// ```
///
/// Opaque to all but its owner's code. `Debug` shows the length, never the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoredResponse {
    digest: Digest,
    body: Body,
}

impl StoredResponse {
    /// A response with its bytes.
    pub fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self { digest: Digest::of(&body), body: Body::Kept(body) }
    }

    /// "Completed, response not kept", for a response that was streamed or is too large: `digest` is that of the
    /// full body, or of anything else that tells this completion from another one.
    pub fn not_kept(digest: Digest) -> Self {
        Self { digest, body: Body::NotKept }
    }

    /// Reads a response that a store kept.
    pub fn from_parts(digest: Digest, body: Body) -> Self {
        Self { digest, body }
    }

    /// The same completion with its bytes dropped; the digest stays that of the full body.
    #[must_use]
    pub fn without_body(self) -> Self {
        Self { digest: self.digest, body: Body::NotKept }
    }

    /// The digest of the full body. A put is repeated, not new, if its digest is that of the stored one.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes, or that they were not kept.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The bytes if they were kept.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Kept(bytes) => Some(bytes),
            Body::NotKept => None,
        }
    }

    /// How many bytes are kept.
    pub fn kept_len(&self) -> usize {
        self.bytes().map_or(0, Bytes::len)
    }
}

impl<B: Into<Bytes>> From<B> for StoredResponse {
    fn from(body: B) -> Self {
        Self::new(body)
    }
}

/// The bytes of a [`StoredResponse`].
///
/// ```
/// use idempotency_core::Body;
///
/// assert_eq!(format!("{:?}", Body::Kept("secret".into())), "Kept(6 bytes)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// All of them.
    Kept(Bytes),
    /// None of them: the response was streamed, or too large, or the store had no room for it.
    NotKept,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(bytes) => write!(f, "Kept({} bytes)", bytes.len()),
            Self::NotKept => f.write_str("NotKept"),
        }
    }
}

/// BLAKE3 of a full response body.
///
/// ```
/// use idempotency_core::Digest;
///
/// assert_ne!(Digest::of(b"one"), Digest::of(b"two"));
/// assert_eq!(format!("{:?}", Digest::of(b"one")), "Digest(..)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes the bytes.
    pub fn of(body: &[u8]) -> Self {
        Self(Parts::new(None, &DIGEST).part(body).finish())
    }

    /// Reads a digest that a store kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes for a store to keep.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}
