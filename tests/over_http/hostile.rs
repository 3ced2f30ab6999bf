//! What a hostile client tries, and what nobody must ever find.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use idempotency::MemoryStore;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::support::{Running, example, soak};

use super::{
    app::wait_until,
    client,
    servers::{ByDefault, Kind, Server},
    store::Breakable,
};

/// Lines that no tracked request may have, or not so many of.
const MALFORMED: [&[u8]; 30] = [
    b"",
    b"idempotency-key:",
    b"idempotency-key: ",
    b"idempotency-key: \"\"",
    b"idempotency-key: \"",
    b"idempotency-key: \"k",
    b"idempotency-key: k\"",
    b"idempotency-key: k k",
    b"idempotency-key: k\tk",
    b"idempotency-key: k,k",
    b"idempotency-key: k;p=1",
    b"idempotency-key: \"k\";p",
    b"idempotency-key: \"k\", \"l\"",
    b"idempotency-key: \"k\\n\"",
    b"idempotency-key: \"k\\",
    b"idempotency-key: k\\k",
    b"idempotency-key: k\"k",
    b"idempotency-key: a;b",
    b"idempotency-key: \"a\" b",
    b"idempotency-key: (a b)",
    b"idempotency-key: \xc3\xbc",
    b"idempotency-key: \xff",
    b"idempotency-key: \"\xc3\xbc\"",
    b"idempotency-key: a\r\nidempotency-key: a",
    b"idempotency-key: a\r\nIdempotency-Key: b",
    b"idempotency-key: \"a\"\r\nidempotency-key: a",
    b"idempotency-key: a\r\nidempotency-key:",
    b"Idempotency-Key: {\"a\":1}",
    b"idempotency-key: \x7f",
    b"x-idempotency-key: a",
];

#[test]
fn thirty_malformed_requests_are_refused_without_a_call_of_the_store() {
    for kind in Kind::ADAPTERS {
        let store = Breakable::new();
        let server = Server::start(kind, store.clone(), ByDefault);
        let before = store.calls();
        let long = format!("idempotency-key: {}", "k".repeat(256));
        for line in MALFORMED.into_iter().chain([long.as_bytes()]) {
            let head = b"POST /thing HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n";
            let end = if line.is_empty() { &b"\r\nbody"[..] } else { b"\r\n\r\nbody" };
            let reply = client::send(&server.address, &[head, line, end].concat());
            assert_eq!(reply.status, 400, "{kind}: {}", String::from_utf8_lossy(line));
        }
        assert_eq!((store.calls(), server.app.begun("/thing")), (before, 0), "{kind}");
        assert_eq!(server.post("/thing", "k", "body").status, 201);
        assert!(store.calls() > before, "or the count shows nothing");
    }
}

/// Heads and bodies with bytes changed, added, left out and repeated: nothing is run twice, and the server goes on.
#[test]
fn a_thousand_garbled_requests_leave_the_server_as_it_was() {
    for kind in Kind::ADAPTERS {
        let server = Server::start(kind, MemoryStore::new(), ByDefault);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for worker in 0..4 {
                let (server, next) = (&server, &next);
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(worker);
                    while next.fetch_add(1, Ordering::Relaxed) < 1000 * soak(20) {
                        let mut bytes = client::request(
                            "POST",
                            "/echo",
                            &[("idempotency-key", "\"a-key\"")],
                            b"a payload",
                        );
                        for _ in 0..random.random_range(1..6) {
                            let at = random.random_range(0..bytes.len());
                            match random.random_range(0..4) {
                                0 => bytes[at] = random.random(),
                                1 => bytes.insert(at, random.random()),
                                2 => drop(bytes.remove(at)),
                                _ => bytes.extend_from_within(at..),
                            }
                        }
                        let mut stream = client::connect(&server.address);
                        let _ = stream.write_all(&bytes);
                        // An unfinished request is not waited for.
                        let _ = stream.shutdown(std::net::Shutdown::Write);
                        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                        let mut answer = Vec::new();
                        let _ = stream.read_to_end(&mut answer);
                        let text = String::from_utf8_lossy(&answer);
                        assert!(
                            !text.contains("HTTP/1.1 500") && !text.contains("panicked"),
                            "{kind}: {text}"
                        );
                    }
                });
            }
        });
        assert_eq!(server.app.most_begun(), 1, "{kind}: nothing is run twice");
        // As it was meant to be: it has run by now, or does, and is replayed. What came garbled may have the key for another
        // payload.
        let post = || server.post("/echo", "a-key", "a payload");
        // One whose client hung up may still run.
        wait_until(|| post().code() != "idempotency_in_progress");
        let [first, again] = [(); 2].map(|()| post());
        match first.status {
            200 => assert!(again.is_replay() && again.text() == "a payload", "{kind}: {again:?}"),
            status => assert_eq!((status, again.status), (422, 422), "{kind}"),
        }
        assert_eq!(server.app.most_begun(), 1, "{kind}");
    }
}

