use std::fmt;

use crate::hash::{by_words, short_hex};

/// 128 random bits minted for one claim. Only whoever knows them may settle the record; it keeps them for its
/// whole life, also when it is settled.
///
/// ```
/// use idempotency_core::Owner;
///
/// let owner = Owner::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
/// assert_eq!(format!("{owner:?}"), "Owner(01234567)");
/// ```
///
/// A counter would not do: kept in the row, it starts again at 1 when the row is pruned, and the owner of an
/// earlier life fits again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Owner([u8; 16]);

by_words!(Owner);

impl Owner {
    /// Takes 128 bits, which must come from a cryptographic random number generator.
    pub fn from_u128(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// Reads an owner that a store kept.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes for a store to keep.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(")?;
        short_hex(&self.0, f)?;
        f.write_str(")")
    }
}
