//! What a payload is, where its content counts.

use idempotency::Secret;

use super::*;

configure!(ByContent, |policy, principal| policy.excluding(["/sent_at"]));
configure!(Telling, |policy, principal| policy.excluding(["/sent_at"]).tell_differences());

const TYPE: &str = "content-type";

fn form(boundary: &str, amount: &str) -> (String, String) {
    let part = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"amount\"\r\n\r\n{amount}\r\n");
    (format!("multipart/form-data; boundary={boundary}"), format!("{part}--{boundary}--\r\n"))
}

pub(super) fn by_content(kind: Kind) {
    let server = Server::start(kind, MemoryStore::new(), ByContent);
    let post = |key: &str, of: &str, body: &str| {
        server.send("POST", "/thing", &[(KEY, key), (TYPE, of)], body.as_bytes())
    };
    let json = r#"{"amount":10.0,"sent_at":"noon","to":{"iban":"DE1","name":"\u0061"}}"#;
    let other_order = r#"{ "to": {"name":"a", "iban":"DE1"}, "sent_at": [1, 2], "amount": 10.0 }"#;
    assert_eq!(post("json", "application/json", json).status, 201);
    for (of, body) in [
        ("application/json", other_order),
        ("Application/JSON; charset=utf-8", json),
        ("application/json", &json.replace(r#""sent_at":"noon","#, "")),
    ] {
        assert!(post("json", of, body).is_replay(), "{of} {body}");
    }
    for (of, body) in [
        ("application/json", json.replace("10.0", "10")),
        ("application/json", json.replace("DE1", "DE2")),
        ("application/vnd.pay+json", json.to_owned()),
        ("text/plain", json.to_owned()),
    ] {
        assert_eq!(post("json", of, &body).problem(), (422, "idempotency_key_reused".into()), "{of} {body}");
    }
    // No two large integers are one.
    assert_eq!(post("large", "application/json", "9007199254740992").status, 201);
    assert_eq!(post("large", "application/json", "9007199254740993").status, 422);

    let (of, body) = form("one", "10");
    assert_eq!(post("form", &of, &body).status, 201);
    let (of, body) = form("another", "10");
    assert!(post("form", &of, &body).is_replay());
    let (of, body) = form("another", "11");
    assert_eq!(post("form", &of, &body).status, 422);

    // Only whoever decodes it can read it; nothing at all is nothing.
    let encoded = |encoding: &str| {
        let headers = [(KEY, "gzip"), (TYPE, "application/json"), ("content-encoding", encoding)];
        server.send("POST", "/thing", &headers, b"no JSON").status
    };
    assert_eq!([encoded("gzip"), encoded("gzip"), encoded("br")], [201, 201, 422]);
    assert_eq!(post("empty", "application/json", "").status, 201);
    assert_eq!(post("empty", "application/json", "{}").status, 422);

    // Anything else is what its bytes are.
    assert_eq!(post("text", "text/plain", "a b").status, 201);
    assert_eq!(post("text", "text/plain", "a  b").status, 422);
}

pub(super) fn unreadable(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), ByContent);
    let deep = "[".repeat(100_000);
    let bad = [
        r#"{"amount":10,"amount":90}"#,
        r#"{"a":{"b":1,"\u0062":2}}"#,
        r#"{"amount":10"#,
        r#"{"amount":010}"#,
        r#"{"amount":10} "#.trim_end_matches(' ').trim_end_matches('}'),
        "{}{}",
        "\u{feff}\u{feff}{}",
        "[1,]",
        &deep,
    ];
    for body in bad {
        let headers = [(KEY, "k"), (TYPE, "application/json")];
        let reply = server.send("POST", "/thing", &headers, body.as_bytes());
        assert_eq!(reply.problem(), (400, "idempotency_payload_invalid".into()), "{body}");
        assert_eq!(reply.json()["retryable"], false);
    }
    for (of, body) in [("multipart/form-data", "x"), ("multipart/form-data; boundary=b", "no part at all")] {
        let reply = server.send("POST", "/thing", &[(KEY, "k"), (TYPE, of)], body.as_bytes());
        assert_eq!(reply.problem(), (400, "idempotency_payload_invalid".into()), "{of}");
    }
    assert_eq!((server.app.begun("/thing"), store.records()), (0, 0));
}

pub(super) fn differences(kind: Kind) {
    let tracker = Tracker::builder(MemoryStore::new()).secret(Secret::new([7; 32]));
    let server = Server::start_with(kind, tracker, Telling);
    let post = |path: &str, of: &str, body: &str| {
        server.send("POST", path, &[(KEY, "k"), (TYPE, of)], body.as_bytes())
    };
    let json = "application/json";
    let first = r#"{"amount":"canary-10","sent_at":{"zone":[1]},"to":{"iban":"canary-DE1","name":"a"},"tags":["x","y"]}"#;
    assert_eq!(post("/thing", json, first).status, 201);
    let of = |body: &str| {
        let reply = post("/thing", json, body);
        assert_eq!(reply.status, 422, "{body}");
        assert!(!reply.text().contains("canary"), "{}", reply.text());
        reply.json()["differences"].clone()
    };
    let pointers = |pointers: &[&str]| serde_json::Value::from(pointers);
    assert_eq!(of(&first.replace("10", "11")), pointers(&["/amount"]));
    // What does not count is not named, however deep it is.
    let later = first.replace("[1]", "[2]");
    assert_eq!(of(&later.replace("10", "11")), pointers(&["/amount"]));
    assert!(post("/thing", json, &later).is_replay());
    assert_eq!(
        of(&first.replace("DE1", "DE2").replace("\"y\"", "\"y\",\"z\"")),
        pointers(&["/to/iban", "/tags/2"])
    );
    assert_eq!(of(&first.replace("tags", "labels")), pointers(&["/labels/0", "/labels/1"]));
    assert_eq!(
        post("/thing", "text/plain", first).json()["differences"],
        pointers(&["body", "content-type"])
    );
    let another_query = server.send("POST", "/thing?x=1", &[(KEY, "k"), (TYPE, json)], first.as_bytes());
    assert_eq!(another_query.json()["differences"], pointers(&["query"]));
    // By default nothing is told.
    let server = start(kind);
    server.post("/thing", "k", "one");
    assert_eq!(server.post("/thing", "k", "other").json().get("differences"), None);
}
