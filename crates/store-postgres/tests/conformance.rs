//! The suite on a server that all cases share: each has tables of its own.

use std::time::Duration;

use idempotency_store_postgres::{PostgresConfig, PostgresStore};
use idempotency_store_testkit::{OnRealTime, conformance};

use crate::support::*;

fn opened(name: String) -> PostgresStore {
    let config = PostgresConfig::new(SERVER.url()).table(name).call_limit(Duration::from_secs(10));
    PostgresStore::open(config).unwrap()
}

conformance!(OnRealTime::new(async |name: String| opened(name)));

/// After an open transaction came in the way, when statements wait for nobody.
mod careful {
    use super::*;

    async fn opened(name: String) -> PostgresStore {
        let config = PostgresConfig::new(SERVER.url()).schema("careful").table(name);
        let store = PostgresStore::open(config.call_limit(Duration::from_secs(10))).unwrap();
        store.migrate().await.unwrap();
        held_up(&store, &mut direct().await, 1 << 60).await;
        store
    }

    conformance!(OnRealTime::new(async |name: String| opened(name).await));
}
