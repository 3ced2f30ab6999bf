//! Proofs about the decisions: exhaustive where it can be, random where it cannot.
//!
//! `cargo test -p idempotency-engine --test proofs -- --nocapture` prints what was explored.

mod broken;
mod monitor;
mod node;
mod protocol;
mod reference;
mod scenarios;
