use std::{fmt, sync::Arc};

use idempotency_core::{Fingerprint, Scheme, Secret};

use crate::RequestHead;

/// Query, content type and what the application chose of the payload.
const CHOSEN: Scheme = Scheme(2);

type Choose<R> = Arc<dyn Fn(&R, &[u8]) -> Vec<u8> + Send + Sync>;
type Custom<R> = Arc<dyn Fn(&R, &[u8]) -> Fingerprint + Send + Sync>;

/// How the payload of a request is read for its fingerprint.
pub(crate) enum Payload<R> {
    /// Query, content type and the bytes of the body, as they came.
    Raw,
    /// Query, content type and whatever the application takes from the request.
    Chosen(Choose<R>),
    /// The application's own hash of the whole request.
    Custom(Custom<R>),
}

impl<R> Payload<R> {
    pub(crate) fn fingerprint(
        &self,
        head: &RequestHead<'_>,
        request: &R,
        body: &[u8],
        secret: Option<&Secret>,
    ) -> Fingerprint {
        // A payload under another content type is another payload; none at all is the same as an empty one.
        let query = head.query.unwrap_or_default().as_bytes();
        let content_type = head.content_type.unwrap_or_default();
        match self {
            Self::Raw => Fingerprint::derive(secret, [query, content_type, body]),
            Self::Chosen(choose) => {
                Fingerprint::derive_as(CHOSEN, secret, [query, content_type, &choose(request, body)])
            }
            Self::Custom(custom) => custom(request, body),
        }
    }
}

impl<R> Clone for Payload<R> {
    fn clone(&self) -> Self {
        match self {
            Self::Raw => Self::Raw,
            Self::Chosen(choose) => Self::Chosen(choose.clone()),
            Self::Custom(custom) => Self::Custom(custom.clone()),
        }
    }
}

impl<R> fmt::Debug for Payload<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "Raw",
            Self::Chosen(_) => "Chosen(..)",
            Self::Custom(_) => "Custom(..)",
        })
    }
}
