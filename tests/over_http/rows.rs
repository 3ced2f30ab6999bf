//! One check a row of the table of HTTP behaviour, for any adapter.

use std::{
    io::{Read, Write},
    thread,
    time::Duration,
};

use http::{HeaderName, Method, StatusCode};
use idempotency::{
    MemoryStore, Once, Outcome, Scope, StoredResponse, Tracker,
    tower::{Budget, Code, Fate, KeyRule, StoredHeaders},
};
use idempotency_http::Policy;

use super::{
    app::wait_until,
    client::{self, Reply},
    servers::{ByDefault, Configure, Kind, Server},
    store::Breakable,
};

/// A change of the default policy, for either adapter's requests.
macro_rules! configure {
    ($name:ident, |$policy:ident, $principal:ident| $changed:expr) => {
        struct $name;

        impl Configure for $name {
            fn policy<R: 'static>(&self, $principal: fn(&R) -> Option<Scope>) -> Policy<R> {
                let $policy = Policy::<R>::new(Scope::global());
                let _ = $principal;
                $changed
            }
        }
    };
}

const KEY: &str = "idempotency-key";

mod answer;
mod extras;
mod payload;
mod request;
mod stored;
mod wire;

/// Panics if the row does not hold.
pub(crate) type Check = fn(Kind);

pub(crate) const ROWS: &[(&str, Check)] = &[
    ("request: POST and PATCH are tracked, others pass untouched", request::methods),
    ("request: PUT and DELETE by option", request::methods_by_option),
    ("request: the header's name is configurable", request::header_name),
    ("request: a structured-field String and the bare value are one key", request::one_key),
    ("request: a key is 1 to 255 visible ASCII characters", request::key_length),
    ("request: several headers, malformed Strings, parameters: 400", request::bad_keys),
    ("request: a rule for keys", request::key_rule),
    ("request: no header: 400, or untracked by option", request::no_header),
    ("request: a scope of its own for each principal, nobody: 401", request::scopes),
    ("request: another path or method is another request", request::other_request),
    ("request: another host is another request by option", request::by_host),
    ("request: another query, content type or body is a mismatch", request::mismatches),
    ("request: the payload reaches the handler as it was", request::payload_passes),
    ("request: a payload past the limit: 413, announced or not", request::payload_limit),
    ("request: a payload that does not arrive in time: 408", request::payload_time),
    ("request: a payload that breaks off does nothing", request::payload_broken),
    ("request: a chosen payload, a hash of the application's own", request::custom_hash),
    ("request: past the budget of all: 503, without a claim", request::budget),
    ("request: the budget counts a payload as long as it is there", request::budget_while_running),
    ("request: by content: JSON in any order, less what is excluded, forms", payload::by_content),
    ("request: what cannot be read by its content for sure: 400", payload::unreadable),
    ("request: where a payload differs is told by option, and no value", payload::differences),
    ("request: trailers do not count, HTTP/2 is as HTTP/1.1", wire::trailers_and_http2),
    ("request: Expect: 100-continue only after all else has passed", wire::expect_continue),
    ("answer: no byte leaves before the response, or its marker, is stored", answer::stored_first),
    ("answer: Init, detached: a client that hangs up stops nothing", answer::detached),
    ("answer: Cached: status, headers, body as stored, and marked", answer::cached),
    ("answer: Processing: 409 with Retry-After", answer::processing),
    ("answer: Processing with Wait: the response itself, Prefer: wait=n", extras::wait),
    ("answer: Halted: 409, not retryable, status configurable", answer::halted),
    ("answer: Mismatch: 422 in every state, status configurable", answer::mismatch_states),
    ("answer: Overloaded, Unavailable, ShuttingDown: 503", answer::unavailable),
    ("answer: problems are documents with a link, and configurable", answer::problems),
    ("stored: 2xx, 3xx, 4xx, 5xx are replayed as they were", stored::kept),
    ("stored: 421, 425, 429 are released", stored::released),
    ("stored: 408 halts", stored::timed_out),
    ("stored: what the handler says comes first", stored::dispositions),
    ("stored: the fate of a status is configurable", stored::fate_of),
    ("stored: a panic halts, 500", stored::panics),
    ("stored: too large or a stream: a marker first, then the bytes", stored::not_kept),
    ("stored: a response past the budget of all: the marker", stored::response_budget),
    ("stored: a body that stalls: the marker, and nothing is kept of it", stored::stalled_body),
    ("stored: a body that breaks off halts", stored::broken_body),
    ("stored: no store after the handler: the response goes out", stored::store_fails_after),
    ("stored: headers of one exchange are not, the list is configurable", stored::stored_headers),
    ("stored: Content-Length is recomputed, 204 has no body", stored::content_length),
    ("stored: Idempotency-Expires by option, Expires left alone", stored::expires),
    ("stored: malformed bytes: 503, and no panic", stored::malformed),
    ("stored: no store at all: fail open by option", extras::fail_open),
    ("extras: a guard looks again before a replay leaves", extras::guard),
    ("extras: the handler's own handle: key, child keys, what it says", extras::handle),
    ("extras: lease, retention, policies and limits by route", extras::tracking),
];

fn start(kind: Kind) -> Server {
    Server::start(kind, MemoryStore::new(), ByDefault)
}

#[track_caller]
fn replayed(server: &Server, path: &str, key: &str, body: &str) {
    let first = server.post(path, key, body);
    assert!(!first.is_replay(), "{first:?}");
    let retry = server.post(path, key, body);
    assert!(retry.is_replay() && retry.status == first.status && retry.body == first.body, "{retry:?}");
    assert_eq!(server.app.begun(path), 1, "{path}");
}

/// Room for one payload or so.
struct SmallBudget(Budget);

impl Configure for SmallBudget {
    fn policy<R: 'static>(&self, _: fn(&R) -> Option<Scope>) -> Policy<R> {
        Policy::new(Scope::global()).request_limit(3000).response_limit(3000).budget(self.0.clone())
    }
}
