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

/// Panics if the row does not hold.
pub(crate) type Check = fn(Kind);

pub(crate) const ROWS: &[(&str, Check)] = &[
    ("request: POST and PATCH are tracked, others pass untouched", methods),
    ("request: PUT and DELETE by option", methods_by_option),
    ("request: the header's name is configurable", header_name),
    ("request: a structured-field String and the bare value are one key", one_key),
    ("request: a key is 1 to 255 visible ASCII characters", key_length),
    ("request: several headers, malformed Strings, parameters: 400", bad_keys),
    ("request: a rule for keys", key_rule),
    ("request: no header: 400, or untracked by option", no_header),
    ("request: a scope of its own for each principal, nobody: 401", scopes),
    ("request: another path or method is another request", other_request),
    ("request: another host is another request by option", by_host),
    ("request: another query, content type or body is a mismatch", mismatches),
    ("request: the payload reaches the handler as it was", payload_passes),
    ("request: a payload past the limit: 413, announced or not", payload_limit),
    ("request: a payload that does not arrive in time: 408", payload_time),
    ("request: a payload that breaks off does nothing", payload_broken),
    ("request: a chosen payload, a hash of the application's own", custom_hash),
    ("request: past the budget of all: 503, without a claim", budget),
    ("request: the budget counts a payload as long as it is there", budget_while_running),
    ("answer: no byte leaves before the response, or its marker, is stored", stored_first),
    ("answer: Init, detached: a client that hangs up stops nothing", detached),
    ("answer: Cached: status, headers, body as stored, and marked", cached),
    ("answer: Processing: 409 with Retry-After", processing),
    ("answer: Halted: 409, not retryable, status configurable", halted),
    ("answer: Mismatch: 422 in every state, status configurable", mismatch_states),
    ("answer: Overloaded, Unavailable, ShuttingDown: 503", unavailable),
    ("answer: problems are documents with a link, and configurable", problems),
    ("stored: 2xx, 3xx, 4xx, 5xx are replayed as they were", kept),
    ("stored: 421, 425, 429 are released", released),
    ("stored: 408 halts", timed_out),
    ("stored: what the handler says comes first", dispositions),
    ("stored: the fate of a status is configurable", fate_of),
    ("stored: a panic halts, 500", panics),
    ("stored: too large or a stream: a marker first, then the bytes", not_kept),
    ("stored: a response past the budget of all: the marker", response_budget),
    ("stored: a body that stalls: the marker, and nothing is kept of it", stalled_body),
    ("stored: a body that breaks off halts", broken_body),
    ("stored: no store after the handler: the response goes out", store_fails_after),
    ("stored: headers of one exchange are not, the list is configurable", stored_headers),
    ("stored: Content-Length is recomputed, 204 has no body", content_length),
    ("stored: Idempotency-Expires by option, Expires left alone", expires),
    ("stored: malformed bytes: 503, and no panic", malformed),
];

/// What later work covers.
pub(crate) const OPEN: &[&str] = &[
    "request: canonical JSON, excluded pointers, multipart",
    "request: trailers and HTTP/2 on the wire",
    "request: Expect: 100-continue only after all else has passed",
    "answer: Processing with Wait, Prefer: wait=n",
    "stored: fail open by route, counted",
    "extras: replay guard, policy document, extractor",
];

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

fn methods(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), ByDefault);
    for method in ["POST", "PATCH"] {
        let path = format!("/thing/{method}");
        let [first, retry] = [(), ()].map(|()| server.send(method, &path, &[(KEY, "k")], b"x"));
        assert!(!first.is_replay() && retry.is_replay(), "{method}");
        assert_eq!(server.app.begun(&path), 1);
    }
    // Untouched: they do not notice that the store is gone.
    store.down(true);
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
        let path = format!("/thing/{method}");
        for run in 1..=2 {
            let reply = server.send(method, &path, &[(KEY, "k")], b"");
            assert_eq!((reply.status, reply.is_replay()), (201, false), "{method}");
            assert_eq!(server.app.begun(&path), run);
        }
    }
    assert_eq!(store.records(), 2);
}

configure!(PutAndDelete, |policy, principal| policy.methods([Method::PUT, Method::DELETE]));

fn methods_by_option(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), PutAndDelete);
    for (method, runs) in [("PUT", 1), ("DELETE", 1), ("POST", 2), ("GET", 2)] {
        let path = format!("/thing/{method}");
        for _ in 0..2 {
            assert_eq!(server.send(method, &path, &[(KEY, "k")], b"").status, 201);
        }
        assert_eq!(server.app.begun(&path), runs, "{method}");
    }
}

