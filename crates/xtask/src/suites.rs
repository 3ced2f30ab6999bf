//! What is run, in which order, and how long each may take.

use std::{
    env,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

/// A command of cargo with a bound on its time.
struct Suite {
    name: &'static str,
    args: &'static str,
    minutes: u64,
}

/// Everything is built by the first one, with the features that the others use too.
const TEST: &[Suite] = &[
    Suite { name: "build", args: "test --workspace --no-run", minutes: 14 },
    Suite { name: "unit", args: "test --workspace --lib --bins", minutes: 2 },
    Suite { name: "engine proofs", args: "test --workspace --test proofs -- --nocapture", minutes: 6 },
    Suite { name: "tracker", args: "test --workspace --test tracker", minutes: 3 },
    Suite { name: "conformance", args: "test --workspace --test suite -- --nocapture", minutes: 3 },
    Suite { name: "conformance of an example", args: "test --workspace --example custom_store", minutes: 2 },
    Suite { name: "HTTP, examples, parity, house", args: "test --workspace --test workspace", minutes: 6 },
    Suite { name: "documentation", args: "test --workspace --doc", minutes: 4 },
    Suite {
        name: "bounds",
        args: "bench --package idempotency-tracker --bench load --bench swap -- --quick",
        minutes: 8,
    },
    Suite {
        name: "bounds of the file",
        args: "bench --package idempotency-store-redb --bench commit --bench growth -- --quick",
        minutes: 6,
    },
];

const BENCH: &[Suite] = &[
    Suite { name: "mailbox", args: "bench --package idempotency-tracker --bench mailbox", minutes: 15 },
    Suite { name: "load", args: "bench --package idempotency-tracker --bench load", minutes: 15 },
    Suite { name: "swap", args: "bench --package idempotency-tracker --bench swap", minutes: 5 },
    Suite { name: "redb growth", args: "bench --package idempotency-store-redb --bench growth", minutes: 20 },
    Suite {
        name: "redb commits",
        args: "bench --package idempotency-store-redb --bench commit",
        minutes: 20,
    },
];

pub(crate) fn test() -> Result<(), String> {
    run(TEST)
}

pub(crate) fn bench() -> Result<(), String> {
    run(BENCH)
}

fn run(suites: &[Suite]) -> Result<(), String> {
    let mut times = Vec::new();
    for suite in suites {
        eprintln!("\n=== {}: cargo {}", suite.name, suite.args);
        let took = suite.run()?;
        times.push(format!("{:>7.1} s of {:>2} min  {}", took.as_secs_f64(), suite.minutes, suite.name));
    }
    eprintln!("\n{}", times.join("\n"));
    Ok(())
}

impl Suite {
    #[expect(clippy::disallowed_methods, reason = "how long a suite takes is real time")]
    fn run(&self) -> Result<Duration, String> {
        let since = Instant::now();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut child = Command::new(cargo)
            .args(self.args.split(' '))
            .spawn()
            .map_err(|error| format!("cargo cannot be started: {error}"))?;
        while since.elapsed() < Duration::from_secs(self.minutes * 60) {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                return if status.success() {
                    Ok(since.elapsed())
                } else {
                    Err(format!("{} failed: {status}", self.name))
                };
            }
            thread::sleep(Duration::from_millis(50));
        }
        end(&mut child);
        Err(format!("{} took longer than {} minutes", self.name, self.minutes))
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
