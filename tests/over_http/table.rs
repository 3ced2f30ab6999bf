//! Runs the rows against every adapter, and prints what came of each.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use super::{
    rows::{Check, ROWS},
    servers::Kind,
};

fn passes(check: Check, kind: Kind) -> bool {
    catch_unwind(AssertUnwindSafe(|| check(kind))).is_ok()
}

#[test]
fn every_row_holds_for_every_adapter() {
    let width = ROWS.iter().map(|(row, _)| row.len()).max().unwrap();
    let mut failed = Vec::new();
    let mut lines = vec![format!("{:width$} {:>10} {:>6} {:>6}", "row", "actix-web", "axum", "hyper")];
    for (row, check) in ROWS {
        let results = Kind::ADAPTERS.map(|kind| {
            let passed = passes(*check, kind);
            if !passed {
                failed.push(format!("{row}: {kind}"));
            }
            if passed { "ok" } else { "FAILED" }
        });
        lines.push(format!("{row:width$} {:>10} {:>6} {:>6}", results[0], results[1], results[2]));
    }
    eprintln!("{}", lines.join("\n"));
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_row_fails_without_the_middleware() {
    let passed: Vec<&str> = thread::scope(|scope| {
        let rows = ROWS.iter().map(|(row, check)| (row, scope.spawn(|| passes(*check, Kind::Bare))));
        let rows: Vec<_> = rows.collect();
        rows.into_iter().filter_map(|(row, check)| check.join().unwrap().then_some(*row)).collect()
    });
    assert_eq!(passed, Vec::<&str>::new());
}

/// What the suite of the original's plug checks, and the row that checks it here.
const PARITY: &[(&str, &str)] = &[
    ("no header", "request: no header: 400, or untracked by option"),
    ("several headers", "request: several headers, malformed Strings, parameters: 400"),
    ("GET is untouched", "request: POST and PATCH are tracked, others pass untouched"),
    ("a first request", "answer: Cached: status, headers, body as stored, and marked"),
    ("a concurrent request is a conflict", "answer: Processing: 409 with Retry-After"),
    ("a halted request", "answer: Halted: 409, not retryable, status configurable"),
    (
        "a cached response with status and headers",
        "answer: Cached: status, headers, body as stored, and marked",
    ),
    ("another payload", "answer: Mismatch: 422 in every state, status configurable"),
    ("another path is another request", "request: another path or method is another request"),
    ("a key in a scope", "request: a scope of its own for each principal, nobody: 401"),
    ("a custom hash", "request: a chosen payload, a hash of the application's own"),
    ("a chosen payload", "request: a chosen payload, a hash of the application's own"),
    ("a custom error answer", "answer: problems are documents with a link, and configurable"),
];

#[test]
fn everything_that_the_original_checks_has_a_row() {
    for (case, row) in PARITY {
        assert!(ROWS.iter().any(|(name, _)| name == row), "{case}: {row}");
    }
}
