//! What the HTTP side keeps with a claim. As with stored responses, versions n-1 and n+1 must read each other's.

use bytes::Bytes;
use idempotency_core::Meta;
use prost::Message;

use crate::TraceParent;

/// What is kept with the record of a request beside its response: for resolvers, operators, and those who follow traces.
///
/// ```
/// use idempotency_core::Scope;
/// use idempotency_http::{Admission, Policy, RequestHead, RequestMeta};
///
/// let policy: Policy<()> = Policy::new(Scope::global()).note(|_, body| body[..6].to_vec());
/// let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let head = RequestHead {
///     method: "POST",
///     path: "/",
///     keys: &[b"order-1"],
///     traceparent: Some(traceparent),
///     ..RequestHead::default()
/// };
/// let Admission::Tracked(admitted) = policy.admit(&head, &()) else { panic!() };
/// let identity = policy.identify(&admitted, &head, &(), b"acct-7 pays 10", None).unwrap();
///
/// // In a resolver, which has the `meta` of the orphan:
/// let meta = RequestMeta::read(&identity.meta).unwrap();
/// assert_eq!(&meta.note[..], b"acct-7");
/// assert_eq!(meta.trace.unwrap().to_string().as_bytes(), traceparent);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestMeta {
    /// Where the request stands in its trace.
    pub trace: Option<TraceParent>,
    /// What the application noted of it, see [`Policy::note`](crate::Policy::note).
    pub note: Bytes,
    /// Where another payload differs from this one, if the policy tells it.
    pub(crate) digests: Bytes,
}

/// Its bytes.
#[derive(Clone, PartialEq, Message)]
struct Encoded {
    #[prost(bytes = "bytes", tag = "1")]
    trace: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    note: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    digests: Bytes,
}

impl RequestMeta {
    /// The longest note, in bytes.
    pub const MAX_NOTE_LEN: usize = 256;

    /// Reads what was kept. Total: `None` for bytes that are not ours.
    pub fn read(meta: &Meta) -> Option<Self> {
        let encoded = Encoded::decode(meta.as_bytes().clone()).ok()?;
        Some(Self {
            trace: TraceParent::from_bytes(&encoded.trace),
            note: encoded.note,
            digests: encoded.digests,
        })
    }

    /// A note that is too long is left out: what it says must not be half of it.
    pub(crate) fn write(self) -> Meta {
        let note = match self.note.len() {
            ..=Self::MAX_NOTE_LEN => self.note,
            len => {
                tracing::error!(len, "a note of a request is too long and is not kept");
                Bytes::new()
            }
        };
        let trace = self.trace.map_or_else(Bytes::new, |trace| trace.to_bytes().into());
        Meta::new(Encoded { trace, note, digests: self.digests }.encode_to_vec()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_note_that_is_too_long_is_left_out_and_all_else_kept() {
        let trace = TraceParent::new([1; 16], [2; 8], 1);
        let digests = Bytes::from(vec![7; 705]);
        let noted = |len| RequestMeta { trace, note: vec![7; len].into(), digests: digests.clone() };
        assert_eq!(RequestMeta::read(&noted(256).write()), Some(noted(256)));
        assert_eq!(RequestMeta::read(&noted(257).write()), Some(noted(0)));
    }

    #[test]
    fn the_format_is_pinned_and_a_later_field_is_skipped() {
        let (trace, note) = (TraceParent::new([1; 16], [2; 8], 1), Bytes::from_static(b"n"));
        let meta = RequestMeta { trace, note, digests: Bytes::from_static(b"d") };
        let mut bytes = [&b"\x0a\x19"[..], &[1; 16], &[2; 8], b"\x01\x12\x01n\x1a\x01d"].concat();
        bytes.extend_from_slice(b"\x82\x01\x03new"); // field 16
        assert_eq!(RequestMeta::read(&Meta::new(bytes).unwrap()), Some(meta));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..Meta::MAX_LEN)) {
            let _ = RequestMeta::read(&Meta::new(bytes).unwrap());
        }
    }
}
