//! What the store holds and what it costs. No lock and no async here; [`MemoryStore`](crate::MemoryStore) adds both.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use foldhash::quality::RandomState;
use idempotency_core::{
    Body, Claim, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored, SecretCheck, Setup, State,
    StoreCommand, StoreError, StoreErrorKind, StoreReply, StoredResponse, Update, Updated, Write,
};
use time::OffsetDateTime;

use crate::MemoryConfig;

/// What a record costs beside its meta and body: its place in the map, half of which may be empty, and in the index.
const OVERHEAD: usize = 640;

/// What a claim reserves for the response to come.
const RESERVE: usize = 1024;

/// How many expired records are cleared away before something is refused for want of room.
const PRUNED_AT_ONCE: usize = 16;

type ExpiryKey = (i128, RequestId);

/// The records, an index by expiry, and the bytes in use.
#[derive(Debug)]
pub(crate) struct Records {
    map: HashMap<RequestId, Record, RandomState>,
    by_expiry: BTreeSet<ExpiryKey>,
    used: usize,
    config: MemoryConfig,
    secret_check: Option<SecretCheck>,
    moved_to: Option<String>,
}

impl Records {
    pub(crate) fn new(config: MemoryConfig) -> Self {
        Self {
            map: HashMap::default(),
            by_expiry: BTreeSet::new(),
            used: 0,
            config,
            secret_check: None,
            moved_to: None,
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn apply(
        &mut self,
        command: &StoreCommand,
        now: OffsetDateTime,
    ) -> Result<StoreReply, StoreError> {
        Ok(match command {
            StoreCommand::Setup(setup) => {
                self.setup(setup)?;
                StoreReply::Done
            }
            StoreCommand::Lookup(id) => StoreReply::Found(self.lookup(id, now)),
            StoreCommand::Insert(claim) => StoreReply::Inserted(self.insert(claim, now)?),
            StoreCommand::Update(update) => StoreReply::Updated(self.update(update, now)),
            StoreCommand::Prune { limit } => StoreReply::Pruned(self.prune(now, *limit)),
            StoreCommand::Scan { cursor, limit } => StoreReply::Page(self.scan(cursor.as_ref(), *limit)?),
            StoreCommand::Restore { id, record } => StoreReply::Restored(self.restore(id, record, now)?),
            StoreCommand::Retire { to } => {
                self.retire(to);
                StoreReply::Done
            }
            StoreCommand::Close => StoreReply::Done,
            other => {
                let message = format!("the memory store does not offer `{}`", other.name());
                return Err(StoreError::new(StoreErrorKind::Unsupported, message).not_applied());
            }
        })
    }

    pub(crate) fn setup(&mut self, setup: &Setup) -> Result<(), StoreError> {
        if let Some(to) = &self.moved_to {
            return Err(
                StoreError::new(StoreErrorKind::Moved, format!("the records moved to {to}")).not_applied()
            );
        }
        if *self.secret_check.get_or_insert(setup.secret_check) != setup.secret_check {
            let message = "the records were made with another secret (or with none)";
            return Err(StoreError::new(StoreErrorKind::WrongSecret, message).not_applied());
        }
        Ok(())
    }

    pub(crate) fn retire(&mut self, to: &str) {
        self.moved_to = Some(to.to_owned());
    }

    pub(crate) fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Option<Record> {
        self.map.get(id).filter(|record| !record.is_expired(now)).cloned()
    }

    pub(crate) fn insert(&mut self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        let step = Record::on_insert(self.map.get(&claim.id), claim, now);
        if let Write::Put(record) = step.write {
            self.make_room(&claim.id, &record, now)?;
            self.put(claim.id, record);
        }
        Ok(step.answer)
    }

    pub(crate) fn update(&mut self, update: &Update, now: OffsetDateTime) -> Updated {
        let step = Record::on_update(self.map.get(&update.id), update, now);
        match step.write {
            Write::Keep => {}
            Write::Put(record) => {
                let record = self.shrunk_to_fit(&update.id, record, now);
                self.put(update.id, record);
            }
            Write::Delete => self.delete(&update.id),
        }
        step.answer
    }

    pub(crate) fn restore(
        &mut self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        let step = Record::on_restore(self.map.get(id), record, now);
        if let Write::Put(record) = step.write {
            let record = self.shrunk_to_fit(id, record, now);
            if self.used_with(id, &record) > self.config.budget {
                return Err(self.full());
            }
            self.put(*id, record);
        }
        Ok(step.answer)
    }

    /// Costs what it deletes, whatever else is stored.
    pub(crate) fn prune(&mut self, now: OffsetDateTime, limit: usize) -> Pruned {
        let now = now.unix_timestamp_nanos();
        let mut deleted = 0;
        while deleted < limit {
            match self.by_expiry.first() {
                Some(&(expires_at, id)) if expires_at <= now => self.delete(&id),
                _ => return Pruned { deleted, more: false },
            }
            deleted += 1;
        }
        Pruned { deleted, more: self.by_expiry.first().is_some_and(|(expires_at, _)| *expires_at <= now) }
    }

    /// Goes along the expiry index: a record that is not touched during the scan keeps its place there.
    pub(crate) fn scan(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        let keys: Vec<ExpiryKey> = match cursor.map(decode_cursor).transpose()? {
            None => self.by_expiry.iter().copied().take(limit).collect(),
            Some(last) => {
                use std::ops::Bound::{Excluded, Unbounded};
                self.by_expiry.range((Excluded(last), Unbounded)).copied().take(limit).collect()
            }
        };
        let next = (keys.len() == limit).then(|| keys.last().map(encode_cursor)).flatten();
        let records = keys
            .into_iter()
            .filter_map(|(_, id)| self.map.get(&id).map(|record| (id, record.clone())))
            .collect();
        Ok(Page { records, next })
    }

    /// A claim may grow what is used to nine tenths of the budget, and one that grows nothing is always taken.
    fn make_room(&mut self, id: &RequestId, record: &Record, now: OffsetDateTime) -> Result<(), StoreError> {
        if self.fits(id, record) {
            return Ok(());
        }
        self.prune(now, PRUNED_AT_ONCE);
        if self.fits(id, record) { Ok(()) } else { Err(self.full()) }
    }

    fn fits(&self, id: &RequestId, record: &Record) -> bool {
        self.used_with(id, record) <= self.used.max(self.config.budget / 10 * 9)
    }

    /// The record without its body, if it does not fit with it: the fact is never lost.
    fn shrunk_to_fit(&mut self, id: &RequestId, mut record: Record, now: OffsetDateTime) -> Record {
        if self.used_with(id, &record) > self.config.budget {
            self.prune(now, PRUNED_AT_ONCE);
        }
        let fits = self.used_with(id, &record) <= self.config.budget;
        if let State::Completed(response) = record.state {
            // A copy, for it may be a slice of a buffer that is larger than all we account for.
            record.state = State::Completed(match response.bytes() {
                Some(bytes) if fits => {
                    StoredResponse::from_parts(response.digest(), Body::Kept(Bytes::copy_from_slice(bytes)))
                }
                _ => response.without_body(),
            });
        }
        record
    }

    fn used_with(&self, id: &RequestId, record: &Record) -> usize {
        self.used - self.map.get(id).map_or(0, cost) + cost(record)
    }

    fn put(&mut self, id: RequestId, record: Record) {
        let key = (record.expires_at.unix_timestamp_nanos(), id);
        self.used += cost(&record);
        if let Some(old) = self.map.insert(id, record) {
            self.used -= cost(&old);
            let old_key = (old.expires_at.unix_timestamp_nanos(), id);
            if old_key == key {
                return;
            }
            self.by_expiry.remove(&old_key);
        }
        self.by_expiry.insert(key);
    }

    fn delete(&mut self, id: &RequestId) {
        if let Some(old) = self.map.remove(id) {
            self.used -= cost(&old);
            self.by_expiry.remove(&(old.expires_at.unix_timestamp_nanos(), *id));
        }
    }

    fn full(&self) -> StoreError {
        let message = format!("{} of {} bytes in use", self.used, self.config.budget);
        StoreError::new(StoreErrorKind::Full, message).not_applied()
    }
}

fn cost(record: &Record) -> usize {
    let body = match &record.state {
        State::Processing { .. } => RESERVE,
        State::Completed(response) => response.kept_len(),
        State::Halted(_) => 0,
    };
    OVERHEAD + record.meta.as_bytes().len() + body
}

fn encode_cursor((expires_at, id): &ExpiryKey) -> Cursor {
    let mut bytes = expires_at.to_be_bytes().to_vec();
    bytes.extend_from_slice(id.as_bytes());
    Cursor::new(bytes)
}

fn decode_cursor(cursor: &Cursor) -> Result<ExpiryKey, StoreError> {
    let bytes = cursor.as_bytes();
    bytes
        .split_first_chunk::<16>()
        .and_then(|(expires_at, id)| {
            Some((i128::from_be_bytes(*expires_at), RequestId::from_bytes(id.try_into().ok()?)))
        })
        .ok_or_else(|| StoreError::new(StoreErrorKind::Invalid, "not a cursor of this store").not_applied())
}
