//! What the tracker promises, on virtual time where time matters and on real threads where threads do.

mod support;

mod actor_store;
mod admission;
mod backend;
mod cache;
mod dying_callers;
mod lease;
mod lifecycle;
mod metrics;
mod once;
mod permit;
mod placement;
mod read_through;
mod resolving;
mod shutdown;
mod simulation;
mod supervision;
mod swap;
mod swap_load;
mod swap_pause;
mod tenants;
mod waiting;
