//! The tracker beside its peers and beside its limits. Ratios of one run, interleaved; never a bare time.

#![expect(clippy::print_stdout, reason = "it prints tables")]

mod growth;
mod http;
mod memory;
mod report;
mod stores;
mod target;
mod untracked;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use report::Report;

/// The tracker beside its peers and beside its limits
#[derive(Parser)]
struct Args {
    /// A folder for plots
    #[arg(long, global = true)]
    plots: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// First requests and replays over HTTP, at 1, 64 and 512 connections
    Http {
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How long each time, in milliseconds
        #[arg(long, default_value_t = 1000)]
        millis: u64,
    },
    /// Claims, replays, conflicts and mismatches in memory, by 1, 8, 64 and 512 callers
    Memory {
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many bytes a response has
        #[arg(long, default_value_t = 256)]
        len: usize,
    },
    /// Claims with much in flight and much stored, and the memory of a record
    Growth {
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Claims on a file or a server, beside the bare client, by 1, 8, 64 and 512 callers
    Stores {
        kind: stores::Kind,
        /// By how many callers at once
        #[arg(long, value_delimiter = ',', default_values_t = memory::CALLERS, value_parser = callers)]
        callers: Vec<usize>,
        /// How often each is measured
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How many bytes a response has
        #[arg(long, default_value_t = 256)]
        len: usize,
    },
    /// Ours over HTTP by itself, to be profiled
    HttpProfile { work: http::Work, connections: usize, millis: u64 },
    /// One column of `memory` by itself, to be profiled
    Profile { kind: memory::Kind, work: memory::Work, callers: usize, turns: usize },
    /// Instructions of a request that is not tracked, beside the bare handler; needs valgrind
    Untracked,
    /// What `untracked` counts: a server
    #[command(hide = true)]
    Serve { kind: untracked::Kind },
}

fn callers(number: &str) -> Result<usize, String> {
    match number.parse() {
        Ok(0) | Err(_) => Err("at least one caller".to_owned()),
        Ok(callers) => Ok(callers),
    }
}

fn main() {
    let args = Args::parse();
    let report = Report { plots: args.plots };
    match args.what {
        What::Http { rounds, millis } => http::run(&report, rounds, millis),
        What::HttpProfile { work, connections, millis } => http::profile(work, connections, millis),
        What::Growth { rounds } => growth::run(&report, rounds),
        What::Stores { kind, callers, rounds, len } => stores::run(&report, kind, &callers, rounds, len),
        What::Memory { rounds, len } => memory::run(&report, rounds, len),
        What::Profile { kind, work, callers, turns } => memory::profile(kind, work, callers, turns),
        What::Untracked => untracked::run(),
        What::Serve { kind } => untracked::serve(kind),
    }
}
