//! The HTTP side of the idempotency request tracker, decided in pure code: no framework, no actor, no I/O.
//!
//! Users meet it as the [`Policy`] that they hand to the middleware of their framework (`idempotency-actix-web`,
//! `idempotency-tower`). An adapter asks it one question after another, in the order of a request:
//!
//! ```
//! use idempotency_core::{Scope, StoredResponse};
//! use idempotency_http::{Admission, Policy, RequestHead};
//!
//! let policy: Policy<()> = Policy::new(Scope::global());
//! policy.validate().unwrap();
//!
//! // Is it tracked, and what is its key?
//! let keys = [&b"\"order-1\""[..]];
//! let head = RequestHead { method: "POST", path: "/payments", keys: &keys, ..RequestHead::default() };
//! assert!(policy.tracks(head.method));
//! let Admission::Tracked(admitted) = policy.admit(&head, &()) else { panic!() };
//!
//! // Its payload, within the limits, and what tells it from other requests.
//! let mut payload = policy.buffer_request();
//! payload.push(br#"{"amount":10}"#).unwrap();
//! let payload = payload.finish();
//! let identity = policy.identify(&admitted, &head, &(), &payload, None).unwrap();
//!
//! // What is kept of the response, and how it is replayed.
//! let mut capture = policy.capture(201, [("location", &b"/payments/7"[..])]);
//! capture.push(b"created").unwrap();
//! let (stored, _live) = capture.finish();
//! let replay = policy.replay(&stored, None, &identity.meta);
//! assert_eq!((replay.status().as_u16(), &replay.headers()["idempotency-replayed"]), (201, &"true".parse().unwrap()));
//! ```
//!
//! It follows draft-ietf-httpapi-idempotency-key-header-07, which expired in April 2026 and is no RFC. Where the draft
//! is silent it does what the largest APIs do.

#![deny(missing_docs)]

mod budget;
mod buffer;
mod capture;
mod codec;
mod content;
mod fate;
mod head;
mod idempotent_request;
mod key;
mod meta;
mod payload;
mod policy;
mod prefer;
mod problem;
mod stored_headers;
mod trace;

/// The types of requests and responses that a [`Policy`] speaks in.
pub use {bytes, http};

pub use budget::Budget;
pub use buffer::{Buffer, Full};
pub use capture::Capture;
pub use codec::{MalformedResponse, decode};
pub use fate::{Disposition, Fate};
pub use head::{Admission, Admitted, Identity, RequestHead};
pub use idempotent_request::IdempotentRequest;
pub use key::KeyRule;
pub use meta::RequestMeta;
pub use policy::{InvalidPolicy, Policy};
pub use problem::{Code, Problem};
pub use stored_headers::StoredHeaders;
pub use trace::{ReplayOf, TraceParent};
