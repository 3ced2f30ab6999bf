use super::*;

pub(super) fn methods(kind: Kind) {
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

pub(super) fn methods_by_option(kind: Kind) {
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

pub(super) fn header_name(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), OtherHeader);
    assert_eq!(server.post("/thing", "k", "").problem(), (400, "idempotency_key_missing".into()));
    for replay in [false, true] {
        assert_eq!(server.send("POST", "/thing", &[("X-Request-Key", "k")], b"").is_replay(), replay);
    }
}

pub(super) fn one_key(kind: Kind) {
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

pub(super) fn key_length(kind: Kind) {
    let server = start(kind);
    for (len, status) in [(0, 400), (1, 201), (255, 201), (256, 400), (3000, 400)] {
        assert_eq!(server.post("/thing", &"x".repeat(len), "").status, status, "{len}");
    }
    let all: String = (0x21..=0x7eu8).map(char::from).filter(|c| !r#""\,;"#.contains(*c)).collect();
    replayed(&server, "/all", &all, "");
}

pub(super) fn bad_keys(kind: Kind) {
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

pub(super) fn key_rule(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), Uuids);
    replayed(&server, "/thing", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", "");
    let reply = server.post("/other", "order-1", "");
    assert_eq!(reply.problem(), (400, "idempotency_key_invalid".into()));
    assert!(reply.json()["detail"].as_str().unwrap().contains("UUID"));
}

configure!(Optional, |policy, principal| policy.optional());

pub(super) fn no_header(kind: Kind) {
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

pub(super) fn scopes(kind: Kind) {
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

pub(super) fn other_request(kind: Kind) {
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

pub(super) fn by_host(kind: Kind) {
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

pub(super) fn mismatches(kind: Kind) {
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

pub(super) fn payload_passes(kind: Kind) {
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

pub(super) fn payload_limit(kind: Kind) {
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

pub(super) fn payload_time(kind: Kind) {
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

pub(super) fn payload_broken(kind: Kind) {
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

pub(super) fn custom_hash(kind: Kind) {
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

pub(super) fn budget(kind: Kind) {
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

pub(super) fn budget_while_running(kind: Kind) {
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
