//! The main job over real HTTP: one charge, however often it is asked.

use std::{fs, io::Write, net::TcpStream, path::Path, process::Stdio, thread, time::Duration};

use crate::support::*;

const TEN: &str = r#"{"amount":1000,"currency":"EUR"}"#;
const NINETY: &str = r#"{"amount":9000,"currency":"EUR"}"#;

fn simulate(outcome: &str, delay_ms: u64) -> String {
    format!(r#"{{"amount":500,"currency":"EUR","simulate":{{"delay_ms":{delay_ms},"outcome":"{outcome}"}}}}"#)
}

#[test]
fn the_same_payment_twice_is_one_charge_and_the_same_answer() {
    let payments = Payments::start(&[]);
    let first = payments.post("order-1", TEN);
    assert_eq!((first.status, first.replayed), (201, false));
    assert_eq!(first.json()["amount"], 1000);
    let retry = payments.post("order-1", TEN);
    assert_eq!(retry, Reply { replayed: true, ..first.clone() });
    // The quoted form is the same key.
    assert_eq!(payments.post("\"order-1\"", TEN), retry);
    assert_eq!(payments.ledger().len(), 1);
    let (status, charge) = payments.get(&first.location.unwrap());
    assert_eq!((status, charge.trim()), (200, first.body.trim()));
}

#[test]
fn two_hundred_at_once_are_one_charge() {
    let payments = Payments::start(&[]);
    let body = simulate("ok", 200);
    let replies: Vec<Reply> = thread::scope(|scope| {
        let callers: Vec<_> = (0..200).map(|_| scope.spawn(|| payments.post("order-1", &body))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(replies.iter().filter(|reply| reply.status == 201 && !reply.replayed).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!((reply.status, reply.code().as_str()), (409, "idempotency_in_progress"));
        assert!(reply.retry_after.is_some_and(|seconds| seconds > 0));
    }
    assert_eq!(payments.ledger().len(), 1);
}

#[test]
fn another_payload_under_the_key_is_refused_also_while_the_first_one_runs() {
    let payments = Payments::start(&[]);
    thread::scope(|scope| {
        scope.spawn(|| payments.post("running", &simulate("ok", 1000)));
        payments.wait_for_in_flight(1);
        let reused = payments.post("running", NINETY);
        assert_eq!((reused.status, reused.code().as_str()), (422, "idempotency_key_reused"));
    });
    assert_eq!(payments.post("running", NINETY).status, 422);
    assert_eq!(payments.ledger().len(), 1);
}

#[test]
fn a_payment_that_dies_after_the_charge_is_not_charged_again() {
    let payments = Payments::start(&[]);
    let body = simulate("panic", 0);
    let first = payments.post("order-1", &body);
    assert_eq!(first.status, 500);
    for _ in 0..3 {
        let retry = payments.post("order-1", &body);
        assert_eq!((retry.status, retry.code().as_str()), (409, "idempotency_outcome_unknown"));
        assert_eq!((retry.json()["retryable"].as_bool(), retry.retry_after), (Some(false), None));
    }
    assert_eq!(payments.ledger().len(), 1);
}

#[test]
fn a_refusal_is_a_result_and_is_replayed_without_a_charge() {
    let payments = Payments::start(&[]);
    for (outcome, status) in [("declined", 402), ("provider_down", 502)] {
        let first = payments.post(outcome, &simulate(outcome, 0));
        assert_eq!((first.status, first.replayed), (status, false));
        assert_eq!(payments.post(outcome, &simulate(outcome, 0)), Reply { replayed: true, ..first });
    }
    assert_eq!(payments.ledger().len(), 0);
}

/// A client that has sent its payment and waits.
fn hang_on(payments: &Payments, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(&payments.address).unwrap();
    write!(
        client,
        "POST /payments HTTP/1.1\r\nHost: x\r\nIdempotency-Key: order-1\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    client
}

#[test]
fn a_client_that_hangs_up_gets_the_answer_when_it_comes_back() {
    let payments = Payments::start(&[]);
    let body = simulate("ok", 2000);
    let client = hang_on(&payments, &body);
    payments.wait_for_in_flight(1);
    drop(client);
    let meanwhile = payments.post("order-1", &body);
    assert_eq!((meanwhile.status, meanwhile.code().as_str()), (409, "idempotency_in_progress"));
    payments.wait_for_in_flight(0);
    let retry = payments.post("order-1", &body);
    assert_eq!((retry.status, retry.replayed), (201, true));
    assert_eq!(payments.ledger().len(), 1);
}

#[test]
fn bad_requests_are_told_what_is_wrong_and_charge_nothing() {
    let payments = Payments::start(&[]);
    assert_eq!(payments.post_with(&[], TEN).code(), "idempotency_key_missing");
    let long = "x".repeat(256);
    let two = [("idempotency-key", "a"), ("idempotency-key", "b")];
    for headers in [
        &two[..],
        &[("idempotency-key", "two words")],
        &[("idempotency-key", "\"abc")],
        &[("idempotency-key", "\"abc\";p=1")],
        &[("idempotency-key", "abc, def")],
        &[("idempotency-key", "schl\u{fc}ssel")],
        &[("idempotency-key", "")],
        &[("idempotency-key", &long)],
    ] {
        let reply = payments.post_with(headers, TEN);
        assert_eq!((reply.status, reply.code().as_str()), (400, "idempotency_key_invalid"), "{headers:?}");
    }
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        r#"{"amount":0,"currency":"EUR"}"#,
        r#"{"amount":-1,"currency":"EUR"}"#,
        r#"{"amount":1,"currency":"eur"}"#,
        r#"{"amount":1,"currency":"EUR","extra":1}"#,
        r#"{"amount":1,"currency":"EUR","simulate":{"outcome":"miracle"}}"#,
    ];
    for body in bodies {
        let reply = payments.post("order-1", body);
        assert_eq!((reply.status, reply.code().as_str()), (400, "payment_invalid"), "{body}");
    }
    let large = payments.post("order-1", &" ".repeat(3 * 1024 * 1024));
    assert_eq!((large.status, large.code().as_str()), (413, "idempotency_payload_too_large"));
    assert_eq!(payments.ledger().len(), 0);
    // None of them used the key up.
    assert_eq!(payments.post("order-1", TEN).status, 201);
}

#[test]
fn two_users_with_one_key_are_two_charges_and_nobody_is_401() {
    let payments = Payments::start(&["--users", "alice:secret,bob:secret"]);
    let with = |credentials: &str| {
        let basic = format!("Basic {credentials}");
        payments.post_with(&[("idempotency-key", "order-1"), ("authorization", &basic)], TEN)
    };
    let (alice, bob) = ("YWxpY2U6c2VjcmV0", "Ym9iOnNlY3JldA==");
    let first = with(alice);
    assert_eq!((first.status, first.replayed), (201, false));
    let other = with(bob);
    assert_eq!((other.status, other.replayed), (201, false));
    assert_ne!(first.body, other.body);
    assert_eq!(with(alice), Reply { replayed: true, ..first });
    assert_eq!(with(bob), Reply { replayed: true, ..other });
    // Nobody, a wrong password, a user that does not exist, no credentials at all.
    for wrong in ["", "YWxpY2U6d3Jvbmc=", "Y2Fyb2w6c2VjcmV0", "OnNlY3JldA==", "?"] {
        assert_eq!(with(wrong).status, 401, "{wrong}");
    }
    assert_eq!(payments.post("order-1", TEN).status, 401);
    assert_eq!(payments.get("/payments").0, 401);
    assert_eq!(payments.get("/health").0, 200);
}

#[test]
fn at_a_shutdown_the_requests_in_flight_finish() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let payments = Payments::start(&["--ledger", ledger.to_str().unwrap()]);
    let answered = thread::scope(|scope| {
        let running = scope.spawn(|| payments.post("order-1", &simulate("ok", 1500)));
        payments.wait_for_in_flight(1);
        payments.terminate();
        running.join().unwrap()
    });
    assert_eq!(answered.status, 201);
    let (status, output) = payments.wait();
    assert!(status.success(), "{status}");
    assert_eq!(output.last().unwrap(), "stopped, 0 payments left unsettled");
    assert_eq!(fs::read_to_string(&ledger).unwrap().lines().count(), 1);
    // The ledger is read again by the next one.
    let next = Payments::start(&["--ledger", ledger.to_str().unwrap()]);
    assert_eq!(next.ledger().len(), 1);
}

#[test]
fn at_a_shutdown_a_payment_whose_client_hung_up_finishes_too() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let payments = Payments::start(&["--ledger", ledger.to_str().unwrap()]);
    let client = hang_on(&payments, &simulate("ok", 2000));
    payments.wait_for_in_flight(1);
    drop(client);
    payments.terminate();
    let (status, output) = payments.wait();
    assert!(status.success(), "{status}");
    assert_eq!(output.last().unwrap(), "stopped, 0 payments left unsettled");
    assert_eq!(fs::read_to_string(&ledger).unwrap().lines().count(), 1);
}

#[test]
fn after_kill_9_a_retry_is_still_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let payments = Payments::start_in(folder.path(), &[]);
    let first = payments.post("order-1", TEN);
    assert_eq!((first.status, first.replayed), (201, false));
    payments.kill();
    let payments = Payments::start_in(folder.path(), &[]);
    assert_eq!(payments.post("order-1", TEN), Reply { replayed: true, ..first });
    assert_eq!(payments.post("order-1", NINETY).code(), "idempotency_key_reused");
    assert_eq!(payments.ledger().len(), 1);
}

/// Killed while it works on `order-1`, and started again.
fn killed_at_work(folder: &Path, args: &[&str], body: &str) -> Payments {
    let payments = Payments::start_in(folder, args);
    let client = hang_on(&payments, body);
    payments.wait_for_in_flight(1);
    payments.kill();
    drop(client);
    Payments::start_in(folder, args)
}

/// Asks until the answer is another one than that somebody is at it.
fn once_the_lease_has_lapsed(payments: &Payments, body: &str) -> (usize, Reply) {
    let mut in_progress = 0;
    loop {
        let retry = payments.post("order-1", body);
        if retry.code() != "idempotency_in_progress" {
            return (in_progress, retry);
        }
        assert_eq!(retry.status, 409);
        assert!(matches!(retry.retry_after, Some(1 | 2)), "{retry:?}");
        in_progress += 1;
        // Real time, for a real process.
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_payment_that_was_killed_half_way_is_in_progress_until_its_lease_lapses_and_then_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let body = simulate("ok", 5000);
    let payments = killed_at_work(folder.path(), &["--lease-ms", "1500"], &body);
    let (in_progress, retry) = once_the_lease_has_lapsed(&payments, &body);
    assert!(in_progress > 0);
    assert_eq!((retry.status, retry.code().as_str()), (409, "idempotency_outcome_unknown"));
    assert_eq!(payments.post("order-1", &body).code(), "idempotency_outcome_unknown");
    assert_eq!(payments.ledger().len(), 0);
}

#[test]
fn by_policy_a_payment_that_was_killed_half_way_runs_again() {
    let folder = tempfile::tempdir().unwrap();
    let body = simulate("ok", 500);
    let args = ["--lease-ms", "1500", "--on-orphan", "rerun"];
    let payments = killed_at_work(folder.path(), &args, &body);
    let (_, retry) = once_the_lease_has_lapsed(&payments, &body);
    assert_eq!((retry.status, retry.replayed), (201, false));
    assert_eq!(payments.post("order-1", &body), Reply { replayed: true, ..retry });
    assert_eq!(payments.ledger().len(), 1);
}

#[test]
fn two_processes_on_one_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Payments::start_in(folder.path(), &[]);
    let second = example("payments")
        .current_dir(folder.path())
        .args(["--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success() && stderr.contains("another process has the file open"), "{stderr}");
}

#[test]
fn after_the_retention_a_key_is_new_again() {
    let payments = Payments::start(&["--store", "memory", "--lease-ms", "60", "--retention-ms", "150"]);
    assert!(!payments.post("order-1", TEN).replayed);
    // A real server's real time is the point here.
    thread::sleep(Duration::from_millis(160));
    let later = payments.post("order-1", TEN);
    assert_eq!((later.status, later.replayed), (201, false));
}

#[test]
fn work_longer_than_the_lease_keeps_its_claim() {
    let payments = Payments::start(&["--store", "memory", "--lease-ms", "300", "--on-orphan", "rerun"]);
    let body = simulate("ok", 1500);
    thread::scope(|scope| {
        let first = scope.spawn(|| payments.post("order-1", &body));
        payments.wait_for_in_flight(1);
        while payments.in_flight() == 1 {
            let meanwhile = payments.post("order-1", &body);
            assert!(meanwhile.status == 409 || meanwhile.replayed, "{meanwhile:?}");
        }
        assert_eq!(first.join().unwrap().status, 201);
    });
    assert_eq!(payments.ledger().len(), 1);
}

#[test]
fn bad_arguments_and_a_taken_port_are_clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    let running = Payments::start(&[]);
    let cases: [(&[&str], &str); 15] = [
        (&["--listen", &running.address], "cannot listen on"),
        (&["--listen", "nowhere"], "invalid value 'nowhere'"),
        (&["--store", "mysql://localhost"], "a store is `redb:FILE`, `postgres://HOST`, `redis://HOST` or"),
        (&["--store", "postgres://127.0.0.1?durabillity=power_loss"], "the URL of the server makes no sense"),
        (&["--store", "postgres://postgres.example"], "postgres.example is another machine"),
        (&["--store", "postgres://nobody@127.0.0.1:1"], "the server cannot be reached"),
        (&["--store", "redis://127.0.0.1?durabillity=power_loss"], "an option that this store does not know"),
        (&["--store", "redis://redis.example"], "redis.example is another machine"),
        (&["--store", "redis://127.0.0.1:1"], "the server cannot be reached"),
        (&["--store", "redb:/nonexistent/folder/file"], "the store /nonexistent/folder/file cannot be used"),
        (&["--lease-ms", "0"], "0 is not in"),
        (&["--ledger", "/nonexistent/folder/ledger"], "cannot be used"),
        (&["--on-orphan", "perhaps"], "possible values: halt, rerun"),
        (&["--users", "alice"], "name:password"),
        (&["--users", "alice:a,alice:b"], "alice is there twice"),
    ];
    let secret = "redis://payments:s3cr3t@127.0.0.1?nonsense=1";
    let output = example("payments").current_dir(folder.path()).args(["--store", secret]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("an option that this store does not know") && !stderr.contains("s3cr3t"),
        "{stderr}"
    );
    for (args, message) in cases {
        let output =
            example("payments").current_dir(folder.path()).args(args).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
    let help = example("payments").arg("--help").output().unwrap();
    assert!(help.status.success());
    for option in
        ["--listen", "--store", "--ledger", "--lease-ms", "--retention-ms", "--on-orphan", "--users"]
    {
        assert!(String::from_utf8_lossy(&help.stdout).contains(option), "{option}");
    }
}
