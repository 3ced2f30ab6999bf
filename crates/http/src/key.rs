use std::borrow::Cow;

use idempotency_core::{IdempotencyKey, InvalidIdempotencyKey};
use sfv::{BareItem, Item, Parser};

/// What an idempotency key must look like, beyond 1 to 255 visible ASCII characters.
///
/// ```
/// use idempotency_http::KeyRule;
///
/// let uuid = "8e03978e-40d5-43dd-bc93-6894a57f9324".parse().unwrap();
/// let word = "order-1".parse().unwrap();
/// assert!(KeyRule::Uuid.allows(&uuid) && !KeyRule::Uuid.allows(&word));
/// assert!(KeyRule::MinLen(7).allows(&word) && !KeyRule::MinLen(8).allows(&word));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KeyRule {
    /// Nothing more.
    #[default]
    Any,
    /// A UUID in its usual form (RFC 9562 §4), of any version, in any case.
    Uuid,
    /// A ULID: 26 characters of Crockford's base 32, of which the first is at most 7, in any case.
    Ulid,
    /// At least so many characters.
    MinLen(usize),
}

impl KeyRule {
    /// Whether the key is such a one.
    pub fn allows(&self, key: &IdempotencyKey) -> bool {
        let key = key.as_bytes();
        match self {
            Self::Any => true,
            Self::Uuid => {
                let dashes = [8, 13, 18, 23];
                key.len() == 36
                    && key.iter().enumerate().all(|(at, byte)| match dashes.contains(&at) {
                        true => *byte == b'-',
                        false => byte.is_ascii_hexdigit(),
                    })
            }
            Self::Ulid => {
                let digit =
                    |byte: &u8| byte.is_ascii_alphanumeric() && !b"ILOU".contains(&byte.to_ascii_uppercase());
                key.len() == 26 && key[0] <= b'7' && key.iter().all(digit)
            }
            Self::MinLen(len) => key.len() >= *len,
        }
    }

    pub(crate) fn what(&self) -> String {
        match self {
            Self::Any => "a key".to_owned(),
            Self::Uuid => "a UUID".to_owned(),
            Self::Ulid => "a ULID".to_owned(),
            Self::MinLen(len) => format!("at least {len} characters"),
        }
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoKey {
    Missing,
    /// With the reason, which says nothing of the key itself.
    Invalid(Cow<'static, str>),
}

/// The one key of a request: a structured-field String (RFC 9651 §3.3.3), or the same value bare.
///
/// A bare value must not look like anything else that a structured field, or a proxy that joins two headers into one
/// line, would write: quotes, backslashes, commas and semicolons need the quoted form.
pub(crate) fn parse(values: &[&[u8]], rule: KeyRule) -> Result<IdempotencyKey, NoKey> {
    let value = match values {
        [] => return Err(NoKey::Missing),
        [value] => value.trim_ascii(),
        _ => return Err(NoKey::Invalid("there is more than one header with a key".into())),
    };
    let key = match value.first() {
        Some(b'"') => quoted(value)?,
        _ => bare(value)?,
    };
    let key: IdempotencyKey =
        key.parse().map_err(|error: InvalidIdempotencyKey| NoKey::Invalid(error.to_string().into()))?;
    match rule.allows(&key) {
        true => Ok(key),
        false => Err(NoKey::Invalid(format!("the key must be {}", rule.what()).into())),
    }
}

fn quoted(value: &[u8]) -> Result<String, NoKey> {
    let malformed = NoKey::Invalid("the key starts with a quote, but is no structured-field String".into());
    match Parser::new(value).parse::<Item>() {
        Ok(Item { bare_item: BareItem::String(key), params }) if params.is_empty() => Ok(key.into()),
        Ok(Item { bare_item: BareItem::String(_), .. }) => {
            Err(NoKey::Invalid("the key has parameters, which are not understood".into()))
        }
        _ => Err(malformed),
    }
}

fn bare(value: &[u8]) -> Result<String, NoKey> {
    match std::str::from_utf8(value) {
        Ok(key) if !key.contains(['"', '\\', ',', ';']) => Ok(key.to_owned()),
        Ok(_) => Err(NoKey::Invalid(
            "a key with quotes, backslashes, commas or semicolons must be written as a quoted String".into(),
        )),
        Err(_) => Err(NoKey::Invalid(InvalidIdempotencyKey::NotVisibleAscii.to_string().into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &[u8]) -> Result<String, NoKey> {
        parse(&[value], KeyRule::Any).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn a_structured_field_string_and_the_bare_value_are_the_same_key() {
        for value in [&b"order-1"[..], b"\"order-1\"", b"  \"order-1\" ", b" order-1"] {
            assert_eq!(one(value), Ok("order-1".to_owned()));
        }
        assert_eq!(one(br#""a\"b\\c,d;e""#), Ok(r#"a"b\c,d;e"#.to_owned()));
        assert_eq!(one(b"{curly}=[ok]").as_deref(), Ok("{curly}=[ok]"));
    }

    #[test]
    fn every_other_value_is_refused() {
        let bad: &[&[u8]] = &[
            b"",
            b"   ",
            b"\"",
            b"\"\"",
            b"\"abc",
            b"abc\"",
            b"a\"b",
            b"a\\b",
            b"a,b",
            b"a, b",
            b"abc;p=1",
            b"\"abc\";p=1",
            b"\"abc\";p",
            b"\"a\", \"b\"",
            b"\"a\\n\"",
            b"two words",
            b"\"two words\"",
            b"tab\there",
            "schl\u{fc}ssel".as_bytes(),
            "\"schl\u{fc}ssel\"".as_bytes(),
            b"\xff\xfe",
            b"nul\0",
            b"del\x7f",
            &[b'x'; 256],
        ];
        for value in bad {
            assert!(matches!(one(value), Err(NoKey::Invalid(_))), "{:?}", String::from_utf8_lossy(value));
        }
        assert_eq!(one(&[b'x'; 255]).unwrap().len(), 255);
    }

    #[test]
    fn no_header_is_missing_and_two_are_invalid() {
        assert_eq!(parse(&[], KeyRule::Any), Err(NoKey::Missing));
        assert!(matches!(parse(&[b"a", b"a"], KeyRule::Any), Err(NoKey::Invalid(_))));
    }

    #[test]
    fn a_rule_is_checked_on_the_unquoted_key() {
        let ulid = b"\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"";
        assert!(parse(&[ulid], KeyRule::Ulid).is_ok());
        assert!(parse(&[b"81ARZ3NDEKTSV4RRFFQ69G5FAV"], KeyRule::Ulid).is_err());
        assert!(parse(&[b"01ARZ3NDEKTSV4RRFFQ69G5FAU"], KeyRule::Ulid).is_err());
        assert!(parse(&[ulid], KeyRule::Uuid).is_err());
        assert!(parse(&[b"8E03978e-40d5-43dd-bc93-6894a57f9324"], KeyRule::Uuid).is_ok());
        assert!(parse(&[b"8E03978e-40d5-43dd-bc93-6894a57f932-"], KeyRule::Uuid).is_err());
        assert!(parse(&[b"\"1234\""], KeyRule::MinLen(5)).is_err());
    }
}
