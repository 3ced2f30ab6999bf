use std::future::Future;

use idempotency_core::{StoreError, StoreErrorKind};
use idempotency_store_redis::{RedisConfig, RedisStore};
use idempotency_store_testkit::samples;
pub(crate) use idempotency_store_testkit::samples::{HOUR, claim, complete, id, now, rival, update};

pub(crate) async fn set_up(config: impl Into<RedisConfig>) -> Result<RedisStore, StoreError> {
    samples::set_up(RedisStore::open(config)?).await
}

/// The same on a machine that may stand still for longer than replicas are waited for.
pub(crate) async fn set_up_in_the_end(config: impl Into<RedisConfig>) -> RedisStore {
    let config = config.into();
    for _ in 0..20 {
        match set_up(config.clone()).await {
            Ok(store) => return store,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}"),
        }
    }
    panic!("the store cannot be set up");
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    idempotency_store_testkit::run(test);
}

/// How many times as much is done in a soak as otherwise: `factor` if this is one.
pub(crate) fn soak(factor: u64) -> u64 {
    if std::env::var_os("IDEMPOTENCY_SOAK").is_some() { factor } else { 1 }
}
