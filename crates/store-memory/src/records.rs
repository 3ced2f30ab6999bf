//! What the store holds and what it costs. No lock and no async here; [`MemoryStore`](crate::MemoryStore) adds both.

use bytes::Bytes;
use idempotency_core::{
    Body, Claim, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored, SecretCheck, Setup, State,
    StoreCommand, StoreError, StoreErrorKind, StoreReply, StoredResponse, Update, Updated, Write,
};
use time::OffsetDateTime;

use crate::{
    MemoryConfig,
    expiry::{Entry, Expiry},
    table::{Slot, Table},
};

/// What a record costs beside its meta and body: its place in the table, the places of what finds it and of the index, half of
/// which may be empty, and what an allocator adds to a body.
const OVERHEAD: usize = 512;

/// What a claim reserves for the response to come.
const RESERVE: usize = 1024;

/// How many places a page of a scan goes along, if it wants no more records.
const PLACES_A_PAGE: usize = if cfg!(test) { 16 } else { 4096 };

/// How many expired records are cleared away before something is refused for want of room.
const PRUNED_AT_ONCE: usize = 16;

/// The records, which of them expires next, and the bytes in use.
#[derive(Debug)]
pub(crate) struct Records {
    table: Table,
    expiry: Expiry,
    used: usize,
    config: MemoryConfig,
    secret_check: Option<SecretCheck>,
    moved_to: Option<String>,
}