configure!(OtherHeader, |policy, principal| policy.header(HeaderName::from_static("x-request-key")));

fn header_name(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), OtherHeader);
    assert_eq!(server.post("/thing", "k", "").problem(), (400, "idempotency_key_missing".into()));
    for replay in [false, true] {
        assert_eq!(server.send("POST", "/thing", &[("X-Request-Key", "k")], b"").is_replay(), replay);
    }
}

fn one_key(kind: Kind) {
    let server = start(kind);
    for (key, replay) in [("8e03-1", false), ("\"8e03-1\"", true), (" \"8e03-1\" ", true), ("8e03-1", true)] {
        assert_eq!(server.post("/thing", key, "").is_replay(), replay, "{key}");
    }
    for (key, replay) in [(r#""a\"b\\c, d""#, false), (r#""a\"b\\c,d""#, false), (r#""a\"b\\c,d""#, true)] {
        let reply = server.post("/thing", key, "");
        assert!(reply.status == 400 && key.contains(' ') || reply.is_replay() == replay, "{key}: {reply:?}");
    }
    assert_eq!(server.app.begun("/thing"), 2);
}

fn key_length(kind: Kind) {
    let server = start(kind);
    for (len, status) in [(0, 400), (1, 201), (255, 201), (256, 400), (3000, 400)] {
        assert_eq!(server.post("/thing", &"x".repeat(len), "").status, status, "{len}");
    }
    let all: String = (0x21..=0x7eu8).map(char::from).filter(|c| !r#""\,;"#.contains(*c)).collect();
    replayed(&server, "/all", &all, "");
}

fn bad_keys(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), ByDefault);
    let bad: &[&[u8]] = &[
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
        b"schl\xc3\xbcssel",
        b"\xff\xfe",
    ];
    for key in bad {
        let mut bytes = b"POST /thing HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: ".to_vec();
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(b"\r\ncontent-length: 0\r\n\r\n");
        let reply = client::send(&server.address, &bytes);
        let shown = String::from_utf8_lossy(key);
        assert_eq!(reply.problem(), (400, "idempotency_key_invalid".into()), "{shown}");
        assert_eq!(reply.json()["retryable"], false, "{shown}");
    }
    for second in ["b", "a", "\"a\""] {
        let reply = server.send("POST", "/thing", &[(KEY, "a"), ("Idempotency-Key", second)], b"");
        assert_eq!(reply.problem(), (400, "idempotency_key_invalid".into()));
    }
    assert_eq!((server.app.begun("/thing"), store.records()), (0, 0));
}

configure!(Uuids, |policy, principal| policy.key_rule(KeyRule::Uuid));

fn key_rule(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), Uuids);
    replayed(&server, "/thing", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", "");
    let reply = server.post("/other", "order-1", "");
    assert_eq!(reply.problem(), (400, "idempotency_key_invalid".into()));
    assert!(reply.json()["detail"].as_str().unwrap().contains("UUID"));
}

configure!(Optional, |policy, principal| policy.optional());

fn no_header(kind: Kind) {
    let server = start(kind);
    let missing = server.send("POST", "/thing", &[], b"x");
    assert_eq!(missing.problem(), (400, "idempotency_key_missing".into()));
    assert_eq!(server.app.begun("/thing"), 0);

    let server = Server::start(kind, MemoryStore::new(), Optional);
    for run in 1..=2 {
        let passed = server.send("POST", "/echo", &[], b"payload");
        assert_eq!((passed.status, passed.text().as_str()), (200, "payload"));
        assert_eq!(server.app.begun("/echo"), run);
    }
    replayed(&server, "/thing", "k", "");
    assert_eq!(server.post("/thing", "two words", "").status, 400);
}

configure!(ByPrincipal, |policy, principal| {
    drop(policy);
    Policy::scoped_by(principal)
});
configure!(ByPrincipal404, |policy, principal| {
    drop(policy);
    Policy::scoped_by(principal).status_of(Code::PrincipalMissing, StatusCode::NOT_FOUND)
});

