//! Where the records are: what runs in one table, what is settled in another.
//!
//! What runs is little. It fills a few pages, which a claim and a renewal write anew, in the place of one page each somewhere among
//! all that was ever settled. Measured, see ARCHITECTURE.md.

use std::ops::Bound;

use bytes::Bytes;
use idempotency_core::{Cursor, Page, Record, RequestId, State, StoreError, StoreErrorKind};
use redb::{
    AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use time::OffsetDateTime;

use crate::error::Failure;

type Definition = TableDefinition<'static, &'static [u8; 32], &'static [u8]>;

/// A record by its id: when it is looked at for pruning, when it expires, and its frame. One that was written before there was
/// a table for it may run in the other.
pub(crate) const RUNNING: Definition = TableDefinition::new("running");
pub(crate) const SETTLED: Definition = TableDefinition::new("records");

/// An instant whose bytes are in the order of time.
pub(crate) type Instant = [u8; 12];

/// The two instants before a frame.
const PREFIX: usize = 24;

/// What one command came to; the outer error is one of the transaction.
pub(crate) type Applied<T> = Result<Result<T, StoreError>, Failure>;

/// Goes on with what is there, or ends with the error of this command alone.
macro_rules! own {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Ok(Err(error.into())),
        }
    };
}
pub(crate) use own;

/// The table that a record is in. An id is in one of them at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Running,
    Settled,
}

impl Place {
    pub(crate) fn of(record: &Record) -> Self {
        match record.state {
            State::Processing { .. } => Self::Running,
            State::Completed(_) | State::Halted(_) => Self::Settled,
        }
    }
}

/// Where a value is, and the value.
type Found<'a> = (Place, AccessGuard<'a, &'static [u8]>);

/// Both tables within a transaction.
pub(crate) struct Records<T> {
    running: T,
    settled: T,
}

type Written<'txn> = Table<'txn, &'static [u8; 32], &'static [u8]>;

impl<'txn> Records<Written<'txn>> {
    /// Makes the tables that are not there yet.
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, Failure> {
        Ok(Self { running: txn.open_table(RUNNING)?, settled: txn.open_table(SETTLED)? })
    }

    /// `before` is where the id is so far.
    pub(crate) fn put(
        &mut self,
        id: &[u8; 32],
        before: Option<Place>,
        place: Place,
        value: &[u8],
    ) -> Result<(), Failure> {
        if let Some(before) = before.filter(|before| *before != place) {
            self.remove(id, before)?;
        }
        self.table(place).insert(id, value)?;
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: &[u8; 32], place: Place) -> Result<(), Failure> {
        self.table(place).remove(id)?;
        Ok(())
    }

    fn table(&mut self, place: Place) -> &mut Written<'txn> {
        match place {
            Place::Running => &mut self.running,
            Place::Settled => &mut self.settled,
        }
    }
}

impl Records<ReadOnlyTable<&'static [u8; 32], &'static [u8]>> {
    pub(crate) fn read(txn: &ReadTransaction) -> Result<Self, Failure> {
        Ok(Self { running: txn.open_table(RUNNING)?, settled: txn.open_table(SETTLED)? })
    }
}

impl<T: ReadableTable<&'static [u8; 32], &'static [u8]>> Records<T> {
    /// The value of an id, and where it is.
    pub(crate) fn find(&self, id: &[u8; 32]) -> Result<Option<Found<'_>>, Failure> {
        if let Some(value) = self.running.get(id)? {
            return Ok(Some((Place::Running, value)));
        }
        Ok(self.settled.get(id)?.map(|value| (Place::Settled, value)))
    }

    /// The record of an id, unless it has expired.
    pub(crate) fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Applied<Option<Record>> {
        let Some((_, value)) = self.find(id.as_bytes())? else { return Ok(Ok(None)) };
        let record = own!(record(value.value()));
        Ok(Ok(Some(record).filter(|record| !record.is_expired(now))))
    }

    /// A page of all records in the order of their ids. One that cannot be read is an error: left out it would be lost by
    /// whoever copies them.
    pub(crate) fn scan(&self, cursor: Option<&Cursor>, limit: usize) -> Applied<Page> {
        let last: Option<[u8; 32]> = match cursor.map(|cursor| cursor.as_bytes()[..].try_into()) {
            None => None,
            Some(Ok(last)) => Some(last),
            Some(Err(_)) => {
                let error = StoreError::new(StoreErrorKind::Invalid, "not a cursor of this store");
                return Ok(Err(error.not_applied()));
            }
        };
        let after = (last.as_ref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let running = self.running.range::<&[u8; 32]>(after)?.take(limit);
        let settled = self.settled.range::<&[u8; 32]>(after)?.take(limit);
        let mut entries = running.chain(settled).collect::<Result<Vec<_>, _>>()?;
        entries.sort_unstable_by(|(one, _), (other, _)| one.value().cmp(other.value()));
        entries.truncate(limit);
        let mut page = Page::default();
        for (id, value) in &entries {
            page.records.push((RequestId::from_bytes(*id.value()), own!(record(value.value()))));
        }
        if page.records.len() == limit {
            page.next = page.records.last().map(|(id, _)| Cursor::new(id.as_bytes().to_vec()));
        }
        Ok(Ok(page))
    }
}

/// A record, where it is, and the instant under which it is noted.
pub(crate) struct Stored {
    pub(crate) place: Place,
    pub(crate) noted: Instant,
    pub(crate) record: Record,
}

impl Stored {
    pub(crate) fn read(place: Place, value: &[u8]) -> Result<Self, StoreError> {
        let (noted, _) = value.split_first_chunk::<12>().ok_or_else(cut_off)?;
        Ok(Self { place, noted: *noted, record: record(value)? })
    }
}

fn record(value: &[u8]) -> Result<Record, StoreError> {
    let frame = value.get(PREFIX..).ok_or_else(cut_off)?;
    Ok(idempotency_frame::decode(Bytes::copy_from_slice(frame))?)
}

fn cut_off() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "a stored record is cut off").not_applied()
}

pub(crate) fn expires_at(value: &[u8]) -> Option<Instant> {
    value.get(12..PREFIX)?.try_into().ok()
}
