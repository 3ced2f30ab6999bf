//! What applications ask for.

use idempotency::{OnConcurrent, Track};

use super::*;

struct Waiting;

impl Configure for Waiting {
    fn policy<R: 'static>(&self, _: fn(&R) -> Option<Scope>) -> Policy<R> {
        Policy::new(Scope::global())
    }

    fn track(&self, track: Track) -> Track {
        track.on_concurrent(OnConcurrent::Wait { at_most: Duration::from_secs(20) })
    }
}

pub(super) fn wait(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), Waiting);
    let again = |headers: &[(&str, &str)]| {
        let headers = [&[(KEY, "k")], headers].concat();
        server.send("POST", "/slow", &headers, b"")
    };
    thread::scope(|scope| {
        let first = scope.spawn(|| again(&[]));
        wait_until(|| server.app.begun("/slow") == 1);
        // Who is not ready to wait hears at once that somebody works on it; what is no preference shortens nothing.
        for prefer in ["wait=0", "respond-async, wait=0"] {
            let refused = again(&[("prefer", prefer)]);
            assert_eq!(refused.problem(), (409, "idempotency_in_progress".into()), "{prefer}");
        }
        let waiting: Vec<_> = [None, Some("wait=30"), Some("wait=soon")]
            .map(|prefer| scope.spawn(move || again(prefer.map(|prefer| ("prefer", prefer)).as_slice())))
            .into_iter()
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        wait_until(|| runtime.block_on(server.tracker.status()).unwrap().waiting == 3);
        server.app.gate.add_permits(1);
        assert!(!first.join().unwrap().is_replay());
        for waited in waiting {
            let reply = waited.join().unwrap();
            assert_eq!((reply.status, reply.text().as_str(), reply.is_replay()), (201, "run 1", true));
        }
    });
    assert_eq!(server.app.begun("/slow"), 1);
}

configure!(FailingOpen, |policy, principal| policy.fail_open());

pub(super) fn fail_open(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), FailingOpen);
    assert_eq!(server.post("/ours", "before", "").status, 200);
    store.down(true);
    for run in [2, 3] {
        let reply = server.post("/ours", "k", "payload");
        // It has the child keys of every other attempt, and holds nothing.
        let text = reply.text();
        let id = server.tracker.request_id(&Scope::global(), [&b"POST"[..], b"", b"/ours", b"k"]);
        let charge = server.tracker.child_key(&id, "charge").to_string();
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(
            (reply.status, reply.is_replay(), words[1], words[3]),
            (200, false, charge.as_str(), "false")
        );
        assert_eq!(server.app.begun("/ours"), run);
    }
    assert_eq!(server.post("/echo", "k", "payload").text(), "payload");
    // A client that hangs up stops nothing.
    let mut client = client::connect(&server.address);
    client.write_all(&client::request("POST", "/slow", &[(KEY, "k")], b"")).unwrap();
    wait_until(|| server.app.begun("/slow") == 1);
    drop(client);
    server.app.gate.add_permits(1);
    wait_until(|| server.app.ended("/slow") == 1);
    store.down(false);
    wait_until(|| server.post("/ours", "before", "").is_replay());
    // A store that answers is not away: what it has of the request cannot be read.
    store.corrupt(true);
    assert_eq!(server.post("/thing", "k", "").problem(), (503, "idempotency_unavailable".into()));
    assert_eq!(server.app.begun("/thing"), 0);
}

/// Lets only those see a replay who say that they are the first one.
struct Guarded;

impl Configure for Guarded {
    fn policy<R: 'static>(&self, principal: fn(&R) -> Option<Scope>) -> Policy<R> {
        let who =
            move |request: &R| principal(request).map_or_else(Vec::new, |scope| format!("{scope:?}").into());
        // All in one scope, so that it is the guard that tells them apart.
        let noted = move |request: &R| match principal(request) == Some(Scope::principal(["alice"])) {
            true => b"alice".to_vec(),
            false => who(request),
        };
        Policy::new(Scope::global())
            .note(move |request, _| noted(request))
            .guard(move |request, meta| meta.note == noted(request))
    }
}

pub(super) fn guard(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), Guarded);
    let ask = |who: &str| server.send("POST", "/thing", &[(KEY, "k"), ("x-principal", who)], b"");
    let first = ask("alice");
    assert_eq!(first.status, 201);
    let refused = ask("bob");
    assert_eq!(refused.problem(), (403, "idempotency_replay_forbidden".into()));
    assert!(!refused.text().contains("run 1"), "{}", refused.text());
    let retry = ask("alice");
    assert!(retry.is_replay() && retry.body == first.body, "{retry:?}");
    assert_eq!(server.app.begun("/thing"), 1);
}

pub(super) fn handle(kind: Kind) {
    let server = start(kind);
    let text = server.post("/ours", "order-1", "").text();
    let words: Vec<&str> = text.split(' ').collect();
    assert_eq!((words[0], words[3]), ("order-1", "true"), "{text}");
    assert!(words[1] != words[2] && words[1].len() == 36, "{text}");
    assert!(!text.split_once("IdempotentRequest").unwrap().1.contains("order-1"), "{text}");
    // The same at every attempt, and another one for another key.
    let id = server.tracker.request_id(&Scope::global(), [&b"POST"[..], b"", b"/ours", b"order-1"]);
    assert_eq!(server.tracker.child_key(&id, "charge").to_string(), words[1]);
    assert_ne!(server.post("/ours", "order-2", "").text().split(' ').nth(1), Some(words[1]));
    assert_eq!(server.send("GET", "/ours", &[], b"").text(), "untracked");

    for run in ["run 1", "run 2"] {
        let reply = server.post("/says/release", "k", "");
        assert_eq!((reply.status, reply.text().as_str(), reply.is_replay()), (500, run, false));
    }
    replayed(&server, "/says/keep", "k", "");
    // What the response says comes first.
    replayed(&server, "/says/two_things", "k", "");
    assert_eq!(server.post("/says/halt", "k", "").text(), "run 1");
    assert_eq!(server.post("/says/halt", "k", "").problem(), (409, "idempotency_outcome_unknown".into()));
}

struct ByRoute;

impl Configure for ByRoute {
    fn policy<R: 'static>(&self, _: fn(&R) -> Option<Scope>) -> Policy<R> {
        Policy::new(Scope::global()).expires_header()
    }

    fn track(&self, track: Track) -> Track {
        track.retention(Duration::from_secs(7 * 24 * 60 * 60))
    }
}

pub(super) fn tracking(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), ByRoute);
    let reply = server.post("/thing", "k", "");
    let expires = httpdate::parse_http_date(reply.header("idempotency-expires").unwrap()).unwrap();
    let left = time::OffsetDateTime::from(expires) - server.tracker.clock().now();
    assert!(left > time::Duration::days(6) && left <= time::Duration::days(7), "{left:?}");
    let retry = server.post("/thing", "k", "");
    assert!(retry.is_replay());
    assert_eq!(retry.header("idempotency-expires"), reply.header("idempotency-expires"));
}
