use std::{
    fmt,
    hash::{Hash, Hasher},
};

use subtle::ConstantTimeEq;

use crate::{
    Secret,
    hash::{Parts, Purpose},
};

static UNKEYED: Purpose = Purpose::new("idempotency 2026-11 unkeyed fingerprint");

/// A hash of what the client asked for: the payload. The same id with another fingerprint is a reused key.
///
/// ```
/// use idempotency_core::Fingerprint;
///
/// let ten = Fingerprint::derive(None, [&b"application/json"[..], br#"{"amount":10}"#]);
/// let ninety = Fingerprint::derive(None, [&b"application/json"[..], br#"{"amount":90}"#]);
/// assert_ne!(ten, ninety);
/// ```
///
/// A scheme byte, which says *how* the payload was read, and 32 bytes of BLAKE3 over it. Compared in constant
/// time, so that the comparison does not tell how much of a guess was right.
#[derive(Clone, Copy)]
pub struct Fingerprint {
    scheme: Scheme,
    hash: [u8; 32],
}

impl Fingerprint {
    /// Hashes the parts as they are ([`Scheme::RAW`]), each preceded by its length; keyed by `secret`.
    pub fn derive<'a>(secret: Option<&Secret>, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::derive_as(Scheme::RAW, secret, parts)
    }

    /// Hashes parts that were brought into the form that `scheme` stands for.
    pub fn derive_as<'a>(
        scheme: Scheme,
        secret: Option<&Secret>,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let key = secret.map(|secret| &secret.fingerprint);
        let hash = Parts::new(key, &UNKEYED).parts(parts).finish();
        Self { scheme, hash }
    }

    /// Reads a fingerprint that a store kept.
    pub fn from_parts(scheme: Scheme, hash: [u8; 32]) -> Self {
        Self { scheme, hash }
    }

    /// How the payload was read.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The 32 bytes for a store to keep, beside [`scheme`](Self::scheme).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.hash
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        (self.scheme.0.ct_eq(&other.scheme.0) & self.hash.ct_eq(&other.hash)).into()
    }
}

impl Eq for Fingerprint {}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scheme.hash(state);
        self.hash.hash(state);
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of a payload even four bytes of an unkeyed hash would tell the amount of a payment apart.
        write!(f, "Fingerprint(scheme {})", self.scheme.0)
    }
}

/// How the payload of a [`Fingerprint`] was read before it was hashed.
///
/// ```
/// use idempotency_core::{Fingerprint, Scheme};
///
/// const MY_CANONICAL_FORM: Scheme = Scheme(200);
/// let canonical = Fingerprint::derive_as(MY_CANONICAL_FORM, None, [&b"10"[..]]);
/// assert_ne!(canonical, Fingerprint::derive(None, [&b"10"[..]]));
/// ```
///
/// 0 to 127 belong to this project, 128 to 255 to applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scheme(pub u8);

impl Scheme {
    /// The bytes as they came.
    pub const RAW: Self = Self(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_length_prefixed() {
        let one = Fingerprint::derive(None, [&b"ab"[..], b"c"]);
        let other = Fingerprint::derive(None, [&b"a"[..], b"bc"]);
        assert_ne!(one, other);
        assert_ne!(Fingerprint::derive(None, [&b""[..]]), Fingerprint::derive(None, []));
    }

    #[test]
    fn the_secret_and_the_scheme_count() {
        let secret = Secret::new([1; 32]);
        let parts = || [&b"payload"[..]];
        assert_ne!(Fingerprint::derive(None, parts()), Fingerprint::derive(Some(&secret), parts()));
        assert_ne!(Fingerprint::derive(None, parts()), Fingerprint::derive_as(Scheme(128), None, parts()));
    }

    #[test]
    fn debug_shows_nothing_of_the_payload() {
        let shown = format!("{:?}", Fingerprint::derive(None, [&b"payload"[..]]));
        assert_eq!(shown, "Fingerprint(scheme 1)");
    }
}
