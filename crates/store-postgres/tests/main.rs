//! The store on private servers.

mod claims;
mod conformance;
mod faults;
mod requirements;
mod support;
#[cfg(feature = "tls")]
mod tls;
mod transactions;
