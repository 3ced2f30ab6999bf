//! The HTTP side over real sockets: one table of cases for all adapters.

mod app;
mod client;
mod frameworks;
mod hang_up;
mod hostile;
mod rows;
mod servers;
mod store;
mod table;
