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

/// How many bytes are gathered before they are hashed. BLAKE3 takes each bit by itself almost as slowly as a block, and its state has
/// two kilobytes: of what is no longer than this it is made where it ends, and moved nowhere.
const GATHERED: usize = 512;

/// Feeds parts so that no two different lists of parts feed the same bytes: each is preceded by its length.
/// `["a", "b:c"]` and `["a:b", "c"]` differ.
pub(crate) struct Parts<'a> {
    key: Option<&'a [u8; 32]>,
    purpose: &'a Purpose,
    gathered: [u8; GATHERED],
    len: usize,
    /// Of what did not fit.
    hasher: Option<Box<blake3::Hasher>>,
}

impl<'a> Parts<'a> {
    /// Starts with the derived key of a [`Secret`](crate::Secret), or with the purpose alone where the
    /// application gave no secret.
    pub(crate) fn new(key: Option<&'a [u8; 32]>, purpose: &'a Purpose) -> Self {
        Self { key, purpose, gathered: [0; GATHERED], len: 0, hasher: None }
    }

    pub(crate) fn part(&mut self, part: &[u8]) -> &mut Self {
        // The length has eight bytes on every platform, or two nodes would not agree.
        self.feed(&(part.len() as u64).to_le_bytes());
        self.feed(part);
        self
    }

    pub(crate) fn parts<'b>(&mut self, parts: impl IntoIterator<Item = &'b [u8]>) -> &mut Self {
        for part in parts {
            self.part(part);
        }
        self
    }

    pub(crate) fn finish(&mut self) -> [u8; 32] {
        match &mut self.hasher {
            Some(hasher) => *hasher.update(&self.gathered[..self.len]).finalize().as_bytes(),
            None => *self.start().update(&self.gathered[..self.len]).finalize().as_bytes(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if bytes.len() > GATHERED - self.len {
            let mut hasher = self.hasher.take().unwrap_or_else(|| Box::new(self.start()));
            hasher.update(&self.gathered[..self.len]);
            (self.hasher, self.len) = (Some(hasher), 0);
        }
        match &mut self.hasher {
            Some(hasher) if bytes.len() > GATHERED => {
                hasher.update(bytes);
            }
            _ => {
                self.gathered[self.len..][..bytes.len()].copy_from_slice(bytes);
                self.len += bytes.len();
            }
        }
    }

    fn start(&self) -> blake3::Hasher {
        match self.key {
            Some(key) => blake3::Hasher::new_keyed(key),
            None => self.purpose.hasher(),
        }
    }
}

/// The bytes as numbers in the same order, which maps and indexes hash and compare in a fraction of the time of bytes.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_be_bytes(*word))
}

/// `Ord` and `Hash` of a type of whole words, of which the first most often says which is less.
macro_rules! by_words {
    ($type:ty) => {
        const _: () = assert!(size_of::<$type>() % size_of::<u64>() == 0, "a rest would not be hashed");

        impl Ord for $type {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let first = |bytes: &Self| $crate::hash::words(&bytes.0).next();
                first(self).cmp(&first(other)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl std::hash::Hash for $type {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                $crate::hash::words(&self.0).for_each(|word| state.write_u64(word));
            }
        }
    };
}

pub(crate) use by_words;

/// Writes the first four bytes as eight hex digits: enough to find a request in a log, too little to guess one.
pub(crate) fn short_hex(bytes: &[u8], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    bytes.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    };

    use super::*;
    use crate::RequestId;

    #[test]
    fn words_are_in_the_order_of_their_bytes() {
        let mut ids: Vec<[u8; 32]> = (0..=255_u8).map(|byte| *blake3::hash(&[byte]).as_bytes()).collect();
        ids.extend((0..32).map(|at| std::array::from_fn(|index| u8::from(index == at))));
        for one in &ids {
            for other in &ids {
                let ids = [one, other].map(|bytes| RequestId::from_bytes(*bytes));
                assert_eq!(ids[0].cmp(&ids[1]), one.cmp(other));
            }
        }
        let hash =
            |id: &[u8; 32]| BuildHasherDefault::<DefaultHasher>::new().hash_one(RequestId::from_bytes(*id));
        let hashes: HashSet<u64> = ids.iter().map(hash).collect();
        assert_eq!(hashes.len(), ids.len(), "each of the bytes counts");
    }

    /// What was stored before contexts were kept, and before parts were gathered, must be found.
    #[test]
    fn a_context_that_is_hashed_once_hashes_the_same() {
        let purpose = Purpose::new("a context");
        for _ in 0..2 {
            let hash = Parts::new(None, &purpose).part(b"x").finish();
            assert_eq!(hash, blake3::derive_key("a context", &[1, 0, 0, 0, 0, 0, 0, 0, b'x']));
        }
    }

    #[test]
    fn parts_hash_as_all_their_bytes_in_a_row_do() {
        let purpose = Purpose::new("a context");
        let lens = [0, 1, 7, 100, 495, 496, 504, 505, 511, 512, 513, 1500];
        for one in lens {
            for other in lens {
                let parts = [vec![1; one], vec![2; other], vec![3; 5]];
                let mut row = Vec::new();
                for part in &parts {
                    row.extend((part.len() as u64).to_le_bytes());
                    row.extend(part);
                }
                let hash = |key| Parts::new(key, &purpose).parts(parts.iter().map(Vec::as_slice)).finish();
                assert_eq!(hash(None), blake3::derive_key("a context", &row), "{one} and {other}");
                assert_eq!(hash(Some(&[7; 32])), *blake3::keyed_hash(&[7; 32], &row).as_bytes());
            }
        }
    }
}
