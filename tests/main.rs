//! All tests that span crates, in one binary.

mod support;

mod house;

mod parity_store;
mod parity_tracker;

mod examples;
mod flood;
mod history;
mod kill;
mod ledger;
mod nodes;
mod over_http;
mod payments;
mod readme;
mod swap;
mod under_fire;
