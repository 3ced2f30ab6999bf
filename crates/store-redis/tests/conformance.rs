//! The suite on a server and on a cluster, which all cases share: each has a prefix of its own.

use std::{sync::LazyLock, time::Duration};

use idempotency_store_redis::{RedisConfig, RedisStore};
use idempotency_store_testkit::{
    OnRealTime, conformance,
    servers::{Redis, RedisCluster},
};

static SERVER: LazyLock<Redis> = LazyLock::new(|| Redis::start(&[]));
static CLUSTER: LazyLock<RedisCluster> = LazyLock::new(|| RedisCluster::start(3));

/// Under a prefix that means something to a pattern.
fn opened(config: RedisConfig, name: &str) -> RedisStore {
    let config = config.prefix(format!("[{name}]*:")).call_limit(Duration::from_secs(10));
    RedisStore::open(config).unwrap()
}

mod server {
    use super::*;
    conformance!(OnRealTime::new(async |name: String| opened(RedisConfig::new(SERVER.url()), &name)));
}

mod cluster {
    use super::*;
    conformance!(OnRealTime::new(async |name: String| opened(RedisConfig::cluster(CLUSTER.urls()), &name)));
}
