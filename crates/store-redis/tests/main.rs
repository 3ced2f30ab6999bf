//! The store on private servers.

mod changes;
mod conformance;
mod faults;
mod replicas;
mod requirements;
mod support;
#[cfg(feature = "tls")]
mod tls;
