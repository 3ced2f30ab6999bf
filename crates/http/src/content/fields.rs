//! Digests of the parts of a payload, kept with its record: they tell where another payload differs, and nothing of what it
//! says.

use bytes::Bytes;
use idempotency_core::{Fingerprint, RequestId, Scheme, Secret};

/// Of how many parts at most: what fits into the `meta` of a claim.
const MOST: usize = 88;

/// How long the name of one may be, in bytes.
const LONGEST: usize = 256;

/// Never the hash of a payload.
const FIELD: Scheme = Scheme(5);

/// How many bytes of each hash are kept: where two payloads differ, the chance that it is not seen is one in four billion.
const KEPT: usize = 4;

/// Gathers them while a payload is read.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    salt: Option<(RequestId, &'a Secret)>,
    /// Every scalar of a document; `None` if there are too many.
    leaves: Option<Vec<Field>>,
    /// The members of its root; the same.
    tops: Option<Vec<Field>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    digest: [u8; 2 * KEPT],
}

/// What was gathered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    leaves: Option<Vec<Field>>,
    tops: Option<Vec<Field>>,
}

impl<'a> Fields<'a> {
    /// Keyed, or whoever reads the store could guess each part by itself; and salted with the request, so that equal parts of
    /// two requests do not look alike.
    pub(crate) fn of(id: RequestId, secret: &'a Secret) -> Self {
        Self { salt: Some((id, secret)), leaves: Some(Vec::new()), tops: Some(Vec::new()) }
    }

    /// Gathers nothing.
    pub(crate) fn none() -> Self {
        Self { salt: None, leaves: None, tops: None }
    }

    pub(crate) fn note(&mut self, name: &str, content: &[u8], is_leaf: bool, is_top: bool) {
        let Some((id, secret)) = self.salt else { return };
        let wanted = is_leaf && self.leaves.is_some() || is_top && self.tops.is_some();
        if !wanted {
            return;
        }
        let hash = |part: &[u8], content: &[u8]| {
            let hash =
                Fingerprint::derive_as(FIELD, Some(secret), [id.as_bytes(), part, name.as_bytes(), content]);
            let mut kept = [0; KEPT];
            kept.copy_from_slice(&hash.as_bytes()[..KEPT]);
            kept
        };
        let (name_digest, content_digest) = (hash(b"name", b""), hash(b"content", content));
        let mut digest = [0; 2 * KEPT];
        digest[..KEPT].copy_from_slice(&name_digest);
        digest[KEPT..].copy_from_slice(&content_digest);
        for (is_one, fields) in [(is_leaf, &mut self.leaves), (is_top, &mut self.tops)] {
            if is_one && fields.as_ref().is_some_and(|fields| fields.len() == MOST || name.len() > LONGEST) {
                *fields = None;
            } else if is_one && let Some(fields) = fields {
                fields.push(Field { name: name.to_owned(), digest });
            }
        }
    }

    pub(crate) fn digests(self) -> Digests {
        Digests { leaves: self.leaves, tops: self.tops }
    }
}

/// Whether leaves or tops are kept.
const LEAVES: u8 = 1;
const TOPS: u8 = 2;

impl Digests {
    /// What is kept: of every leaf, or of every member of the root, or nothing.
    pub(crate) fn kept(&self) -> Bytes {
        let (kind, fields) = match (&self.leaves, &self.tops) {
            (Some(leaves), _) => (LEAVES, leaves),
            (None, Some(tops)) => (TOPS, tops),
            (None, None) => return Bytes::new(),
        };
        [kind].into_iter().chain(fields.iter().flat_map(|field| field.digest)).collect()
    }

    /// The names of what is here and not there, or otherwise. What is only there has a digest and no name. `None` if what is
    /// kept does not tell.
    pub(crate) fn differ_from(&self, kept: &[u8]) -> Option<Vec<String>> {
        let (kind, kept) = kept.split_first()?;
        let fields = match *kind {
            LEAVES => self.leaves.as_ref()?,
            TOPS => self.tops.as_ref()?,
            _ => return None,
        };
        let (kept, []) = kept.as_chunks::<{ 2 * KEPT }>() else { return None };
        let differ = fields.iter().filter(|field| !kept.contains(&field.digest));
        Some(differ.map(|field| field.name.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: u8, fields: &[(&str, &str)]) -> Digests {
        let secret = Secret::new([7; 32]);
        let mut gathered = Fields::of(RequestId::from_bytes([id; 32]), &secret);
        for (name, content) in fields {
            gathered.note(name, content.as_bytes(), true, false);
        }
        gathered.digests()
    }

    #[test]
    fn what_differs_is_named_and_nothing_else() {
        let kept = of(1, &[("/a", "1"), ("/b", "2"), ("/c", "3")]).kept();
        let differ = |fields: &[(&str, &str)]| of(1, fields).differ_from(&kept).unwrap();
        assert_eq!(differ(&[("/a", "1"), ("/b", "2"), ("/c", "3")]), [""; 0]);
        assert_eq!(differ(&[("/a", "1"), ("/b", "3"), ("/d", "2")]), ["/b", "/d"]);
        assert_eq!(differ(&[("/a", "1")]), [""; 0], "what is gone has no name any more");
        assert_eq!(of(1, &[("/a", "1")]).differ_from(b""), None);
        assert_eq!(of(1, &[("/a", "1")]).differ_from(b"\x01odd"), None);
        assert_eq!(of(1, &[("/a", "1")]).differ_from(b"\x07"), None);
    }

    #[test]
    fn the_digests_of_two_requests_do_not_look_alike() {
        let [one, other] = [1, 2].map(|id| of(id, &[("/a", "1")]).kept());
        assert_ne!(one[1..5], other[1..5]);
        assert_ne!(one[5..], other[5..]);
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let names: Vec<String> = (0..=MOST).map(|number| format!("/{number}")).collect();
        let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        assert_eq!(of(1, &fields[..MOST]).kept().len(), 1 + 8 * MOST);
        // Of the members of the root there are few enough: none.
        assert_eq!(of(1, &fields).kept(), [TOPS][..]);
        assert_eq!(of(1, &[(&"x".repeat(LONGEST + 1), "1")]).kept(), [TOPS][..]);
    }
}
