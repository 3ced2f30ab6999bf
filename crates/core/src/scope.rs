use std::fmt;

/// Who may see a record: a verified principal, or everybody.
///
/// Two principals that send the same idempotency key make two requests. There is no default: an application
/// without principals says [`Scope::global`] in so many words.
///
/// ```
/// use idempotency_core::Scope;
///
/// assert_ne!(Scope::principal(["tenant-7", "alice"]), Scope::principal(["tenant-7", "bob"]));
/// assert_ne!(Scope::principal(["a", "b:c"]), Scope::principal(["a:b", "c"]));
/// assert_ne!(Scope::principal([""]), Scope::global());
/// ```
///
/// Name the *principal*, never the credential: a scope that includes the bearer token changes when the token is
/// refreshed, and the retry is charged again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Scope(Option<Vec<Vec<u8>>>);

impl Scope {
    /// One scope for everybody who can reach the application.
    pub fn global() -> Self {
        Self(None)
    }

    /// The scope of one verified principal, in as many parts as it takes to name it (tenant, user, ...).
    pub fn principal<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        Self(Some(parts.into_iter().map(|part| part.as_ref().to_vec()).collect()))
    }

    /// The parts of the principal; `None` for [`Scope::global`].
    pub(crate) fn parts(&self) -> Option<&[Vec<u8>]> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Scope::global()"),
            Some(parts) => write!(f, "Scope::principal({} parts)", parts.len()),
        }
    }
}
