use std::sync::Arc;

/// Which headers of a response are stored.
///
/// ```
/// use idempotency_http::StoredHeaders;
///
/// let headers = StoredHeaders::default().never("x-served-by");
/// assert!(headers.allows("location"));
/// assert!(!headers.allows("Set-Cookie") && !headers.allows("x-served-by"));
/// assert!(StoredHeaders::only(["location"]).allows("location"));
/// ```
///
/// Never, in either mode: headers of the connection (RFC 9110 §7.6.1) and all that `Connection` names. By default all
/// others but those that belong to the one exchange or to the one client: `Set-Cookie`, `Authorization`,
/// `WWW-Authenticate`, `Proxy-*`, `Date`, `Age`, `traceparent`, `x-request-id`. `Content-Length` is computed anew.
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHeaders(Arc<Mode>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// All but these and `Proxy-*`, and these all the same.
    AllBut {
        never: Vec<String>,
        also: Vec<String>,
    },
    Only(Vec<String>),
}

const OF_THE_CONNECTION: &[&str] = &[
    "connection",
    "content-length",
    // Ours, and said anew with each replay.
    "idempotency-replayed",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const OF_THE_EXCHANGE: &[&str] =
    &["age", "authorization", "date", "set-cookie", "traceparent", "www-authenticate", "x-request-id"];

impl Default for StoredHeaders {
    fn default() -> Self {
        let never = OF_THE_EXCHANGE.iter().copied().map(str::to_owned).collect();
        Self(Arc::new(Mode::AllBut { never, also: Vec::new() }))
    }
}

impl StoredHeaders {
    /// Only these, whatever they are.
    pub fn only<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self(Arc::new(Mode::Only(names.into_iter().map(lower).collect())))
    }

    /// Not this one either.
    #[must_use]
    pub fn never(mut self, name: impl Into<String>) -> Self {
        let name = lower(name);
        match Arc::make_mut(&mut self.0) {
            Mode::AllBut { never, also } => {
                also.retain(|also| *also != name);
                never.push(name);
            }
            Mode::Only(names) => names.retain(|only| *only != name),
        }
        self
    }

    /// This one as well.
    #[must_use]
    pub fn also(mut self, name: impl Into<String>) -> Self {
        let name = lower(name);
        match Arc::make_mut(&mut self.0) {
            Mode::AllBut { also, .. } => also.push(name),
            Mode::Only(names) => names.push(name),
        }
        self
    }

    /// Whether a header with this name is stored, in any case.
    pub fn allows(&self, name: &str) -> bool {
        let is = |other: &str| other.eq_ignore_ascii_case(name);
        if OF_THE_CONNECTION.iter().any(|never| is(never)) {
            return false;
        }
        let proxy = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
        match &*self.0 {
            Mode::AllBut { never, also } => {
                also.iter().any(|also| is(also)) || !proxy && !never.iter().any(|never| is(never))
            }
            Mode::Only(names) => names.iter().any(|only| is(only)),
        }
    }

    /// What is stored of these headers, in their order.
    pub(crate) fn select<'a>(&self, headers: &[(&'a str, &'a [u8])]) -> Vec<(&'a str, &'a [u8])> {
        let connection = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        let named: Vec<&[u8]> = connection
            .flat_map(|(_, value)| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .collect();
        let hop_by_hop = |name: &str| named.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()));
        headers.iter().copied().filter(|(name, _)| self.allows(name) && !hop_by_hop(name)).collect()
    }
}

fn lower(name: impl Into<String>) -> String {
    let mut name = name.into();
    name.make_ascii_lowercase();
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(rules: &StoredHeaders, headers: &[(&'static str, &'static str)]) -> Vec<&'static str> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        rules.select(&headers).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_belongs_to_one_exchange_or_connection_is_never_stored() {
        let never = [
            "connection",
            "Keep-Alive",
            "proxy-authenticate",
            "Proxy-Authorization",
            "proxy-anything",
            "TE",
            "trailer",
            "Transfer-Encoding",
            "upgrade",
            "set-cookie",
            "authorization",
            "WWW-Authenticate",
            "date",
            "age",
            "traceparent",
            "X-Request-Id",
            "Content-Length",
        ];
        for name in never {
            assert_eq!(stored(&StoredHeaders::default(), &[(name, "x")]), Vec::<&str>::new(), "{name}");
        }
        let kept =
            ["expires", "cache-control", "location", "etag", "content-type", "content-encoding", "vary"];
        for name in kept {
            assert_eq!(stored(&StoredHeaders::default(), &[(name, "x")]), [name]);
        }
    }

    #[test]
    fn what_connection_names_is_left_out_also_where_it_is_allowed() {
        let headers =
            [("x-a", "1"), ("Connection", "close, X-A"), ("x-b", "2"), ("connection", "x-c"), ("x-c", "3")];
        assert_eq!(stored(&StoredHeaders::default(), &headers), ["x-b"]);
        assert_eq!(stored(&StoredHeaders::only(["x-a", "x-b", "connection"]), &headers), ["x-b"]);
    }

    #[test]
    fn the_list_can_be_changed_both_ways() {
        let rules = StoredHeaders::default().also("Set-Cookie").never("ETag");
        assert_eq!(
            stored(&rules, &[("set-cookie", "a=1"), ("etag", "x"), ("vary", "y")]),
            ["set-cookie", "vary"]
        );
        let rules = StoredHeaders::only(["etag", "vary"]).never("vary").also("location");
        assert_eq!(stored(&rules, &[("etag", "x"), ("vary", "y"), ("location", "z")]), ["etag", "location"]);
        let rules = StoredHeaders::default().also("Proxy-Status");
        assert_eq!(stored(&rules, &[("proxy-status", "x"), ("proxy-x", "y")]), ["proxy-status"]);
        // Those of the connection are never stored.
        assert_eq!(
            stored(&StoredHeaders::default().also("upgrade"), &[("upgrade", "x")]),
            Vec::<&str>::new()
        );
    }

    #[test]
    fn repeated_headers_keep_their_order() {
        let headers = [("link", "a"), ("vary", "b"), ("link", "c")];
        assert_eq!(stored(&StoredHeaders::default(), &headers), ["link", "vary", "link"]);
    }
}