fn scopes(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), ByPrincipal);
    let mut bodies = Vec::new();
    for principal in ["alice", "bob"] {
        let headers = [(KEY, "k"), ("x-principal", principal)];
        let [first, retry] = [(), ()].map(|()| server.send("POST", "/thing", &headers, b""));
        assert!(!first.is_replay() && retry.is_replay() && first.body == retry.body);
        bodies.push(first.body);
    }
    assert_ne!(bodies[0], bodies[1]);
    let nobody = server.post("/thing", "k", "");
    assert_eq!(nobody.problem(), (401, "idempotency_principal_missing".into()));
    assert_eq!((server.app.begun("/thing"), store.records()), (2, 2));
    let server = Server::start(kind, MemoryStore::new(), ByPrincipal404);
    assert_eq!(server.post("/thing", "k", "").status, 404);
}

fn other_request(kind: Kind) {
    let server = start(kind);
    for path in ["/thing", "/thing/", "/thing/a", "/other", "/%74hing"] {
        let reply = server.post(path, "k", "");
        assert!(reply.status == 201 && !reply.is_replay(), "{path}: {reply:?}");
    }
    assert!(!server.send("PATCH", "/thing", &[(KEY, "k")], b"").is_replay());
    assert!(server.send("PATCH", "/thing", &[(KEY, "k")], b"").is_replay());
    assert_eq!(server.app.begun("/thing"), 2);
}

configure!(ByHost, |policy, principal| policy.by_host());

fn by_host(kind: Kind) {
    fn post(server: &Server, host: &str) -> Reply {
        let bytes = format!(
            "POST /thing HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n"
        );
        client::send(&server.address, bytes.as_bytes())
    }
    for (server, runs) in [(Server::start(kind, MemoryStore::new(), ByHost), 2), (start(kind), 1)] {
        for host in ["a.example", "b.example", "a.example"] {
            assert_eq!(post(&server, host).status, 201);
        }
        assert_eq!(server.app.begun("/thing"), runs);
    }
}

fn mismatches(kind: Kind) {
    let server = start(kind);
    let json = ("content-type", "application/json");
    let first = server.send("POST", "/thing?a=1", &[(KEY, "k"), json], b"{}");
    assert_eq!(first.status, 201);
    for (path, content_type, body) in [
        ("/thing?a=2", "application/json", &b"{}"[..]),
        ("/thing", "application/json", b"{}"),
        ("/thing?a=1", "text/plain", b"{}"),
        ("/thing?a=1", "application/json", b"{} "),
        ("/thing?a=1", "application/json", b""),
    ] {
        let reply = server.send("POST", path, &[(KEY, "k"), ("content-type", content_type)], body);
        assert_eq!(reply.problem(), (422, "idempotency_key_reused".into()), "{path} {content_type}");
    }
    assert!(server.send("POST", "/thing?a=1", &[(KEY, "k"), json], b"{}").is_replay());
    assert_eq!(server.app.begun("/thing"), 1);
}

fn payload_passes(kind: Kind) {
    let server = start(kind);
    let payload: Vec<u8> = (0..200_000u32).map(|byte| byte as u8).collect();
    let reply = server.send("POST", "/echo", &[(KEY, "k")], &payload);
    assert!(reply.status == 200 && reply.body == payload);
    let chunked = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: c\r\n\
        transfer-encoding: chunked\r\n\r\n4\r\npart\r\n5\r\n two!\r\n0\r\n\r\n";
    let reply = client::send(&server.address, chunked);
    assert_eq!((reply.status, reply.text().as_str()), (200, "part two!"));
    // How it was cut into pieces is no part of the payload.
    let whole = server.post("/echo", "c", "part two!");
    assert!(whole.is_replay(), "{whole:?}");
}

configure!(SmallPayloads, |policy, principal| policy.request_limit(1000));

fn payload_limit(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), SmallPayloads);
    assert_eq!(server.post("/thing", "fits", &"x".repeat(1000)).status, 201);
    let announced = server.post("/thing", "k", &"x".repeat(1001));
    assert_eq!(announced.problem(), (413, "idempotency_payload_too_large".into()));
    let chunk = "x".repeat(600);
    let chunked = format!(
        "POST /thing HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: c\r\n\
        transfer-encoding: chunked\r\n\r\n258\r\n{chunk}\r\n258\r\n{chunk}\r\n0\r\n\r\n"
    );
    let reply = client::send(&server.address, chunked.as_bytes());
    assert_eq!(reply.problem(), (413, "idempotency_payload_too_large".into()));
    assert_eq!((server.app.begun("/thing"), store.records()), (1, 1));
    // By default a mebibyte.
    let server = start(kind);
    assert_eq!(server.post("/thing", "a", &"x".repeat(1024 * 1024)).status, 201);
    assert_eq!(server.post("/thing", "b", &"x".repeat(1024 * 1024 + 1)).status, 413);
}

