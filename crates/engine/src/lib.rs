//! The decisions of the request tracker: events in, commands out.
//!
//! Pure and deterministic: no I/O, no clock, no randomness. Time and owners come in with the event, so every order
//! of events can be tried without a runtime, and the model checker runs the very code that runs in production.
//! This crate is internal to `idempotency-tracker`; it makes no semver promises.
//!
//! ```
//! use idempotency_core::{Claim, Fingerprint, Inserted, Owner, RequestId, StoreReply};
//! use idempotency_engine::{Answer, Call, Caller, Command, Config, Engine, Event, Track, Tracked};
//! use time::OffsetDateTime;
//!
//! let now = OffsetDateTime::UNIX_EPOCH;
//! let mut engine = Engine::new(Config::default(), now, 0);
//! let mut commands = Vec::new();
//!
//! let id = RequestId::from_bytes([1; 32]);
//! let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, []));
//! engine.handle(now, Event::Track { caller: Caller(1), track: Track::new(claim) }, &mut commands);
//! assert!(matches!(commands[..], [Command::Call { call: Call::Lane(_), .. }]));
//!
//! // The store says yes; so does the engine.
//! commands.clear();
//! let reply = Ok(StoreReply::Inserted(Inserted::Claimed));
//! engine.handle(now, Event::Replied { call: Call::Lane(id), reply }, &mut commands);
//! assert!(matches!(commands[..], [Command::Answer(Caller(1), Answer::Tracked(Ok(Tracked::Init(_))))]));
//! ```
//!
//! In reading order: an [`Event`] goes to the [`Engine`], which finds the lane of its id; the lane (`lane.rs`) lets
//! one job at a time out to the store, and what comes of it is a list of [`Command`]s.

#![deny(missing_docs)]

mod config;
mod event;
mod moment;

mod engine;
mod lane;

mod ghost;
mod job;
mod live_claim;
mod pruning;
mod tenants;
mod verdict;

mod command;

pub use command::{Answer, Command, Forgotten, Granted, Happened, Refused, Settled, Tracked};
pub use config::Config;
pub use engine::{Engine, Load};
pub use event::{Adopted, Call, Caller, Event, OnConcurrent, OnOrphan, Track};
pub use moment::Moment;
pub use verdict::{Verdict, verdict};
