//! What is run, in which order, and how long each may take.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A command of cargo with a bound on its time.
#[derive(Clone, Copy)]
struct Suite {
    name: &'static str,
    args: &'static str,
    minutes: u64,
}

/// Tells tests to do all of it, and not a part; lets a stable compiler build the fuzz targets; and leaves out backtraces, for
/// thousands of panics are on purpose, and a backtrace takes longer than what is tested.
const SOAK: [(&str, &str); 3] =
    [("IDEMPOTENCY_SOAK", "1"), ("RUSTC_BOOTSTRAP", "1"), ("RUST_BACKTRACE", "0")];

/// How often each store is put through the conformance suite in a soak.
const CONFORMANCE_RUNS: usize = 20;

const CONFORMANCE: [Suite; 6] = [
    Suite { name: "conformance", args: "test --workspace --test suite", minutes: 30 },
    Suite {
        name: "conformance of redb",
        args: "test --package idempotency-store-redb --lib conformance",
        minutes: 60,
    },
    Suite { name: "conformance of an example", args: "test --workspace --example custom_store", minutes: 10 },
    Suite { name: "conformance and faults of Redis", args: "test --workspace --test redis", minutes: 30 },
    Suite {
        name: "conformance and faults of PostgreSQL",
        args: "test --workspace --test postgres",
        minutes: 60,
    },
    Suite {
        name: "conformance of an example on Redis",
        args: "test --workspace --example custom_redis_store",
        minutes: 10,
    },
];

const SOAKS: &[Suite] = &[
    Suite {
        name: "nodes killed under load",
        args: "test --workspace --test workspace -- kill i6_ swap nodes ledger under_fire flood hang_up --nocapture",
        minutes: 60,
    },
    Suite { name: "tracker", args: "test --workspace --test tracker", minutes: 180 },
    Suite {
        name: "fuzzing of the frame (needs cargo-fuzz: `cargo install cargo-fuzz`)",
        args: "fuzz run --fuzz-dir crates/frame/fuzz --sanitizer none decode crates/frame/golden -- -max_total_time=600",
        minutes: 20,
    },
    Suite {
        name: "fuzzing of requests",
        args: "fuzz run --fuzz-dir crates/http/fuzz --sanitizer none request -- -max_total_time=600",
        minutes: 20,
    },
    Suite {
        name: "fuzzing of stored responses",
        args: "fuzz run --fuzz-dir crates/http/fuzz --sanitizer none stored -- -max_total_time=600",
        minutes: 20,
    },
];

/// Everything is built by the first one, with the features that the others use too.
const TEST: &[Suite] = &[
    Suite { name: "build", args: "test --workspace --no-run", minutes: 14 },
    Suite { name: "unit", args: "test --workspace --lib --bins", minutes: 2 },
    Suite { name: "engine proofs", args: "test --workspace --test proofs -- --nocapture", minutes: 6 },
    Suite { name: "tracker", args: "test --workspace --test tracker", minutes: 3 },
    Suite { name: "conformance", args: "test --workspace --test suite -- --nocapture", minutes: 3 },
    Suite { name: "conformance of an example", args: "test --workspace --example custom_store", minutes: 2 },
    Suite { name: "conformance and faults of Redis", args: "test --workspace --test redis", minutes: 5 },
    Suite {
        name: "conformance and faults of PostgreSQL",
        args: "test --workspace --test postgres",
        minutes: 8,
    },
    Suite {
        name: "conformance of an example on Redis",
        args: "test --workspace --example custom_redis_store",
        minutes: 3,
    },
    Suite {
        name: "nodes, HTTP, examples, parity, house",
        args: "test --workspace --test workspace",
        minutes: 10,
    },
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
    Suite {
        name: "bounds of Redis",
        args: "bench --package idempotency-store-redis --bench scripts -- --quick",
        minutes: 4,
    },
    Suite {
        name: "bounds of PostgreSQL",
        args: "bench --package idempotency-store-postgres --bench statements -- --quick",
        minutes: 6,
    },
];

/// What runs beside its peers has a lock file of its own, for these need one.
macro_rules! beside_peers {
    ($name:literal, $args:literal, $minutes:literal) => {
        Suite {
            name: $name,
            args: concat!(
                "run --release --ignore-rust-version --manifest-path crates/bench/Cargo.toml -- ",
                "--plots docs/benchmarks ",
                $args
            ),
            minutes: $minutes,
        }
    };
}

