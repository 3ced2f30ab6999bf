use std::fmt;

use crate::{
    Secret,
    hash::{Parts, Purpose, by_words, short_hex},
};

static UNKEYED: Purpose = Purpose::new("idempotency 2026-11 unkeyed tenant");

/// Who a request counts for where limits are per tenant: sixteen opaque bytes, a hash of whatever names him.
///
/// ```
/// use idempotency_core::Tenant;
///
/// let alice = Tenant::derive(None, [&b"alice"[..]]);
/// assert_ne!(alice, Tenant::derive(None, [&b"bob"[..]]));
/// ```
///
/// It is not stored. It may be wider than a [`Scope`](crate::Scope), such as an account of many users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tenant([u8; 16]);

by_words!(Tenant);

impl Tenant {
    /// Hashes parts, each preceded by its length; keyed by `secret`, see [`Secret`].
    pub fn derive<'a>(secret: Option<&Secret>, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let key = secret.map(|secret| &secret.id);
        let mut hash = Parts::new(key, &UNKEYED);
        // Never the hash of a request.
        let hash = hash.part(b"tenant").parts(parts).finish();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Self(bytes)
    }

    /// Takes sixteen bytes as they are.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Eight hex digits.
impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenant(")?;
        short_hex(&self.0, f)?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RequestId, Scope};

    #[test]
    fn parts_cannot_be_shifted_and_no_request_has_the_same_hash() {
        let of = |parts: &[&str]| Tenant::derive(None, parts.iter().map(|part| part.as_bytes()));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        let request = RequestId::derive(None, &Scope::global(), [&b"a"[..]]);
        assert_ne!(of(&["a"]).0, request.as_bytes()[..16]);
        assert_eq!(format!("{:?}", of(&["a"])).len(), "Tenant(01234567)".len());
    }
}