configure!(Impatient, |policy, principal| policy.read_limit(Duration::from_millis(100)));

fn payload_time(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), Impatient);
    let mut stream = client::connect(&server.address);
    stream
        .write_all(
            b"POST /thing HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 10\r\n\r\nhalf ",
        )
        .unwrap();
    let reply = client::read(&mut stream).expect("an answer");
    assert_eq!(reply.problem(), (408, "idempotency_payload_timeout".into()));
    assert_eq!((server.app.begun("/thing"), store.records()), (0, 0));
    replayed(&server, "/thing", "k", "half and half");
}

fn payload_broken(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), ByDefault);
    let mut stream = client::connect(&server.address);
    stream
        .write_all(
            b"POST /thing HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\ncontent-length: 10\r\n\r\nhalf ",
        )
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // Either framework may close without a word.
    if let Some(reply) = client::read(&mut stream) {
        assert_eq!(reply.status, 400, "{reply:?}");
    }
    assert_eq!((server.app.begun("/thing"), store.records()), (0, 0));
    replayed(&server, "/thing", "k", "half and half");
}

configure!(FirstWord, |policy, principal| policy
    .payload(|_, body| { body.split(|byte| *byte == b' ').next().unwrap_or_default().to_vec() }));
configure!(OwnHash, |policy, principal| policy.fingerprint(|_, body| {
    idempotency::Fingerprint::derive_as(idempotency::Scheme(200), None, [&body[..1]])
}));

fn custom_hash(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), FirstWord);
    assert_eq!(server.post("/thing", "k", "pay now").status, 201);
    assert!(server.post("/thing", "k", "pay later").is_replay());
    assert_eq!(server.post("/thing", "k", "refund").status, 422);
    assert_eq!(server.post("/thing?now", "k", "pay now").status, 422);

    let server = Server::start(kind, MemoryStore::new(), OwnHash);
    assert_eq!(server.post("/thing", "k", "pay").status, 201);
    assert!(server.post("/thing?anything", "k", "prize").is_replay());
    assert_eq!(server.post("/thing", "k", "refund").status, 422);
}

struct SmallBudget(Budget);

impl Configure for SmallBudget {
    fn policy<R: 'static>(&self, _: fn(&R) -> Option<Scope>) -> Policy<R> {
        Policy::new(Scope::global()).request_limit(3000).response_limit(3000).budget(self.0.clone())
    }
}

