//! How everything here is hashed: BLAKE3 over length-prefixed parts, keyed by the secret or unkeyed.

use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

/// What is hashed where the application gave no secret. Its own hash, from which BLAKE3 starts, is made once.
pub(crate) struct Purpose {
    context: &'static str,
    key: OnceLock<ContextKey>,
}

impl Purpose {
    pub(crate) const fn new(context: &'static str) -> Self {
        Self { context, key: OnceLock::new() }
    }

    fn hasher(&self) -> blake3::Hasher {
        let key = self.key.get_or_init(|| hash_derive_key_context(self.context));
        blake3::Hasher::new_from_context_key(key)
    }
}

/// Feeds parts so that no two different lists of parts feed the same bytes: each is preceded by its length.
/// `["a", "b:c"]` and `["a:b", "c"]` differ.
pub(crate) struct Parts(blake3::Hasher);

impl Parts {
    /// Starts with the derived key of a [`Secret`](crate::Secret), or with the purpose alone where the
    /// application gave no secret.
    pub(crate) fn new(key: Option<&[u8; 32]>, purpose: &Purpose) -> Self {
        Self(match key {
            Some(key) => blake3::Hasher::new_keyed(key),
            None => purpose.hasher(),
        })
    }

    pub(crate) fn part(&mut self, part: &[u8]) -> &mut Self {
        // The length has eight bytes on every platform, or two nodes would not agree.
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn parts<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> &mut Self {
        for part in parts {
            self.part(part);
        }
        self
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Writes the first four bytes as eight hex digits: enough to find a request in a log, too little to guess one.
pub(crate) fn short_hex(bytes: &[u8], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    bytes.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was stored before contexts were kept must be found.
    #[test]
    fn a_context_that_is_hashed_once_hashes_the_same() {
        let purpose = Purpose::new("a context");
        for _ in 0..2 {
            let hash = Parts::new(None, &purpose).part(b"x").finish();
            assert_eq!(hash, blake3::derive_key("a context", &[1, 0, 0, 0, 0, 0, 0, 0, b'x']));
        }
    }
}