const BENCH: &[Suite] = &[
    beside_peers!("in memory, 256 bytes", "memory", 30),
    beside_peers!("in memory, 4 KiB", "memory --len 4096", 30),
    beside_peers!("growth", "growth", 30),
    beside_peers!("HTTP beside peers", "http", 20),
    beside_peers!("on a file, 256 bytes", "stores redb", 10),
    beside_peers!("on a file, 4 KiB", "stores redb --len 4096", 10),
    beside_peers!("on Redis, 256 bytes", "stores redis", 15),
    beside_peers!("on Redis, 4 KiB", "stores redis --len 4096", 15),
    beside_peers!("on PostgreSQL, 256 bytes", "stores postgres", 20),
    beside_peers!("on PostgreSQL, 4 KiB", "stores postgres --len 4096", 20),
    beside_peers!("instructions of an untracked request (needs valgrind)", "untracked", 20),
    Suite { name: "mailbox", args: "bench --package idempotency-tracker --bench mailbox", minutes: 15 },
    Suite { name: "load", args: "bench --package idempotency-tracker --bench load", minutes: 15 },
    Suite { name: "swap", args: "bench --package idempotency-tracker --bench swap", minutes: 5 },
    Suite { name: "redb growth", args: "bench --package idempotency-store-redb --bench growth", minutes: 20 },
    Suite {
        name: "redb commits",
        args: "bench --package idempotency-store-redb --bench commit",
        minutes: 20,
    },
    Suite {
        name: "redis scripts",
        args: "bench --package idempotency-store-redis --bench scripts",
        minutes: 10,
    },
    Suite {
        name: "postgres statements",
        args: "bench --package idempotency-store-postgres --bench statements",
        minutes: 20,
    },
];

pub(crate) fn test() -> Result<(), String> {
    run(TEST, &[])
}

/// Prints what is measured, and writes it down. What fails at its bound is written down, too, and the others are measured all the
/// same.
pub(crate) fn bench() -> Result<(), String> {
    let mut written = format!("{BENCHMARKS_HEAD}{} processors.\n", cores());
    let mut failed = Vec::new();
    for suite in BENCH {
        eprintln!("\n=== {}: cargo {}", suite.name, suite.args);
        let Ran { mut printed, ended, .. } = suite.run(&[], true);
        if let Err(reason) = ended {
            printed += &format!("\n{reason}\n");
            failed.push(reason);
        }
        // A table is Markdown already.
        let fence = if printed.contains("| --- |") { "" } else { "```text\n" };
        let end = if fence.is_empty() { "" } else { "```\n" };
        written +=
            &format!("\n## {}\n\n    cargo {}\n\n{fence}{}\n{end}", suite.name, suite.args, printed.trim());
        // After each: what was measured is not lost where the next one fails.
        fs::write("BENCHMARKS.md", &written)
            .map_err(|error| format!("BENCHMARKS.md cannot be written: {error}"))?;
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

const BENCHMARKS_HEAD: &str = "# Benchmarks

Written by `cargo xtask bench`; what it means stands in ARCHITECTURE.md. Ratios are measured side by side in one run, the columns by
turns, and are medians of five with the lowest and the highest. Times are there to be compared with those beside them. Measured on ";

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// All of the big numbers, for a machine that has a night.
pub(crate) fn soak() -> Result<(), String> {
    test()?;
    let suites: Vec<Suite> = CONFORMANCE.repeat(CONFORMANCE_RUNS).iter().chain(SOAKS).copied().collect();
    run(&suites, &SOAK)?;
    bench()
}

fn run(suites: &[Suite], environment: &[(&str, &str)]) -> Result<(), String> {
    let mut times = Vec::new();
    for suite in suites {
        eprintln!("\n=== {}: cargo {}", suite.name, suite.args);
        let Ran { took, ended, .. } = suite.run(environment, false);
        ended?;
        times.push(format!("{:>7.1} s of {:>2} min  {}", took.as_secs_f64(), suite.minutes, suite.name));
    }
    eprintln!("\n{}", times.join("\n"));
    Ok(())
}

/// What became of a suite.
struct Ran {
    took: Duration,
    /// Where that is to be kept.
    printed: String,
    ended: Result<(), String>,
}

impl Suite {
    #[expect(clippy::disallowed_methods, reason = "how long a suite takes is real time")]
    fn run(&self, environment: &[(&str, &str)], is_kept: bool) -> Ran {
        let since = Instant::now();
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let child = Command::new(cargo)
            .args(self.args.split(' '))
            .envs(environment.iter().copied())
            .stdout(if is_kept { Stdio::piped() } else { Stdio::inherit() })
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                let ended = Err(format!("cargo cannot be started: {error}"));
                return Ran { took: since.elapsed(), printed: String::new(), ended };
            }
        };
        let printed = child.stdout.take().map(|stdout| thread::spawn(move || echo(stdout)));
        match self.status_of(&mut child, since) {
            Ok(status) => {
                let printed = printed.and_then(|printed| printed.join().ok()).unwrap_or_default();
                let failed = || Err(format!("{} failed: {status}", self.name));
                let ended = if status.success() { Ok(()) } else { failed() };
                Ran { took: since.elapsed(), printed, ended }
            }
            // What it started may still print, and is not waited for.
            Err(reason) => Ran { took: since.elapsed(), printed: String::new(), ended: Err(reason) },
        }
    }

    /// Waits for its end, but not longer than it may take.
    fn status_of(&self, child: &mut Child, since: Instant) -> Result<ExitStatus, String> {
        while since.elapsed() < Duration::from_secs(self.minutes * 60) {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(50));
        }
        end(child);
        Err(format!("{} took longer than {} minutes", self.name, self.minutes))
    }
}

/// Prints it line by line, and returns all of it.
fn echo(stdout: impl Read) -> String {
    let mut printed = String::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        eprintln!("{line}");
        printed.push_str(&line);
        printed.push('\n');
    }
    printed
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