const KEY: &str = "canary-of-a-key-5b1d";
const BODY: &str = "canary-of-a-body-77e0";
const TOKEN: &str = "canary-of-a-password-c0de";

/// As text, as hexadecimal digits, as a list of numbers, and in base 64.
fn forms(secret: &str) -> [String; 5] {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let hex = |format: fn(u8) -> String| secret.bytes().map(format).collect::<String>();
    let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
    // Whole groups of three bytes are the same wherever the text stands.
    let based = BASE64_STANDARD.encode(&secret[..secret.len() / 3 * 3]);
    [
        secret.to_owned(),
        hex(|byte| format!("{byte:02x}")),
        hex(|byte| format!("{byte:02X}")),
        numbers.join(", "),
        based,
    ]
}

fn assert_not_in(secrets: &[&str], bytes: &[u8], place: &str) {
    for secret in secrets {
        for form in forms(secret) {
            let is_there = bytes.windows(form.len()).any(|window| window == form.as_bytes());
            assert!(!is_there, "{secret} is in {place} as {form}");
        }
    }
}

#[test]
fn no_log_no_metric_and_no_store_ever_shows_a_key_and_no_log_a_body() {
    let folder = tempfile::tempdir().unwrap();
    let log_of = |name: &str| folder.path().join(format!("{name}.log"));
    let traced = |name: &str, args: &[&str]| {
        let mut command = example(name);
        let log = fs::File::create(log_of(name)).unwrap();
        command.current_dir(folder.path()).args(args).env("RUST_LOG", "trace").stderr(Stdio::from(log));
        Running::start_as(command)
    };
    // actix-web on a file, with passwords, in every state that has a message of its own.
    let users = format!("alice:{TOKEN}");
    let payments = traced("payments", &["--users", &users]);
    let authorization = {
        use base64::{Engine, prelude::BASE64_STANDARD};
        format!("Basic {}", BASE64_STANDARD.encode(&users))
    };
    let simulate =
        |outcome: &str| format!(r#"{{"amount":10,"currency":"EUR","simulate":{{"outcome":"{outcome}"}}}}"#);
    let bodies = [
        simulate("ok"),
        simulate("declined"),
        simulate("provider_down"),
        simulate("panic"),
        format!(r#"{{"amount":"{BODY}"}}"#),
        BODY.to_owned(),
    ];
    for (number, body) in bodies.iter().enumerate() {
        let key = format!("{KEY}-{number}");
        for body in [body.as_str(), body, BODY] {
            let headers = [("idempotency-key", key.as_str()), ("authorization", authorization.as_str())];
            client::send(&payments.address, &client::request("POST", "/payments", &headers, body.as_bytes()));
        }
        for bad in [format!("{KEY} {KEY}"), format!("\"{KEY}"), format!("{KEY},{KEY}")] {
            let headers = [("idempotency-key", bad.as_str()), ("authorization", authorization.as_str())];
            client::send(&payments.address, &client::request("POST", "/payments", &headers, body.as_bytes()));
        }
    }
    payments.terminate();
    let (_, output) = payments.wait();
    let log = fs::read(log_of("payments")).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("tracked"), "it is logged what happens");
    assert_not_in(&[KEY, BODY, TOKEN], &log, "the log");
    assert_not_in(&[KEY, BODY, TOKEN], output.join("\n").as_bytes(), "what is printed");
    assert_not_in(&[KEY], &fs::read(folder.path().join("payments.redb")).unwrap(), "the store");

    // axum, with spans and metrics.
    let service = traced("observability", &[]);
    for body in [BODY, BODY, "another"] {
        client::send(
            &service.address,
            &client::request("POST", "/charges", &[("idempotency-key", KEY)], body.as_bytes()),
        );
    }
    let metrics = client::send(&service.address, &client::request("GET", "/metrics", &[], b""));
    assert!(metrics.text().contains("idempotency_requests_total"));
    assert_not_in(&[KEY, BODY], &metrics.body, "the metrics");
    service.terminate();
    let (_, output) = service.wait();
    let spans = output.join("\n");
    assert!(spans.contains("mismatch"), "it is shown what happens");
    assert_not_in(&[KEY, BODY], spans.as_bytes(), "the spans");
    assert!(Path::new(&log_of("observability")).exists());
}
