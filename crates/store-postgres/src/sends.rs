//! What statements are sent over: our connections, which remember what they have prepared, or a user's own.

use std::sync::Arc;

use deadpool_postgres::{GenericClient as _, Object};
use idempotency_core::StoreError;
use tokio_postgres::{
    Row, Statement,
    types::{ToSql, Type},
};

use crate::error::store_error;

/// Whatever statements can be sent over.
pub(crate) trait Sends: Sync {
    fn prepared(
        &self,
        statement: &str,
        types: &[Type],
    ) -> impl Future<Output = Result<Statement, tokio_postgres::Error>> + Send;

    fn rows(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + Send;
}

/// Those of our pools remember what they have prepared.
macro_rules! sends {
    ($($ours:ty),+) => {$(
        impl Sends for $ours {
            async fn prepared(&self, statement: &str, types: &[Type]) -> Result<Statement, tokio_postgres::Error> {
                self.prepare_typed_cached(statement, types).await
            }

            async fn rows(
                &self,
                statement: &Statement,
                params: &[&(dyn ToSql + Sync)],
            ) -> Result<Vec<Row>, tokio_postgres::Error> {
                self.query(statement, params).await
            }
        }
    )+};
}

sends!(Object, Arc<Object>, deadpool_postgres::Transaction<'_>);

/// One of the user's own.
pub(crate) struct Theirs<'a, C>(pub(crate) &'a C);

impl<C: tokio_postgres::GenericClient + Sync> Sends for Theirs<'_, C> {
    async fn prepared(&self, statement: &str, types: &[Type]) -> Result<Statement, tokio_postgres::Error> {
        self.0.prepare_typed(statement, types).await
    }

    async fn rows(
        &self,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        self.0.query(statement, params).await
    }
}

pub(crate) async fn query<C: Sends>(
    client: &C,
    statement: &str,
    types: &[Type],
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let statement = client.prepared(statement, types).await.map_err(store_error)?;
    client.rows(&statement, params).await.map_err(store_error)
}
