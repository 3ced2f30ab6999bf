use std::fmt;

use crate::{
    Scope, Secret,
    hash::{Parts, Purpose, by_words, short_hex},
};

static UNKEYED: Purpose = Purpose::new("idempotency 2026-11 unkeyed request id");

/// Names one request: 32 opaque bytes, a hash of the scope and of whatever else tells requests apart.
///
/// ```
/// use idempotency_core::{RequestId, Scope};
///
/// let parts = || [&b"POST"[..], b"/payments", b"key-1"];
/// let alice = RequestId::derive(None, &Scope::principal(["alice"]), parts());
/// let bob = RequestId::derive(None, &Scope::principal(["bob"]), parts());
/// assert_ne!(alice, bob);
/// // Logs show eight hex digits.
/// assert_eq!(alice.to_string().len(), 8);
/// ```
///
/// Over HTTP the parts are method, host (option), path and idempotency key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

by_words!(RequestId);

impl RequestId {
    /// Hashes scope and parts, each preceded by its length; keyed by `secret`, see [`Secret`].
    pub fn derive<'a>(
        secret: Option<&Secret>,
        scope: &Scope,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let key = secret.map(|secret| &secret.id);
        let mut hash = Parts::new(key, &UNKEYED);
        // The number of scope parts comes first, so that a scope cannot be mistaken for a part of the request.
        match scope.parts() {
            None => hash.part(b"global"),
            Some(principal) => hash
                .part(b"principal")
                .part(&(principal.len() as u64).to_le_bytes())
                .parts(principal.iter().map(Vec::as_slice)),
        };
        Self(hash.parts(parts).finish())
    }

    /// Takes 32 bytes as they are: an id that a store kept, or a uniform hash of the application's own.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, the key of the record in a store.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Eight hex digits: the short id that logs and spans carry.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        short_hex(&self.0, f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scope: &Scope, parts: &[&str]) -> RequestId {
        RequestId::derive(None, scope, parts.iter().map(|part| part.as_bytes()))
    }

    #[test]
    fn neither_scope_nor_parts_can_be_shifted_into_each_other() {
        let ids = [
            id(&Scope::global(), &["a", "b"]),
            id(&Scope::global(), &["ab"]),
            id(&Scope::global(), &["", "ab"]),
            id(&Scope::principal(["a"]), &["b"]),
            id(&Scope::principal(["a", "b"]), &[]),
            id(&Scope::principal(["ab"]), &[]),
            id(&Scope::principal([""; 0]), &["a", "b"]),
            id(&Scope::principal(["a", "b:c"]), &["k"]),
            id(&Scope::principal(["a:b", "c"]), &["k"]),
        ];
        for (i, one) in ids.iter().enumerate() {
            for other in &ids[i + 1..] {
                assert_ne!(one.as_bytes(), other.as_bytes());
            }
        }
    }

    #[test]
    fn the_derivation_is_pinned() {
        // A change of these bytes makes every stored record unreachable: it needs a new major version.
        assert_eq!(format!("{:?}", id(&Scope::global(), &["POST", "/", "k"])), "RequestId(5a2f1f5c)");
        let keyed = RequestId::derive(Some(&Secret::new([7; 32])), &Scope::principal(["p"]), [&b"k"[..]]);
        assert_eq!(keyed.to_string(), "c8b8b23d");
    }
}