fn budget(kind: Kind) {
    let (store, budget) = (Breakable::new(), Budget::new(4000));
    let server = Server::start(kind, store.clone(), SmallBudget(budget.clone()));
    let mut slow = client::connect(&server.address);
    slow.write_all(b"POST /thing HTTP/1.1\r\nhost: x\r\nidempotency-key: a\r\nconnection: close\r\ncontent-length: 2501\r\n\r\n")
        .unwrap();
    slow.write_all(&[b'x'; 2500]).unwrap();
    wait_until(|| budget.used() >= 2500);
    let refused = server.post("/thing", "b", &"x".repeat(600));
    assert_eq!(refused.problem(), (503, "idempotency_unavailable".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!((server.app.begun("/thing"), store.records()), (0, 0));
    slow.write_all(b"x").unwrap();
    assert_eq!(client::read(&mut slow).unwrap().status, 201);
    wait_until(|| budget.used() == 0);
    assert_eq!(server.post("/thing", "b", &"x".repeat(600)).status, 201);
    wait_until(|| budget.used() == 0);
}

fn budget_while_running(kind: Kind) {
    let budget = Budget::new(4000);
    let server = Server::start(kind, MemoryStore::new(), SmallBudget(budget.clone()));
    thread::scope(|scope| {
        scope.spawn(|| server.post("/slow", "k", &"x".repeat(1000)));
        wait_until(|| server.app.begun("/slow") == 1);
        // An extractor of actix-web copies the payload; what was gathered is gone by now.
        assert_eq!(budget.used() >= 1000, kind != Kind::ActixWeb, "{budget:?}");
        server.app.gate.add_permits(1);
    });
    wait_until(|| budget.used() == 0);
}

fn stored_first(kind: Kind) {
    let store = Breakable::new();
    let tracker = Tracker::builder(store.clone()).put_patience(Duration::from_secs(60));
    let server = Server::start_with(kind, tracker, ByDefault);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for path in ["/thing", "/large", "/large_whole", "/events", "/marked", "/release", "/halt"] {
        let hold = runtime.block_on(store.hold_updates());
        let mut client = client::connect(&server.address);
        client.write_all(&client::request("POST", path, &[(KEY, "k")], b"")).unwrap();
        wait_until(|| server.app.ended(path) == 1);
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let early = client.peek(&mut [0]);
        assert!(early.is_err(), "{path}: {early:?} before the store has it");
        drop(hold);
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let reply = client::read(&mut client).unwrap();
        assert!(reply.whole && reply.status < 600, "{path}: {reply:?}");
    }
}

fn response_budget(kind: Kind) {
    let budget = Budget::new(4000);
    let server = Server::start(kind, MemoryStore::new(), SmallBudget(budget.clone()));
    let mut slow = client::connect(&server.address);
    slow.write_all(b"POST /thing HTTP/1.1\r\nhost: x\r\nidempotency-key: a\r\nconnection: close\r\ncontent-length: 3000\r\n\r\n")
        .unwrap();
    slow.write_all(&[b'x'; 2999]).unwrap();
    wait_until(|| budget.used() >= 2999);
    // Of 4,000 bytes a quarter is left for responses.
    let fits = server.send("POST", "/sized/900", &[(KEY, "k")], b"");
    assert!(fits.whole && fits.body.len() == 900);
    assert!(server.send("POST", "/sized/900", &[(KEY, "k")], b"").is_replay());
    wait_until(|| budget.used() <= 3000);
    let too_large = server.send("POST", "/sized/1500", &[(KEY, "k")], b"");
    assert!(too_large.status == 200 && too_large.whole && too_large.body.len() == 1500);
    let retry = server.send("POST", "/sized/1500", &[(KEY, "k")], b"");
    assert_eq!(retry.problem(), (409, "idempotency_response_unavailable".into()));
    slow.write_all(b"x").unwrap();
    assert_eq!(client::read(&mut slow).unwrap().status, 201);
}

struct Impetuous(Budget);

impl Configure for Impetuous {
    fn policy<R: 'static>(&self, _: fn(&R) -> Option<Scope>) -> Policy<R> {
        Policy::new(Scope::global()).gather_limit(Duration::from_millis(100)).budget(self.0.clone())
    }
}

fn stalled_body(kind: Kind) {
    let budget = Budget::new(4 * 1024 * 1024);
    let server = Server::start(kind, MemoryStore::new(), Impetuous(budget.clone()));
    let mut client = client::connect(&server.address);
    client.write_all(&client::request("POST", "/stalled", &[(KEY, "k")], b"")).unwrap();
    // What is there is sent on, and the client may wait for the rest if it likes.
    let mut begin = [0; 12];
    client.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    let retry = server.post("/stalled", "k", "");
    assert_eq!(retry.problem(), (409, "idempotency_response_unavailable".into()));
    drop(client);
    wait_until(|| budget.used() == 0);
    assert_eq!(server.app.begun("/stalled"), 1);
}

fn detached(kind: Kind) {
    let server = start(kind);
    let mut client = client::connect(&server.address);
    client.write_all(&client::request("POST", "/slow", &[(KEY, "k")], b"")).unwrap();
    wait_until(|| server.app.begun("/slow") == 1);
    drop(client);
    // It counts as a live claim, which a shutdown waits for.
    assert_eq!(server.post("/slow", "k", "").problem(), (409, "idempotency_in_progress".into()));
    server.app.gate.add_permits(1);
    wait_until(|| server.app.ended("/slow") == 1);
    wait_until(|| server.post("/slow", "k", "").status != 409);
    let retry = server.post("/slow", "k", "");
    assert_eq!((retry.status, retry.text().as_str(), retry.is_replay()), (201, "run 1", true));
    assert_eq!(server.app.begun("/slow"), 1);
}

fn cached(kind: Kind) {
    let server = start(kind);
    let first = server.post("/thing", "k", "payload");
    assert_eq!((first.status, first.is_replay()), (201, false));
    for _ in 0..3 {
        let retry = server.post("/thing", "k", "payload");
        assert_eq!((retry.status, retry.is_replay(), &retry.body), (201, true, &first.body));
        for name in
            ["location", "link", "x-binary", "expires", "cache-control", "content-type", "content-length"]
        {
            assert_eq!(retry.all(name), first.all(name), "{name}");
        }
        assert_eq!(retry.all("link"), [&b"<a>; rel=\"x\""[..], b"<b>; rel=\"y\""]);
        assert_eq!(retry.all("x-binary"), [b"\xe4\xf6"]);
    }
    let large = server.post("/chunked", "k", "");
    let retry = server.post("/chunked", "k", "");
    assert!(
        large.whole && large.body.len() == 3 * 64 * 1024 && retry.body == large.body && retry.is_replay()
    );
}

fn processing(kind: Kind) {
    let server = start(kind);
    thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/slow", "k", ""));
        wait_until(|| server.app.begun("/slow") == 1);
        let second = server.post("/slow", "k", "");
        assert_eq!(second.problem(), (409, "idempotency_in_progress".into()));
        assert_eq!(second.json()["retryable"], true);
        let retry_after: u64 = second.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=15).contains(&retry_after), "{retry_after}");
        server.app.gate.add_permits(1);
        assert_eq!(first.join().unwrap().status, 201);
    });
    assert!(server.post("/slow", "k", "").is_replay());
}

