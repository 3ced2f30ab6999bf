//! The tables, and how they came to be. Within a major version they are only extended, so that nodes of an earlier step go on.

use idempotency_core::{StoreError, StoreErrorKind};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::{
    PostgresConfig,
    error::{corrupt, misconfigured, store_error},
    statements::Statements,
};

/// The major version of the tables that this one reads and writes.
const MAJOR: u32 = 1;

/// The steps to its newest state.
const STEPS: &[&str] = &[include_str!("migrations/1.sql")];

/// Makes and changes the tables, one node at a time.
pub(crate) async fn migrate(
    client: &mut Client,
    config: &PostgresConfig,
    statements: &Statements,
) -> Result<(), StoreError> {
    // Whoever has nothing to change needs no rights to do so.
    if is_new_enough(version(client, statements).await?)? {
        return check_tables(client, statements).await;
    }
    // What another node has made before the lock was given must be seen.
    let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
    let transaction = transaction.start().await.map_err(store_error)?;
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&statements.schema_lock]).await.map_err(store_error)?;
    let is_there = "SELECT FROM pg_namespace WHERE nspname = $1";
    if transaction.query_opt(is_there, &[&config.schema]).await.map_err(store_error)?.is_none() {
        run(&transaction, &format!("CREATE SCHEMA {}", config.schema)).await?;
    }
    run(
        &transaction,
        &statements.named("CREATE TABLE IF NOT EXISTS {about} (name text PRIMARY KEY, value bytea NOT NULL)"),
    )
    .await?;
    let from = version(transaction.client(), statements).await?;
    if !is_new_enough(from)? {
        for step in STEPS.iter().skip(from.map_or(0, |(_, step)| step as usize)) {
            run(&transaction, &statements.named(step)).await?;
        }
        let version = format!("{MAJOR}.{}", STEPS.len()).into_bytes();
        let note = "INSERT INTO {about} VALUES ('version', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        transaction.execute(&statements.named(note), &[&version]).await.map_err(store_error)?;
    }
    transaction.commit().await.map_err(store_error)?;
    check_tables(client, statements).await
}

/// Whether somebody else has made the tables.
pub(crate) async fn check(client: &Client, statements: &Statements) -> Result<(), StoreError> {
    if !is_new_enough(version(client, statements).await?)? {
        return Err(misconfigured("the tables are not there, or older than this version: call `migrate`"));
    }
    check_tables(client, statements).await
}

async fn run(transaction: &Transaction<'_>, statement: &str) -> Result<(), StoreError> {
    transaction.batch_execute(statement).await.map_err(store_error)
}

/// The major version and how many of its steps were made; nothing if there is nothing.
async fn version(client: &Client, statements: &Statements) -> Result<Option<(u32, u32)>, StoreError> {
    let about = statements.named("{about}");
    let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&about]).await.map_err(store_error)?;
    if !row.try_get::<_, bool>(0).map_err(store_error)? {
        return Ok(None);
    }
    let read = statements.named("SELECT value FROM {about} WHERE name = 'version'");
    let Some(row) = client.query_opt(&read, &[]).await.map_err(store_error)? else { return Ok(None) };
    let value: &[u8] = row.try_get(0).map_err(store_error)?;
    let parsed = || -> Option<(u32, u32)> {
        let (major, step) = std::str::from_utf8(value).ok()?.split_once('.')?;
        Some((major.parse().ok()?, step.parse().ok()?))
    };
    parsed().map(Some).ok_or_else(|| corrupt("the tables have a version that is none"))
}

fn is_new_enough(version: Option<(u32, u32)>) -> Result<bool, StoreError> {
    match version {
        None => Ok(false),
        Some((MAJOR, step)) => Ok(step as usize >= STEPS.len()),
        Some((major, _)) if major < MAJOR => Ok(false),
        Some((major, _)) => {
            let message = format!("the tables have version {major}, and this one knows {MAJOR}");
            Err(StoreError::new(StoreErrorKind::Misconfigured, message).not_applied())
        }
    }
}

/// A table that the server empties after a crash would be of no use, whatever else is declared.
async fn check_tables(client: &Client, statements: &Statements) -> Result<(), StoreError> {
    let records = statements.named("{records}");
    let look = "SELECT relpersistence::text FROM pg_class WHERE oid = to_regclass($1)";
    match client.query_opt(look, &[&records]).await.map_err(store_error)? {
        Some(row) if row.try_get::<_, &str>(0).map_err(store_error)? == "p" => Ok(()),
        Some(_) => Err(misconfigured(format!("`{records}` is not a table that lasts: it is unlogged"))),
        None => Err(misconfigured(format!("`{records}` is not there"))),
    }
}
