use super::*;

pub(super) fn response_budget(kind: Kind) {
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

pub(super) fn stalled_body(kind: Kind) {
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

pub(super) fn kept(kind: Kind) {
    let server = start(kind);
    for status in [
        200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 400, 401, 402, 403, 404, 409, 410, 422, 500, 502,
        503, 504,
    ] {
        replayed(&server, &format!("/status/{status}"), "k", "");
    }
}

pub(super) fn released(kind: Kind) {
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

pub(super) fn timed_out(kind: Kind) {
    let server = start(kind);
    assert_eq!(server.post("/status/408", "k", "").text(), "run 1");
    assert_eq!(server.post("/status/408", "k", "").problem(), (409, "idempotency_outcome_unknown".into()));
    assert_eq!(server.app.begun("/status/408"), 1);
}

pub(super) fn dispositions(kind: Kind) {
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

pub(super) fn fate_of(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), ReleaseErrors);
    for run in 1..=2 {
        assert_eq!(server.post("/status/503", "k", "").text(), format!("run {run}"));
    }
    replayed(&server, "/status/404", "k", "");
}

pub(super) fn panics(kind: Kind) {
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

pub(super) fn not_kept(kind: Kind) {
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

pub(super) fn broken_body(kind: Kind) {
    let server = start(kind);
    let mut client = client::connect(&server.address);
    client.write_all(&client::request("POST", "/broken", &[(KEY, "k")], b"")).unwrap();
    let first = client::read(&mut client);
    assert!(first.is_none_or(|reply| !reply.whole), "the client sees that it is not whole");
    assert_eq!(server.post("/broken", "k", "").problem(), (409, "idempotency_outcome_unknown".into()));
    assert_eq!(server.app.begun("/broken"), 1);
}

pub(super) fn store_fails_after(kind: Kind) {
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

pub(super) fn stored_headers(kind: Kind) {
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

pub(super) fn content_length(kind: Kind) {
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

pub(super) fn expires(kind: Kind) {
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

pub(super) fn malformed(kind: Kind) {
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
