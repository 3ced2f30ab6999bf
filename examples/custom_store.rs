//! A store of one's own: a `HashMap` behind a mutex, with the table of transitions of `core`.
//!
//! ```sh
//! cargo run --example custom_store
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use idempotency::{
    Error, Once, Outcome, Record, RequestId, Scope, Tracker,
    store::{
        Claim, Inserted, Pruned, SecretCheck, Setup, Store, StoreError, StoreErrorKind, Update, Updated,
        Write,
    },
};
use time::OffsetDateTime;

/// The whole store: read, ask the table, write, all under one lock.
#[derive(Debug, Default)]
struct HashMapStore {
    records: Mutex<HashMap<RequestId, Record>>,
    secret: OnceLock<SecretCheck>,
}

impl HashMapStore {
    fn step<T>(&self, step: impl FnOnce(&mut HashMap<RequestId, Record>) -> T) -> Result<T, StoreError> {
        let died = |_| StoreError::new(StoreErrorKind::Corrupt, "a thread died in the lock");
        let mut records = self.records.lock().map_err(died)?;
        Ok(step(&mut records))
    }
}

fn write(records: &mut HashMap<RequestId, Record>, id: RequestId, write: Write) {
    match write {
        Write::Keep => {}
        Write::Put(record) => drop(records.insert(id, record)),
        Write::Delete => drop(records.remove(&id)),
    }
}

#[async_trait]
impl Store for HashMapStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        match *self.secret.get_or_init(|| setup.secret_check) == setup.secret_check {
            true => Ok(()),
            false => Err(StoreError::new(StoreErrorKind::WrongSecret, "made with another secret")),
        }
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.step(|records| records.get(id).filter(|record| !record.is_expired(now)).cloned())
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.step(|records| {
            let step = Record::on_insert(records.get(&claim.id), claim, now);
            write(records, claim.id, step.write);
            step.answer
        })
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.step(|records| {
            let step = Record::on_update(records.get(&update.id), update, now);
            write(records, update.id, step.write);
            step.answer
        })
    }

    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.step(|records| {
            let expired = records.iter().filter(|(_, record)| record.is_expired(now)).map(|(id, _)| *id);
            let expired: Vec<RequestId> = expired.take(limit).collect();
            expired.iter().for_each(|id| drop(records.remove(id)));
            Pruned { deleted: expired.len(), more: expired.len() == limit }
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let tracker = Tracker::builder(HashMapStore::default()).spawn().await?;
    let id = tracker.request_id(&Scope::global(), [&b"e-mail"[..], b"order-1"]);
    let payload = tracker.fingerprint([&b"your order has shipped"[..]]);

    // The first call sends the mail, the second one gets what the first one said.
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
    use idempotency_store_testkit::{OnManualClock, conformance};

    use super::*;

    conformance!(OnManualClock::new(HashMapStore::default));
}
