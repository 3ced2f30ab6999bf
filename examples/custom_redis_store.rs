//! A user's own Redis store, as the documentation of the original shows one: read, `SET` with an expiry, update, and a
//! prune that does nothing, since Redis lets go of what has expired. The table of `core` decides, between `WATCH` and
//! `EXEC`, so that nobody writes in between.
//!
//! ```sh
//! cargo run --example custom_redis_store                  # on redis://127.0.0.1, or on the URL that follows
//! ```
//!
//! What it lacks against `RedisStore`: a step takes three round trips instead of one and holds the connection meanwhile;
//! the times are the caller's, so that all nodes need the same clock; results are refused when the server is out of
//! memory; neither eviction nor durability is verified; there is no scan, no restore, no push and no cluster; and a key that
//! many want at once is tried again and again.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use idempotency::{
    Once, Outcome, Record, RequestId, Scope, Tracker,
    store::{
        Capabilities, Claim, Inserted, Pruned, Setup, Store, StoreError, StoreErrorKind, Transition, Update,
        Updated, Write,
    },
};
use redis::{RedisError, aio::MultiplexedConnection};
use time::OffsetDateTime;
use tokio::sync::Mutex;

/// One connection, which `WATCH` needs for itself; it is made anew after it has failed.
struct UsersRedisStore {
    client: redis::Client,
    connection: Mutex<Option<MultiplexedConnection>>,
    prefix: String,
}

fn failed(error: RedisError) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "Redis did not do it").with_source(error)
}

impl UsersRedisStore {
    fn open(url: &str, prefix: &str) -> Result<Self, RedisError> {
        let (client, connection) = (redis::Client::open(url)?, Mutex::default());
        Ok(Self { client, connection, prefix: prefix.to_owned() })
    }

    /// Reads, asks the table, writes. Whoever was quicker makes it begin again.
    async fn step<T>(
        &self,
        id: &RequestId,
        now: OffsetDateTime,
        decide: impl Fn(Option<&Record>) -> Transition<T>,
    ) -> Result<T, StoreError> {
        let key = [self.prefix.as_bytes(), id.as_bytes()].concat();
        let mut held = self.connection.lock().await;
        // Not there while it is used: whoever gives up or fails leaves no half of a step to the next one.
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => self.client.get_multiplexed_async_connection().await.map_err(failed)?,
        };
        loop {
            let mut look = redis::pipe();
            look.cmd("WATCH").arg(&key).ignore().cmd("GET").arg(&key);
            let (value,): (Option<Vec<u8>>,) = look.query_async(&mut connection).await.map_err(failed)?;
            let stored = value.map(|value| idempotency_frame::decode(Bytes::from(value))).transpose()?;
            let Transition { write, answer } = decide(stored.as_ref());
            let mut change = redis::pipe();
            match write {
                Write::Keep => change.atomic().cmd("PING").ignore(),
                Write::Delete => change.atomic().cmd("DEL").arg(&key).ignore(),
                Write::Put(record) => {
                    // Not a moment too early.
                    let left = (record.expires_at - now).whole_milliseconds().clamp(0, 1 << 50) as u64 + 1;
                    let value = idempotency_frame::encode(&record)?;
                    change.atomic().cmd("SET").arg(&key).arg(value).arg("PX").arg(left).ignore()
                }
            };
            if change.query_async::<Option<()>>(&mut connection).await.map_err(failed)?.is_some() {
                *held = Some(connection);
                return Ok(answer);
            }
        }
    }
}

#[async_trait]
impl Store for UsersRedisStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        let (key, check) = (format!("{}secret", self.prefix), setup.secret_check.as_bytes());
        let mut connection = self.client.get_multiplexed_async_connection().await.map_err(failed)?;
        let mut first = redis::pipe();
        first.cmd("SETNX").arg(&key).arg(check).ignore().cmd("GET").arg(&key);
        let (known,): (Vec<u8>,) = first.query_async(&mut connection).await.map_err(failed)?;
        let wrong = || StoreError::new(StoreErrorKind::WrongSecret, "made with another secret");
        (known == check).then_some(()).ok_or_else(wrong)
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        let live = |stored: Option<&Record>| stored.filter(|it| !it.is_expired(now)).cloned();
        self.step(id, now, |stored| Transition { write: Write::Keep, answer: live(stored) }).await
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.step(&claim.id, now, |stored| Record::on_insert(stored, claim, now)).await
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.step(&update.id, now, |stored| Record::on_update(stored, update, now)).await
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.native_expiry = true;
        capabilities
    }

    /// Redis does it.
    async fn prune(&self, _: OffsetDateTime, _: usize) -> Result<Pruned, StoreError> {
        Ok(Pruned { deleted: 0, more: false })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1".to_owned());
    let store = UsersRedisStore::open(&url, "custom_redis_store:")?;
    let tracker = Tracker::builder(store).retention(Duration::from_secs(60)).spawn().await?;
    let id = tracker.request_id(&Scope::global(), [&b"e-mail"[..], b"order-1"]);
    let payload = tracker.fingerprint([&b"your order has shipped"[..]]);
    for _ in 0..2 {
        let send_mail = || async {
            println!("sending a mail");
            Outcome::<()>::done("sent")
        };
        match tracker.once(id, payload, send_mail).await? {
            Once::Done { response, replayed, .. } => println!("{:?}, replayed: {replayed}", response.bytes()),
            other => println!("{other:?}"),
        }
    }
    tracker.shutdown(Duration::from_secs(1)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use idempotency_store_testkit::{OnRealTime, conformance, servers::Redis};

    use super::*;

    static REDIS: LazyLock<Redis> = LazyLock::new(|| Redis::start(&[]));

    fn opened(name: &str) -> UsersRedisStore {
        UsersRedisStore::open(&REDIS.url(), &format!("{name}:")).unwrap()
    }

    conformance!(OnRealTime::new(async |name: String| opened(&name)).opened_once());
}
