use std::{future::Future, sync::LazyLock};

use idempotency_core::{Inserted, Store, StoreError};
use idempotency_store_postgres::{PostgresConfig, PostgresStore};
pub(crate) use idempotency_store_testkit::samples::{HOUR, claim, complete, id, now, owner, rival, update};
use idempotency_store_testkit::{samples, servers::Postgres};

/// For all tests that do nothing to it.
pub(crate) static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start(&["max_connections=300"]));

/// What [`id`] makes of the column `n`.
pub(crate) const ID_OF_N: &str = "convert_to(lpad(n::text, 32, '0'), 'UTF8')";

pub(crate) async fn set_up(config: impl Into<PostgresConfig>) -> Result<PostgresStore, StoreError> {
    samples::set_up(PostgresStore::open(config)?).await
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    idempotency_store_testkit::run(test);
}

/// What belongs to all tests lives on it; the runtime of each ends with the test.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// A connection past the store.
pub(crate) async fn direct() -> tokio_postgres::Client {
    direct_to(&SERVER).await
}

pub(crate) async fn direct_to(server: &Postgres) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The store meets an open transaction of this client, which is gone when this returns.
pub(crate) async fn held_up(store: &PostgresStore, other: &mut tokio_postgres::Client, number: u64) {
    let open = other.transaction().await.unwrap();
    assert_eq!(store.claim_in(&open, &claim(number)).await.unwrap(), Inserted::Claimed);
    assert_eq!(store.insert(&rival(number), now()).await.unwrap(), Inserted::Busy);
    open.rollback().await.unwrap();
}

/// What a statement answers, on a connection that stays: a line a row, of its first column.
pub(crate) async fn sql(statement: &str) -> String {
    use tokio_postgres::SimpleQueryMessage::Row;
    static CLIENT: tokio::sync::OnceCell<tokio_postgres::Client> = tokio::sync::OnceCell::const_new();
    let client = CLIENT.get_or_init(async || RUNTIME.spawn(direct()).await.unwrap()).await;
    let rows = client.simple_query(statement).await.unwrap();
    let text = |message: &_| if let Row(row) = message { row.get(0).map(str::to_owned) } else { None };
    rows.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

/// How many times as much is done in a soak as otherwise: `factor` if this is one.
pub(crate) fn soak(factor: u64) -> u64 {
    if std::env::var_os("IDEMPOTENCY_SOAK").is_some() { factor } else { 1 }
}
