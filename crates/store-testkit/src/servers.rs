//! Private servers for tests: started from the installed binaries, on free ports of the loopback and in a temporary folder,
//! and stopped again, also when the test's process is killed.
//!
//! ```no_run
//! use idempotency_store_testkit::servers::Redis;
//!
//! let mut redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
//! println!("{}", redis.url());
//! redis.kill();
//! redis.restart();
//! ```
//!
//! They block, and they panic where something is not as a test needs it: without its server a test is never green.

mod cluster;
mod guard;
mod postgres;
mod proxy;
mod redis;
mod wait;

pub use cluster::RedisCluster;
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use redis::Redis;
pub use wait::until;
