use idempotency_core::{StoreError, StoreErrorKind};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What an error of the client or the server means. `source` keeps what it was.
pub(crate) fn store_error(error: RedisError) -> StoreError {
    let (kind, message, is_not_applied) = meaning(&error);
    let said = StoreError::new(kind, message).with_source(error);
    if is_not_applied { said.not_applied() } else { said }
}

/// The same of a cluster. Its client may have sent the call before, and lost the answer: that it was not applied this time
/// does not say what became of that one.
pub(crate) fn of_cluster(error: RedisError) -> StoreError {
    let (kind, message, _) = meaning(&error);
    let said = StoreError::new(kind, message);
    let said = if error.kind() == ErrorKind::InvalidClientConfig { said.not_applied() } else { said };
    said.with_source(error)
}

fn meaning(error: &RedisError) -> (StoreErrorKind, &'static str, bool) {
    use StoreErrorKind::{Corrupt, Full, Misconfigured, Other, TimedOut, Unavailable};
    match (error.kind(), error.code()) {
        (_, Some("OOM")) => (Full, "the server is out of memory", true),
        (_, Some("CORRUPT" | "WRONGTYPE")) => (Corrupt, "what is stored under the key is no record", true),
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            (Misconfigured, "the server refused the login", true)
        }
        // Of a script that has done some of its work, perhaps.
        (_, Some("NOPERM")) => (Misconfigured, "the user may not do this on the server", false),
        (_, Some("NOREPLICAS")) => (Unavailable, "the server has too few replicas to write", false),
        (_, Some("MISCONF")) => (Unavailable, "the server cannot write to its disk", false),
        (ErrorKind::InvalidClientConfig, _) => {
            (Misconfigured, "the configuration of the client makes no sense", true)
        }
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => (Unavailable, "the server is a replica", true),
        (ErrorKind::Server(kind), _) if is_not_ready(kind) || is_crowded(error) => {
            (Unavailable, "the server is not ready", true)
        }
        (
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::Parse | ErrorKind::UnexpectedReturnType,
            _,
        ) => (Other, "the server answered with an error", false),
        _ if error.is_timeout() => (TimedOut, "the server did not answer in time", false),
        _ => (Unavailable, "the server cannot be reached", error.is_connection_refusal()),
    }
}

fn is_not_ready(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, TryAgain};
    matches!(kind, Ask | BusyLoading | ClusterDown | MasterDown | Moved | TryAgain)
}

/// The server has more connections than it may have; it says so on a new one, and ends it.
pub(crate) fn is_crowded(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("max number of clients"))
}

pub(crate) fn misconfigured(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Misconfigured, message).not_applied()
}

pub(crate) fn unexpected() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "the server answered something else than the script says")
}

/// Who has the slot, and whether only this once.
pub(crate) fn redirection(error: &StoreError) -> Option<((String, u16), bool)> {
    let source = source(error)?;
    let (address, _) = source.redirect_node()?;
    // The host may be empty: the same as that of whoever says it.
    let (host, port) = address.rsplit_once(':')?;
    let is_once = source.kind() == ErrorKind::Server(ServerErrorKind::Ask);
    Some(((host.to_owned(), port.parse().ok()?), is_once))
}

/// The server has forgotten a script, or never knew it.
pub(crate) fn is_unknown_script(error: &StoreError) -> bool {
    source(error).is_some_and(|source| source.kind() == ErrorKind::Server(ServerErrorKind::NoScript))
}

/// The server did not even look at a command, since it could have written something.
pub(crate) fn is_no_write_taken(error: &StoreError) -> bool {
    source(error).is_some_and(|source| matches!(source.code(), Some("OOM" | "NOREPLICAS" | "MISCONF")))
}

fn source(error: &StoreError) -> Option<&RedisError> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref::<RedisError>())
}