configure!(OtherStatuses, |policy, principal| policy
    .status_of(Code::OutcomeUnknown, StatusCode::INTERNAL_SERVER_ERROR)
    .status_of(Code::KeyReused, StatusCode::CONFLICT));

fn halted(kind: Kind) {
    let server = start(kind);
    assert_eq!(server.post("/halt", "k", "").text(), "run 1");
    for _ in 0..2 {
        let retry = server.post("/halt", "k", "");
        assert_eq!(retry.problem(), (409, "idempotency_outcome_unknown".into()));
        assert_eq!((&retry.json()["retryable"], retry.header("retry-after")), (&false.into(), None));
    }
    assert_eq!(server.app.begun("/halt"), 1);
    let server = Server::start(kind, MemoryStore::new(), OtherStatuses);
    server.post("/halt", "k", "");
    assert_eq!(server.post("/halt", "k", "").problem(), (500, "idempotency_outcome_unknown".into()));
    assert_eq!(server.post("/halt", "k", "other").problem(), (409, "idempotency_key_reused".into()));
}

fn mismatch_states(kind: Kind) {
    let server = start(kind);
    let reused = |path: &str| {
        let reply = server.post(path, "k", "another payload");
        assert_eq!(reply.problem(), (422, "idempotency_key_reused".into()), "{path}");
        assert_eq!((&reply.json()["retryable"], reply.header("retry-after")), (&false.into(), None));
    };
    thread::scope(|scope| {
        scope.spawn(|| server.post("/slow", "k", ""));
        wait_until(|| server.app.begun("/slow") == 1);
        reused("/slow");
        server.app.gate.add_permits(1);
    });
    reused("/slow");
    server.post("/halt", "k", "");
    reused("/halt");
    server.post("/large", "k", "");
    reused("/large");
}

fn unavailable(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), ByDefault);
    store.down(true);
    let down = server.post("/thing", "k", "");
    assert_eq!(down.problem(), (503, "idempotency_unavailable".into()));
    assert!(down.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    // Nothing internal is shown.
    assert!(!down.text().contains("secret-host") && !down.text().contains("store"), "{}", down.text());
    store.down(false);
    wait_until(|| server.post("/thing", "k", "").status == 201);
    assert_eq!(server.app.begun("/thing"), 1);

    let crowded = Tracker::builder(MemoryStore::new()).max_in_flight(1);
    let server = Server::start_with(kind, crowded, ByDefault);
    thread::scope(|scope| {
        scope.spawn(|| server.post("/slow", "k", ""));
        wait_until(|| server.app.begun("/slow") == 1);
        let refused = server.post("/thing", "other", "");
        assert_eq!(refused.problem(), (503, "idempotency_unavailable".into()));
        assert_eq!(refused.header("retry-after"), Some("1"));
        server.app.gate.add_permits(1);
    });
    assert_eq!(server.app.begun("/thing"), 0);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.tracker.shutdown(Duration::ZERO)).unwrap();
    assert_eq!(server.post("/thing", "k", "").problem(), (503, "idempotency_unavailable".into()));
    assert_eq!(server.send("GET", "/thing", &[], b"").status, 201);
}

configure!(Documented, |policy, principal| policy.documentation("https://example.com/idempotency"));
configure!(Rendered, |policy, principal| policy.render(|problem| {
    let mut response = http::Response::new(format!("no: {}", problem.code().as_str()).into());
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    response.headers_mut().insert("x-ours", "yes".parse().unwrap());
    response
}));

