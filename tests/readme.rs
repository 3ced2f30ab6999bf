//! The sessions that the README prints, run as they are printed.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::support::Running;

/// A command, and the lines that its output has. `...` stands for anything.
#[derive(Debug)]
struct Step {
    command: String,
    output: Vec<String>,
}

/// What stands in the blocks marked `console`: `$` begins a command, two spaces or a backslash before them go on
/// with it.
fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let blocks = readme.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    for line in blocks.flat_map(str::lines) {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), output: Vec::new() });
        } else if let Some(more) = line.strip_prefix("  ") {
            steps.last_mut().unwrap().command += &format!("\n{more}");
        } else if !line.is_empty() {
            steps.last_mut().unwrap().output.push(line.to_owned());
        }
    }
    steps
}

fn matches(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split("...");
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap()) else { return false };
    let mut ends = !pattern.contains("...") && rest.is_empty();
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        ends = piece.is_empty() || after.is_empty();
        rest = after;
    }
    ends
}

#[test]
fn every_session_of_the_readme_runs_as_it_is_printed() {
    let home = tempfile::tempdir().unwrap();
    let mut running = Vec::new();
    // The commands name the ports of the README; this is where the servers really are.
    let mut ports = String::from("silent\n");
    let mut variables = String::new();
    let mut commands = 0;
    for step in steps(include_str!("../README.md")) {
        if let Some(name) = step.command.strip_prefix("cargo run --example ") {
            let port = match name {
                "payments" => 8080,
                "axum_orders" => 8081,
                other => panic!("on which port is {other}?"),
            };
            let server = Running::start(name, &[]);
            ports += &format!("connect-to = \"127.0.0.1:{port}:{}\"\n", server.address);
            fs::write(home.path().join(".curlrc"), &ports).unwrap();
            running.push(server);
            continue;
        }
        if step
            .command
            .split_once('=')
            .is_some_and(|(name, _)| name.bytes().all(|byte| byte.is_ascii_uppercase()))
        {
            variables += &format!("{}\n", step.command);
            continue;
        }
        let output = Command::new("sh")
            .args(["-c", &format!("{variables}{}", step.command)])
            .env("CURL_HOME", home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        // Servers send headers in any order, and a body need not end its line.
        let output = output.replace('}', "}\n").replace("}\n]", "}]").replace("}\n}", "}}");
        for expected in &step.output {
            assert!(
                output.lines().any(|line| matches(expected, line)),
                "{}\nprints\n{output}\nand not\n{expected}",
                step.command
            );
        }
        let says_replay = |lines: &str| lines.contains("idempotency-replayed");
        assert_eq!(says_replay(&output), says_replay(&step.output.concat()), "{}", step.command);
        commands += 1;
    }
    assert!(commands >= 13 && running.len() == 2, "{commands} commands, {} servers", running.len());
}

#[test]
fn a_session_that_prints_something_else_is_noticed() {
    assert!(matches("HTTP/1.1 201 Created", "HTTP/1.1 201 Created"));
    assert!(matches("location: /payments/pay_...", "location: /payments/pay_1f"));
    assert!(matches("{\"a\":...,\"b\":1,...}", "{\"a\":7,\"b\":1,\"c\":2}"));
    for (pattern, line) in [
        ("HTTP/1.1 201 Created", "HTTP/1.1 201 Created at last"),
        ("HTTP/1.1 201 Created", "HTTP/1.1 409 Conflict"),
        ("{\"a\":...,\"b\":1,...}", "{\"a\":7,\"b\":2,\"c\":2}"),
        ("{\"a\":...}", "{\"a\":7,"),
    ] {
        assert!(!matches(pattern, line), "{pattern}: {line}");
    }
}
