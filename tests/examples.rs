//! The examples that run to their end: they print what their comments say.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

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
fn axum_orders_stops_although_a_client_never_ends_its_request() {
    let orders = Running::start("axum_orders", &[]);
    let mut client = TcpStream::connect(&orders.address).unwrap();
    client.write_all(b"POST /orders HTTP/1.1\r\nHo").unwrap();
    orders.terminate();
    let (status, output) = orders.wait();
    assert!(status.success(), "{status}");
    assert_eq!(output.last().unwrap(), "stopped");
}
