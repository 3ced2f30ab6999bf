//! The cases, one function each; [`conformance!`](crate::conformance) makes a test of each. All of them panic where the
//! store breaks a promise.

pub mod batches;
pub mod claimed;
pub mod insert;
pub mod keeping;
pub mod races;
pub mod random;
pub mod time;
pub mod update;
pub mod values;