impl Records {
    pub(crate) fn new(config: MemoryConfig) -> Self {
        Self {
            table: Table::new(),
            expiry: Expiry::default(),
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
        self.table.len()
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
            StoreCommand::Lookup(id) => StoreReply::Found(self.lookup(id, now).map(Box::new)),
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
        let record = self.table.record(self.table.find(id)?);
        (!record.is_expired(now)).then(|| record.clone())
    }

    pub(crate) fn insert(&mut self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        let mut slot = self.table.find(&claim.id);
        let step = Record::on_insert(slot.map(|slot| self.table.record(slot)), claim, now);
        if let Write::Put(record) = step.write {
            if !self.takes(slot, &record) {
                slot = self.make_room(&claim.id, now);
            }
            if !self.takes(slot, &record) {
                return Err(self.full());
            }
            self.put(slot, claim.id, record);
        }
        Ok(step.answer)
    }

    pub(crate) fn update(&mut self, update: &Update, now: OffsetDateTime) -> Updated {
        let slot = self.table.find(&update.id);
        let step = Record::on_update(slot.map(|slot| self.table.record(slot)), update, now);
        match (step.write, slot) {
            (Write::Put(record), _) => {
                let (slot, record) = self.shrunk_to_fit(slot, &update.id, record, now);
                self.put(slot, update.id, record);
            }
            (Write::Delete, Some(slot)) => self.delete(slot),
            (Write::Delete, None) | (Write::Keep, _) => {}
        }
        step.answer
    }

    pub(crate) fn restore(
        &mut self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        let slot = self.table.find(id);
        let step = Record::on_restore(slot.map(|slot| self.table.record(slot)), record, now);
        if let Write::Put(record) = step.write {
            let (slot, record) = self.shrunk_to_fit(slot, id, record, now);
            if self.used_with(slot, &record) > self.config.budget {
                return Err(self.full());
            }
            self.put(slot, *id, record);
        }
        Ok(step.answer)
    }

    /// Costs what it deletes, whatever else is stored; and a look at what was to expire by now and was deleted before.
    pub(crate) fn prune(&mut self, now: OffsetDateTime, limit: usize) -> Pruned {
        let now = nanos(now);
        let mut deleted = 0;
        while let Some(entry) = self.expiry.due(now) {
            let is_right = is_right(&self.table, &entry);
            if is_right && deleted == limit {
                return Pruned { deleted, more: true };
            }
            self.expiry.take(&entry, is_right);
            if is_right {
                self.used -= cost(&self.table.remove(entry.1));
                deleted += 1;
            }
        }
        Pruned { deleted, more: false }
    }

    /// Goes along the places: a record keeps its own as long as it is there. Where most are empty a page is short.
    pub(crate) fn scan(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        let from = cursor.map_or(Ok(Slot::from(0)), decode_cursor)?;
        let (mut records, mut next) = (Vec::new(), None);
        // Of nothing there is no next page.
        let slots = self.table.slots(from).take_while(|_| limit > 0);
        for (looked_at, slot) in slots.enumerate() {
            if records.len() == limit || looked_at == limit.max(PLACES_A_PAGE) {
                next = Some(encode_cursor(slot));
                break;
            }
            records.extend(self.table.get(slot).map(|(id, record)| (*id, record.clone())));
        }
        Ok(Page { records, next })
    }

    /// A claim may grow what is used to nine tenths of the budget, and one that grows nothing is always taken.
    fn takes(&self, slot: Option<Slot>, record: &Record) -> bool {
        self.used_with(slot, record) <= self.used.max(self.config.budget / 10 * 9)
    }

    /// Where the record of this id lies afterwards: it may be one of those that had expired.
    fn make_room(&mut self, id: &RequestId, now: OffsetDateTime) -> Option<Slot> {
        self.prune(now, PRUNED_AT_ONCE);
        self.table.find(id)
    }

    /// The record without its body, if it does not fit with it: the fact is never lost.
    fn shrunk_to_fit(
        &mut self,
        mut slot: Option<Slot>,
        id: &RequestId,
        mut record: Record,
        now: OffsetDateTime,
    ) -> (Option<Slot>, Record) {
        if self.used_with(slot, &record) > self.config.budget {
            slot = self.make_room(id, now);
        }
        let fits = self.used_with(slot, &record) <= self.config.budget;
        if let State::Completed(response) = record.state {
            // A copy, for it may be a slice of a buffer that is larger than all we account for.
            record.state = State::Completed(match response.bytes() {
                Some(bytes) if fits => {
                    StoredResponse::from_parts(response.digest(), Body::Kept(Bytes::copy_from_slice(bytes)))
                }
                _ => response.without_body(),
            });
        }
        (slot, record)
    }

    fn used_with(&self, slot: Option<Slot>, record: &Record) -> usize {
        self.used - slot.map_or(0, |slot| cost(self.table.record(slot))) + cost(record)
    }

    fn put(&mut self, slot: Option<Slot>, id: RequestId, record: Record) {
        let (expires_at, moves_on) = (nanos(record.expires_at), !record.state.is_settled());
        self.used += cost(&record);
        let slot = match slot {
            None => self.table.insert(id, record),
            Some(slot) => {
                let old = self.table.replace(slot, record);
                self.used -= cost(&old);
                let expired_at = nanos(old.expires_at);
                if expired_at == expires_at {
                    return;
                }
                self.unlist((expired_at, slot));
                slot
            }
        };
        self.expiry.add((expires_at, slot), moves_on);
    }

    fn delete(&mut self, slot: Slot) {
        let old = self.table.remove(slot);
        self.used -= cost(&old);
        self.unlist((nanos(old.expires_at), slot));
    }

    /// Entries of what expires, for tests: at least one for each record.
    #[cfg(test)]
    pub(crate) fn listed(&self) -> usize {
        self.expiry.len()
    }

    fn unlist(&mut self, entry: Entry) {
        self.expiry.remove(&entry);
        if self.expiry.is_to_be_sifted() {
            self.expiry.sift(|entry| is_right(&self.table, entry));
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

/// Whether the record in that place expires at that time.
fn is_right(table: &Table, (at, slot): &Entry) -> bool {
    table.get(*slot).is_some_and(|(_, record)| nanos(record.expires_at) == *at)
}

fn encode_cursor(next: Slot) -> Cursor {
    Cursor::new(u32::from(next).to_be_bytes().to_vec())
}

fn decode_cursor(cursor: &Cursor) -> Result<Slot, StoreError> {
    let bytes = cursor.as_bytes()[..]
        .try_into()
        .map_err(|_| StoreError::new(StoreErrorKind::Invalid, "not a cursor of this store").not_applied())?;
    Ok(u32::from_be_bytes(bytes).into())
}

/// At the ends of time (1677 and 2262) it stays there.
fn nanos(instant: OffsetDateTime) -> i64 {
    instant.unix_timestamp_nanos().clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests;
