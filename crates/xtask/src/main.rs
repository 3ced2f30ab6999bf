//! Tasks of this repository. `cargo xtask --help` lists them.

mod install;
mod suites;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of this repository
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run all tests: unit, proofs, tracker, examples over HTTP, doc tests, and the bounds of the benchmarks
    Test {
        /// Install missing servers and curl with the system's package manager
        #[arg(long)]
        install: bool,
    },
    /// Run the benchmarks, which print ratios and fail at their bounds
    Bench,
    /// Run all of it in full numbers: the tests, each store twenty times through the conformance suite, hundreds of kills,
    /// ten minutes of fuzzing, and the benchmarks. It takes hours
    Soak {
        /// Install missing servers and curl with the system's package manager
        #[arg(long)]
        install: bool,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Test { install } => install::programs(install).and_then(|()| suites::test()),
        Task::Bench => suites::bench(),
        Task::Soak { install } => install::programs(install).and_then(|()| suites::soak()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
