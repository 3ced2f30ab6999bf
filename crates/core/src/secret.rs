use std::fmt;

/// 32 bytes from the application that key all hashes, the same on all nodes and over restarts.
///
/// ```
/// use idempotency_core::{RequestId, Scope, Secret};
///
/// let secret = Secret::new([7; 32]);
/// let parts = || [&b"POST"[..], b"/payments", b"key-1"];
/// let keyed = RequestId::derive(Some(&secret), &Scope::global(), parts());
/// assert_ne!(keyed, RequestId::derive(None, &Scope::global(), parts()));
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// ```
///
/// Without a secret the hashes are unkeyed: whoever reads the store can test guesses of keys and of short
/// payloads against them. With one he cannot. A store refuses a tracker with another secret at `setup`, since
/// that tracker would recognise no retry.
///
/// Only keys derived from the bytes (BLAKE3 `derive_key`) are kept in memory, one for each purpose.
#[derive(Clone)]
pub struct Secret {
    pub(crate) id: [u8; 32],
    pub(crate) fingerprint: [u8; 32],
    pub(crate) child: [u8; 32],
    check: [u8; 32],
}

impl Secret {
    /// Derives the keys.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self {
            id: blake3::derive_key("idempotency 2026-11 secret: key of request ids", &bytes),
            fingerprint: blake3::derive_key("idempotency 2026-11 secret: key of fingerprints", &bytes),
            child: blake3::derive_key("idempotency 2026-11 secret: key of child keys", &bytes),
            check: blake3::derive_key("idempotency 2026-11 secret: check value", &bytes),
        }
    }

    /// What a store keeps to recognise the secret, which it does not reveal.
    pub fn check(&self) -> SecretCheck {
        SecretCheck(self.check)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The check value of a [`Secret`]: stored by the first `setup`, compared by every later one.
///
/// ```
/// use idempotency_core::{Secret, SecretCheck};
///
/// assert_eq!(Secret::new([7; 32]).check(), Secret::new([7; 32]).check());
/// assert_ne!(Secret::new([7; 32]).check(), SecretCheck::unkeyed());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretCheck([u8; 32]);

impl SecretCheck {
    /// The check value of having no secret, so that adding or losing one is noticed too.
    pub fn unkeyed() -> Self {
        Self([0; 32])
    }

    /// Reads a check value that a store kept.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes for a store to keep.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Shows nothing: a weak secret could be guessed from it.
impl fmt::Debug for SecretCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretCheck(..)")
    }
}
