//! What a payload says, whatever bytes say it.

mod fields;
mod json;
mod multipart;

use std::borrow::Cow;

use idempotency_core::Scheme;

use crate::RequestHead;

pub(crate) use self::fields::{Digests, Fields};

/// JSON in the form of [`json`].
pub(crate) const JSON: Scheme = Scheme(3);

/// The parts of a form, whatever divides them.
pub(crate) const FORM: Scheme = Scheme(4);

/// The bytes of a body that is encoded, or empty, with how it is encoded.
pub(crate) const ENCODED: Scheme = Scheme(6);

/// Why a payload has no form that could be compared. Says nothing of what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotReadable(pub(crate) Cow<'static, str>);

/// What is hashed of a payload: how it was read, its content type, and its form.
pub(crate) struct Content<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) content_type: Cow<'a, [u8]>,
    pub(crate) form: Cow<'a, [u8]>,
}

/// Reads a payload by its content type; one that is neither JSON nor a form is what its bytes are.
pub(crate) fn read<'a>(
    head: &RequestHead<'a>,
    body: &'a [u8],
    excluded: &[String],
    fields: &mut Fields<'_>,
) -> Result<Content<'a>, NotReadable> {
    let content_type = head.content_type.unwrap_or_default();
    let encoding = head.content_encoding.unwrap_or_default().trim_ascii();
    let essence = essence(content_type);
    if body.is_empty() || !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity") {
        // Nothing, or something that only whoever decodes it can read.
        fields.note("body", body, true, true);
        let content_type = [content_type, &(content_type.len() as u64).to_le_bytes(), encoding].concat();
        return Ok(Content { scheme: ENCODED, content_type: content_type.into(), form: body.into() });
    }
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        let form = json::canonical(body, excluded, fields)?;
        // JSON is UTF-8 whatever parameters say (RFC 8259 §8.1, §11).
        return Ok(Content { scheme: JSON, content_type: essence.into_bytes().into(), form: form.into() });
    }
    if essence == "multipart/form-data" {
        let form = multipart::canonical(content_type, body, fields)?;
        return Ok(Content { scheme: FORM, content_type: essence.into_bytes().into(), form: form.into() });
    }
    fields.note("body", body, true, true);
    Ok(Content { scheme: Scheme::RAW, content_type: content_type.into(), form: body.into() })
}

/// A content type without its parameters, in small letters.
fn essence(content_type: &[u8]) -> String {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    String::from_utf8_lossy(essence.trim_ascii()).to_ascii_lowercase()
}
