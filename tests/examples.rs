//! The examples that run to their end: they print what their comments say.

use std::{
    collections::HashMap,
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use idempotency::{Clock, SystemClock};
use sha2::Sha256;

use crate::support::{Running, example};

fn output_of(name: &str) -> String {
    let output = example(name).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn typed_messages_prints_every_answer() {
    let expected = r#"-- completed
Track:                Init
Track, meanwhile:     Processing
Track, other payload: Mismatch
PutResponse:          Stored
Track, retried:       Cached Some(b"201 Created")
-- halted
Track:                Init
Halt:                 Stored
Track, retried:       Halted (timed_out)
-- a caller that dies
Track:                Init
Track, retried:       Halted (cancelled)
-- released
Track:                Init
Release:              Stored
Track:                Init
PutResponse:          Stored
-- an operator
Lookup:               Completed(StoredResponse { digest: Digest(..), body: Kept(11 bytes) })
Forget:               Forgotten
Lookup:               None
Prune:                0 deleted
Status:               0 live, backend up: true
shut down, 0 unsettled
"#;
    assert_eq!(output_of("typed_messages"), expected);
}

#[test]
fn custom_store_sends_one_mail() {
    let expected = "sending a mail\nSome(b\"sent\"), replayed: false\nSome(b\"sent\"), replayed: true\n";
    assert_eq!(output_of("custom_store"), expected);
}

#[expect(clippy::disallowed_methods, reason = "a real program runs on real time")]
#[test]
fn hot_swap_loses_nothing() {
    // Built first, which is none of its time.
    drop(example("hot_swap"));
    let since = Instant::now();
    let output = output_of("hot_swap");
    eprint!("{output}");
    assert!(since.elapsed() < Duration::from_secs(20), "it ends by itself");
    assert!(output.contains("0 responses lost, 0 run twice"), "{output}");
    assert!(output.contains("the records moved to memory"), "{output}");
    let copied = |line: usize| -> usize {
        let line = output.lines().nth(line).unwrap().rsplit_once(": ").unwrap().1.to_owned();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(copied(1) > 1000 && copied(2) > copied(1), "{output}");
}

#[test]
fn the_store_in_custom_store_has_under_80_lines() {
    let text = include_str!("../examples/custom_store.rs");
    let store = text.split("/// The whole store").nth(1).unwrap().split("#[tokio::main]").next().unwrap();
    let lines = store.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines < 80, "{lines}");
}

#[test]
fn a_service_stops_although_a_client_never_ends_its_request() {
    for name in ["axum_orders", "observability", "webhook_receiver"] {
        let service = Running::start(name, &[]);
        let mut client = TcpStream::connect(&service.address).unwrap();
        client.write_all(b"POST /orders HTTP/1.1\r\nHo").unwrap();
        service.terminate();
        let (status, output) = service.wait();
        assert!(status.success(), "{name}: {status}");
        assert_eq!(output.last().unwrap(), "stopped", "{name}");
    }
}

#[test]
fn observability_shows_a_request_and_its_replay_in_metrics_and_in_spans() {
    let service = Running::start("observability", &[]);
    for _ in 0..2 {
        let charged = ureq::post(format!("http://{}/charges", service.address))
            .header("idempotency-key", "order-1")
            .send("amount=10");
        assert_eq!(charged.unwrap().status(), 200);
    }
    let mut metrics = ureq::get(format!("http://{}/metrics", service.address)).call().unwrap();
    let metrics = metrics.body_mut().read_to_string().unwrap();
    for line in [
        r#"idempotency_requests_total{outcome="init"} 1"#,
        r#"idempotency_requests_total{outcome="cached"} 1"#,
        r#"idempotency_store_call_seconds_count{operation="insert"} 2"#,
        r#"idempotency_store_call_seconds_count{operation="complete"} 1"#,
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} in\n{metrics}");
    }
    service.terminate();
    let (status, output) = service.wait();
    assert!(status.success(), "{status}");

    let spans: Vec<PrintedSpan> = output.join("\n").split("Span #").skip(1).map(PrintedSpan::read).collect();
    let by_id: HashMap<&str, &PrintedSpan> = spans.iter().map(|span| (&*span.id, span)).collect();
    let mut paths: Vec<String> = spans
        .iter()
        .map(|span| {
            let parent = |span: &&PrintedSpan| by_id.get(&*span.parent).copied();
            let path: Vec<&str> = std::iter::successors(Some(span), parent).map(|span| &*span.name).collect();
            path.join(" < ")
        })
        .collect();
    paths.sort();
    let expected = [
        "charge < idempotency < request",
        "idempotency < request",
        "idempotency < request",
        "request",
        "request",
        "settle < idempotency < request",
        "store < settle < idempotency < request",
        "store < track < idempotency < request",
        "store < track < idempotency < request",
        "track < idempotency < request",
        "track < idempotency < request",
    ];
    assert_eq!(paths, expected);
    for (operation, outcome) in [("insert", "claimed"), ("complete", "applied"), ("insert", "exists")] {
        let says = |span: &PrintedSpan, word| span.text.contains(&format!("String(Owned(\"{word}\"))"));
        let is_it =
            |span: &&PrintedSpan| span.name == "store" && says(span, operation) && says(span, outcome);
        assert_eq!(spans.iter().filter(is_it).count(), 1, "{operation}: {outcome}");
    }
    let of = |outcome| {
        spans.iter().find(|span| span.name == "idempotency" && span.text.contains(outcome)).expect(outcome)
    };
    let (done, replayed) =
        (of("outcome: String(Owned(\"done\"))"), of("outcome: String(Owned(\"replayed\"))"));
    let links = by_id[&*replayed.parent].text.split("Links:").nth(1).expect("a link");
    assert!(links.contains(&done.id) && links.contains(&done.trace), "{links}");
    assert_ne!(done.trace, replayed.trace);
}

struct PrintedSpan {
    name: String,
    trace: String,
    id: String,
    parent: String,
    text: String,
}

impl PrintedSpan {
    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).expect(name);
            line.trim_start().trim_start_matches(": ").to_owned()
        };
        // The scope has a name of its own.
        let own = text.split_once("\n\n").expect("two parts").1;
        let name = own.lines().next().unwrap().split_once(": ").unwrap().1.to_owned();
        let (trace, id, parent) = (field("TraceId"), field("SpanId"), field("ParentSpanId"));
        Self { name, trace, id, parent, text: text.to_owned() }
    }
}

