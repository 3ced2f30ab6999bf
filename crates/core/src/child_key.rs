use std::fmt;

use crate::{
    RequestId, Secret,
    hash::{Parts, Purpose},
};

static UNKEYED: Purpose = Purpose::new("idempotency 2026-11 unkeyed child key");

/// The idempotency key of one step of a request, to be sent downstream: the same in every run of the request, so that a step
/// that is run again is recognised by whoever does it.
///
/// ```
/// use idempotency_core::{ChildKey, RequestId, Scope};
///
/// let id = RequestId::derive(None, &Scope::global(), [&b"order-1"[..]]);
/// let charge = ChildKey::derive(None, &id, "charge");
/// assert_eq!(charge, ChildKey::derive(None, &id, "charge"));
/// assert_ne!(charge, ChildKey::derive(None, &id, "mail"));
/// // A UUID (version 8, RFC 9562 §5.8), which services take that ask for one.
/// assert_eq!(charge.to_string().len(), 36);
/// ```
///
/// It tells nothing of the key that the client sent; without a [`Secret`] whoever has it can test guesses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChildKey([u8; 16]);

impl ChildKey {
    /// Hashes the request and the name of the step; keyed by `secret`, see [`Secret`].
    pub fn derive(secret: Option<&Secret>, id: &RequestId, step: &str) -> Self {
        let key = secret.map(|secret| &secret.child);
        let mut hash = Parts::new(key, &UNKEYED);
        let hash = hash.part(id.as_bytes()).part(step.as_bytes()).finish();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        // Version and variant.
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// The bytes of the UUID.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// As a UUID is written.
impl fmt::Display for ChildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, byte)| {
            let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")
        })
    }
}

/// Eight digits: whoever has the key may ask for what it did.
impl fmt::Debug for ChildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChildKey(")?;
        crate::hash::short_hex(&self.0, f)?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivation_is_pinned_and_the_secret_counts() {
        // A change of these bytes makes downstream steps run twice: it needs a new major version.
        let id = RequestId::from_bytes([1; 32]);
        let unkeyed = ChildKey::derive(None, &id, "charge");
        let keyed = ChildKey::derive(Some(&Secret::new([7; 32])), &id, "charge");
        assert_ne!(unkeyed, keyed);
        assert_eq!(unkeyed.to_string(), "a98ea9d3-dde3-8646-bdcb-d42469f76a57");
        assert_eq!(keyed.to_string(), "88298e24-edc9-8031-b4ba-c23ee211c5d8");
        assert_eq!(format!("{unkeyed:?}").len(), "ChildKey(01234567)".len());
    }
}
