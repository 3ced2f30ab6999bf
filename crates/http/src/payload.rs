use std::{fmt, sync::Arc};

use idempotency_core::{Fingerprint, RequestId, Scheme, Secret};

use crate::{
    RequestHead,
    content::{self, Digests, Fields, NotReadable},
};

/// Query, content type and what the application chose of the payload.
const CHOSEN: Scheme = Scheme(2);

type Choose<R> = Arc<dyn Fn(&R, &[u8]) -> Vec<u8> + Send + Sync>;
type Custom<R> = Arc<dyn Fn(&R, &[u8]) -> Fingerprint + Send + Sync>;

/// How the payload of a request is read for its fingerprint.
pub(crate) enum Payload<R> {
    /// Query, content type and the bytes of the body, as they came.
    Raw,
    /// Query, and what a body of JSON or a form says, but for what these pointers name; the bytes of any other.
    Content(Arc<[String]>),
    /// Query, content type and whatever the application takes from the request.
    Chosen(Choose<R>),
    /// The application's own hash of the whole request.
    Custom(Custom<R>),
}

impl<R> Payload<R> {
    /// The fingerprint of a payload, and the digests of its parts if they are asked for.
    pub(crate) fn fingerprint(
        &self,
        id: RequestId,
        head: &RequestHead<'_>,
        request: &R,
        body: &[u8],
        secret: Option<&Secret>,
        with_digests: bool,
    ) -> Result<(Fingerprint, Digests), NotReadable> {
        // A payload under another content type is another payload; none at all is the same as an empty one.
        let query = head.query.unwrap_or_default().as_bytes();
        let content_type = head.content_type.unwrap_or_default();
        // Of a hash of the application's own nobody knows what it covers.
        let with_digests = with_digests && !matches!(self, Self::Custom(_));
        let mut fields = match secret {
            Some(secret) if with_digests => Fields::of(id, secret),
            _ => Fields::none(),
        };
        fields.note("query", query, true, true);
        let fingerprint = match self {
            Self::Raw => {
                fields.note("content-type", content_type, true, true);
                fields.note("body", body, true, true);
                Fingerprint::derive(secret, [query, content_type, body])
            }
            Self::Content(excluded) => {
                let content = content::read(head, body, excluded, &mut fields)?;
                fields.note("content-type", &content.content_type, true, true);
                Fingerprint::derive_as(content.scheme, secret, [query, &content.content_type, &content.form])
            }
            Self::Chosen(choose) => {
                let chosen = choose(request, body);
                fields.note("content-type", content_type, true, true);
                fields.note("body", &chosen, true, true);
                Fingerprint::derive_as(CHOSEN, secret, [query, content_type, &chosen])
            }
            Self::Custom(custom) => custom(request, body),
        };
        Ok((fingerprint, fields.digests()))
    }
}

impl<R> Clone for Payload<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Raw => Self::Raw,
            Self::Content(excluded) => Self::Content(excluded.clone()),
            Self::Chosen(choose) => Self::Chosen(choose.clone()),
            Self::Custom(custom) => Self::Custom(custom.clone()),
        }
    }
}

impl<R> fmt::Debug for Payload<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("Raw"),
            Self::Content(excluded) => f.debug_tuple("Content").field(excluded).finish(),
            Self::Chosen(_) => f.write_str("Chosen(..)"),
            Self::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}
