use std::{fmt, str::FromStr};

/// What the client sends to name its request: the idempotency key.
///
/// ```
/// use idempotency_core::IdempotencyKey;
///
/// let key: IdempotencyKey = "8e03978e-40d5-43dd-bc93-6894a57f9324".parse().unwrap();
/// assert_eq!(key.as_str().len(), 36);
/// // A key never shows up in a log by accident.
/// assert_eq!(format!("{key:?}"), "IdempotencyKey(36 characters)");
/// assert!("two words".parse::<IdempotencyKey>().is_err());
/// ```
///
/// 1 to 255 visible ASCII characters (0x21 to 0x7e). The limits are those of the large payment APIs; the IETF
/// draft (draft-ietf-httpapi-idempotency-key-header-07) sets none.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const MAX_LEN: usize = 255;

    /// The key as it was sent, unquoted.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes of the key, a part of [`RequestId::derive`](crate::RequestId::derive).
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        if key.is_empty() {
            return Err(InvalidIdempotencyKey::Empty);
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidIdempotencyKey::NotVisibleAscii);
        }
        if key.len() > Self::MAX_LEN {
            return Err(InvalidIdempotencyKey::TooLong { len: key.len() });
        }
        Ok(Self(key.to_owned()))
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({} characters)", self.0.len())
    }
}

/// Why a key was refused. Says nothing of the key itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIdempotencyKey {
    /// There was no character at all.
    #[error("the idempotency key is empty")]
    Empty,
    /// A space, a control character or a character outside ASCII.
    #[error("the idempotency key may have visible ASCII characters only")]
    NotVisibleAscii,
    /// More than [`IdempotencyKey::MAX_LEN`] characters.
    #[error("the idempotency key has {len} characters, at most {} are allowed", IdempotencyKey::MAX_LEN)]
    TooLong {
        /// How many there were.
        len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_1_to_255_visible_ascii_characters_is_taken() {
        assert!("!".parse::<IdempotencyKey>().is_ok());
        assert!("~".repeat(255).parse::<IdempotencyKey>().is_ok());
    }

    #[test]
    fn every_other_key_is_refused_with_its_reason() {
        assert_eq!("".parse::<IdempotencyKey>(), Err(InvalidIdempotencyKey::Empty));
        assert_eq!(
            "x".repeat(256).parse::<IdempotencyKey>(),
            Err(InvalidIdempotencyKey::TooLong { len: 256 })
        );
        for bad in [" ", "a b", "a\r\nb", "\u{7f}", "schlüssel", "a\0b"] {
            assert_eq!(bad.parse::<IdempotencyKey>(), Err(InvalidIdempotencyKey::NotVisibleAscii), "{bad:?}");
        }
    }
}