fn problems(kind: Kind) {
    let reply = start(kind).send("POST", "/thing", &[], b"");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let document = reply.json();
    let mut members: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "detail", "retryable", "status", "title", "type"]);
    assert_eq!(document["status"], 400);
    let link = format!("<{}>; rel=\"describedby\"", document["type"].as_str().unwrap());
    assert_eq!(reply.header("link"), Some(link.as_str()));

    let reply = Server::start(kind, MemoryStore::new(), Documented).send("POST", "/thing", &[], b"");
    assert_eq!(reply.json()["type"], "https://example.com/idempotency#idempotency_key_missing");

    let reply = Server::start(kind, MemoryStore::new(), Rendered).send("POST", "/thing", &[], b"");
    assert_eq!((reply.status, reply.text().as_str()), (418, "no: idempotency_key_missing"));
    assert_eq!(reply.header("x-ours"), Some("yes"));
}

fn kept(kind: Kind) {
    let server = start(kind);
    for status in [
        200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 400, 401, 402, 403, 404, 409, 410, 422, 500, 502,
        503, 504,
    ] {
        replayed(&server, &format!("/status/{status}"), "k", "");
    }
}

fn released(kind: Kind) {
    let server = start(kind);
    for status in [421, 425, 429] {
        let path = format!("/status/{status}");
        for run in 1..=3 {
            let reply = server.post(&path, "k", "");
            assert_eq!(
                (reply.status, reply.text(), reply.is_replay()),
                (status, format!("run {run}"), false)
            );
        }
    }
    // Released means free: also for another payload.
    assert_eq!(server.post("/status/429", "k", "another").text(), "run 4");
    replayed(&server, "/status/428", "k", "");
}

fn timed_out(kind: Kind) {
    let server = start(kind);
    assert_eq!(server.post("/status/408", "k", "").text(), "run 1");
    assert_eq!(server.post("/status/408", "k", "").problem(), (409, "idempotency_outcome_unknown".into()));
    assert_eq!(server.app.begun("/status/408"), 1);
}

fn dispositions(kind: Kind) {
    let server = start(kind);
    for run in 1..=2 {
        assert_eq!(server.post("/release", "k", "").text(), format!("run {run}"));
    }
    replayed(&server, "/keep", "k", "");
    assert_eq!(server.post("/halt", "k", "").status, 200);
    assert_eq!(server.post("/halt", "k", "").status, 409);
}

configure!(ReleaseErrors, |policy, principal| policy.fate_of(|status| match status.is_server_error() {
    true => Fate::Released,
    false => Fate::of(status),
}));

fn fate_of(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), ReleaseErrors);
    for run in 1..=2 {
        assert_eq!(server.post("/status/503", "k", "").text(), format!("run {run}"));
    }
    replayed(&server, "/status/404", "k", "");
}

fn panics(kind: Kind) {
    let server = start(kind);
    let first = server.post("/panic", "k", "");
    assert_eq!(first.problem(), (500, "idempotency_handler_failed".into()));
    assert!(!first.text().contains("planned"));
    for _ in 0..2 {
        assert_eq!(server.post("/panic", "k", "").problem(), (409, "idempotency_outcome_unknown".into()));
    }
    assert_eq!(server.app.begun("/panic"), 1);
    // The server lives.
    replayed(&server, "/thing", "k", "");
}

fn not_kept(kind: Kind) {
    let server = start(kind);
    for (path, len) in [
        ("/large", 24 * 64 * 1024),
        ("/large_whole", 1024 * 1024 + 1),
        ("/events", 2 * 64 * 1024),
        ("/marked", 8),
    ] {
        let first = server.post(path, "k", "");
        assert_eq!((first.status, first.body.len(), first.whole), (200, len, true), "{path}");
        for _ in 0..2 {
            let retry = server.post(path, "k", "");
            assert_eq!(retry.problem(), (409, "idempotency_response_unavailable".into()), "{path}");
            assert_eq!(retry.json()["retryable"], false);
        }
        assert_eq!(server.app.begun(path), 1, "{path}");
    }
}

fn broken_body(kind: Kind) {
    let server = start(kind);
    let mut client = client::connect(&server.address);
    client.write_all(&client::request("POST", "/broken", &[(KEY, "k")], b"")).unwrap();
    let first = client::read(&mut client);
    assert!(first.is_none_or(|reply| !reply.whole), "the client sees that it is not whole");
    assert_eq!(server.post("/broken", "k", "").problem(), (409, "idempotency_outcome_unknown".into()));
    assert_eq!(server.app.begun("/broken"), 1);
}

