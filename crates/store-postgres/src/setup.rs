//! What a server must be like, asked on each new connection.

use idempotency_core::{Durability, StoreError, StoreErrorKind, Survives};
use tokio_postgres::Client;

use crate::error::{misconfigured, store_error};

/// The oldest that knows `AS MATERIALIZED`.
const LOWEST_VERSION: i32 = 120_000;

const LOOK: &str = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS is_standby, \
    current_setting('server_version_num')::int4 AS version, current_setting('synchronous_commit') AS synchronous_commit, \
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes, \
    current_setting('synchronous_standby_names') AS standbys, \
    (SELECT count(*)::int4 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS in_step, \
    pg_has_role('pg_read_all_stats', 'USAGE') AS sees_standbys";

pub(crate) async fn verify(client: &Client, durability: Durability) -> Result<(), StoreError> {
    let row = client.query_one(LOOK, &[]).await.map_err(store_error)?;
    let text = |name: &str| row.try_get::<_, &str>(name).map_err(store_error);
    let version: i32 = row.try_get("version").map_err(store_error)?;
    if version < LOWEST_VERSION {
        return Err(misconfigured(format!("the server has version {version}; {LOWEST_VERSION} is needed")));
    }
    if row.try_get("is_standby").map_err(store_error)? {
        return Err(unavailable("the server is a standby, or takes no writes"));
    }
    let must_be = |name: &str, allowed: &[&str]| {
        let is = text(name)?;
        if allowed.contains(&is) {
            return Ok(());
        }
        let allowed = allowed.join("` or `");
        Err(misconfigured(format!(
            "the store declares what the server does not keep: `{name}` must be `{allowed}`, and is `{is}`"
        )))
    };
    if durability.local >= Survives::ProcessCrash {
        must_be("synchronous_commit", &["on", "local", "remote_write", "remote_apply"])?;
    }
    if durability.local >= Survives::PowerLoss {
        must_be("fsync", &["on"])?;
        must_be("full_page_writes", &["on"])?;
    }
    if durability.replicas > 0 {
        must_be("synchronous_commit", &["on", "remote_write", "remote_apply"])?;
        let (needed, asked) = (i32::from(durability.replicas), waited_for(text("standbys")?));
        if asked < needed {
            return Err(misconfigured(format!(
                "the store declares {needed} replicas, and `synchronous_standby_names` waits for {asked}"
            )));
        }
        if !row.try_get("sees_standbys").map_err(store_error)? {
            return Err(misconfigured(
                "whether there are standbys only a user with `pg_read_all_stats` can tell: grant it",
            ));
        }
        let in_step: i32 = row.try_get("in_step").map_err(store_error)?;
        if in_step < needed {
            let message =
                format!("the store declares {needed} replicas, and the server has {in_step} in step");
            return Err(unavailable(message));
        }
    }
    Ok(())
}

fn unavailable(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, message).not_applied()
}

/// How many standbys a commit waits for: `FIRST 2 (a, b)`, `ANY 1 (*)`, `2 (a, b)` or `a, b`, which is one.
fn waited_for(names: &str) -> i32 {
    let names = names.trim();
    if names.is_empty() {
        return 0;
    }
    let Some((head, _)) = names.split_once('(') else { return 1 };
    head.split_whitespace().next_back().and_then(|count| count.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_for_how_many_standbys_a_commit_waits() {
        for (names, count) in [
            ("", 0),
            ("a", 1),
            ("a, b", 1),
            ("2 (a, b)", 2),
            ("FIRST 2 (a, b, c)", 2),
            ("ANY 3(*)", 3),
            ("*", 1),
        ] {
            assert_eq!(waited_for(names), count, "{names}");
        }
    }
}