#[test]
fn job_queue_does_each_job_once() {
    assert_eq!(output_of("job_queue"), "20 jobs delivered 5 times: 20 done, 80 known already, 20 mails\n");
}

#[test]
fn webhook_receiver_handles_each_event_once_and_only_those_that_are_signed() {
    let receiver = Running::start(
        "webhook_receiver",
        &["--secret", &format!("whsec_{}", BASE64_STANDARD.encode("test"))],
    );
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let deliver = |secret: &str, id: &str, ago: i64, body: &str| {
        let at = (SystemClock::new().now().unix_timestamp() - ago).to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update([id, &at, body].join(".").as_bytes());
        let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        let reply = agent
            .post(format!("http://{}/webhooks", receiver.address))
            .header("webhook-id", id)
            .header("webhook-timestamp", &at)
            .header("webhook-signature", format!("v1,bm90IG91cnM= v1,{signature}"))
            .content_type("application/json")
            .send(body)
            .unwrap();
        reply.status().as_u16()
    };
    let paid =
        |attempt| format!(r#"{{"type":"charge.succeeded","data":{{"amount":10}},"attempt":{attempt}}}"#);
    // Delivered at once and again and again.
    thread::scope(|scope| {
        let deliveries =
            [1, 2, 3, 4].map(|attempt| scope.spawn(move || deliver("test", "evt_1", 0, &paid(attempt))));
        assert_eq!(deliveries.map(|delivery| delivery.join().unwrap()), [204; 4]);
    });
    assert_eq!(deliver("test", "evt_1", 0, &paid(5)), 204);
    // Another event under the same id.
    assert_eq!(deliver("test", "evt_1", 0, r#"{"type":"charge.refunded"}"#), 422);
    // What was not handled is delivered again, and handled then.
    let early = r#"{"type":"charge.disputed","data":{"account":"unknown"}}"#;
    assert_eq!([(); 2].map(|()| deliver("test", "evt_2", 0, early)), [503, 503]);
    assert_eq!(deliver("test", "evt_2", 0, r#"{"type":"charge.disputed"}"#), 204);
    for (secret, ago) in [("other", 0), ("test", 301)] {
        assert_eq!(deliver(secret, "evt_1", ago, &paid(1)), 401);
    }
    let mut handled = agent.get(format!("http://{}/handled", receiver.address)).call().unwrap();
    let handled = handled.body_mut().read_to_string().unwrap();
    assert_eq!(handled, r#"["charge.succeeded","charge.disputed"]"#);
}