fn store_fails_after(kind: Kind) {
    let store = Breakable::new();
    let tracker = Tracker::builder(store.clone()).put_patience(Duration::from_millis(50));
    let server = Server::start_with(kind, tracker, ByDefault);
    thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/slow", "k", ""));
        wait_until(|| server.app.begun("/slow") == 1);
        store.down(true);
        server.app.gate.add_permits(1);
        let first = first.join().unwrap();
        assert_eq!((first.status, first.text().as_str()), (201, "run 1"));
    });
    store.down(false);
    wait_until(|| server.post("/slow", "k", "").is_replay());
    assert_eq!(server.app.begun("/slow"), 1);
}

configure!(OnlyLocation, |policy, principal| policy
    .stored_headers(StoredHeaders::only(["location", "set-cookie"])));

fn stored_headers(kind: Kind) {
    let server = start(kind);
    let first = server.post("/thing", "k", "");
    let retry = server.post("/thing", "k", "");
    for name in ["set-cookie", "x-request-id", "x-of-the-connection"] {
        assert_eq!((first.all(name).len(), retry.all(name).len()), (1, 0), "{name}");
    }
    // That it is a replay is ours to say.
    assert!(!server.post("/replayed", "k", "").is_replay() && server.post("/replayed", "k", "").is_replay());
    // Of this moment, not of the first one.
    assert_eq!(retry.all("date").len(), 1);

    let server = Server::start(kind, MemoryStore::new(), OnlyLocation);
    server.post("/thing", "k", "");
    let retry = server.post("/thing", "k", "");
    for (name, count) in [("location", 1), ("set-cookie", 1), ("link", 0), ("cache-control", 0)] {
        assert_eq!(retry.all(name).len(), count, "{name}");
    }
}

fn content_length(kind: Kind) {
    let server = start(kind);
    server.post("/chunked", "k", "");
    let retry = server.post("/chunked", "k", "");
    assert_eq!(retry.header("content-length"), Some("196608"));
    assert_eq!(retry.header("transfer-encoding"), None);
    let first = server.post("/empty", "k", "");
    let retry = server.post("/empty", "k", "");
    for reply in [&first, &retry] {
        assert_eq!((reply.status, reply.body.len()), (204, 0));
    }
    assert_eq!(first.header("content-length"), retry.header("content-length"));
}

configure!(TellsExpiry, |policy, principal| policy.expires_header());

fn expires(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), TellsExpiry);
    let first = server.post("/thing", "k", "");
    let retry = server.post("/thing", "k", "");
    for reply in [&first, &retry] {
        assert_eq!(reply.header("expires"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        let until = httpdate::parse_http_date(reply.header("idempotency-expires").unwrap()).unwrap();
        let now = httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
        let left = until.duration_since(now).unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(left >= day - Duration::from_secs(60) && left <= day + Duration::from_secs(2), "{left:?}");
    }
    assert_eq!(start(kind).post("/thing", "k", "").header("idempotency-expires"), None);
}

fn malformed(kind: Kind) {
    let server = start(kind);
    let tracker = &server.tracker;
    let put = |key: &str, response: StoredResponse| {
        let parts = [&b"POST"[..], b"", b"/thing", key.as_bytes()];
        let id = tracker.request_id(&Scope::global(), parts);
        let payload = tracker.fingerprint([&b""[..], b"", b""]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let once = runtime.block_on(tracker.once(id, payload, || async { Outcome::<()>::Done(response) }));
        assert!(matches!(once, Ok(Once::Done { replayed: false, .. })));
    };
    // A response of a later format; bytes of something else; nothing at all; a header with a line break.
    let bad: [&[u8]; 4] =
        [b"\x08\x02\x10\xc8\x01", b"not ours", b"", b"\x08\x01\x10\xc8\x01\x1a\x09\x0a\x01a\x12\x04b\r\nc"];
    for (number, bytes) in bad.iter().enumerate() {
        let key = format!("bad-{number}");
        put(&key, StoredResponse::new(bytes.to_vec()));
        let reply = server.post("/thing", &key, "");
        assert_eq!(reply.problem(), (503, "idempotency_unavailable".into()), "{number}");
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(server.app.begun("/thing"), 0);
}
