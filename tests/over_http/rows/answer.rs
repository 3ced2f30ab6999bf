use super::*;

pub(super) fn stored_first(kind: Kind) {
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

pub(super) fn detached(kind: Kind) {
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

pub(super) fn cached(kind: Kind) {
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

pub(super) fn processing(kind: Kind) {
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

pub(super) fn halted(kind: Kind) {
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

pub(super) fn mismatch_states(kind: Kind) {
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

pub(super) fn unavailable(kind: Kind) {
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

pub(super) fn problems(kind: Kind) {
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
