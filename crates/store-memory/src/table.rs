//! Records by their id. They are never moved, so that no call waits while they become many: they lie in chunks, and what finds
//! them is many small tables, each of which grows by itself.

use std::{hash::BuildHasher, mem};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use idempotency_core::{Record, RequestId};

/// How many tables: of ten million records the largest step is to move forty thousand entries of eight bytes.
const TABLES: usize = 256;

/// How many records a chunk has.
const CHUNK: usize = 1024;

/// Where a record lies, as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u32);

#[derive(Debug)]
pub(crate) struct Table {
    hasher: RandomState,
    tables: Box<[HashTable<Entry>]>,
    chunks: Vec<Vec<Option<Stored>>>,
    /// Four bytes for each that was deleted.
    free: Vec<Slot>,
    len: usize,
}

/// With a part of the hash, so that a table grows without a look at the records.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    slot: Slot,
}

#[derive(Debug)]
struct Stored {
    id: RequestId,
    record: Record,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            tables: (0..TABLES).map(|_| HashTable::new()).collect(),
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn find(&self, id: &RequestId) -> Option<Slot> {
        let (table, hash) = self.place(id);
        let is_its = |entry: &Entry| entry.hash == hash && self.stored(entry.slot).id == *id;
        self.tables[table].find(spread(hash), is_its).map(|entry| entry.slot)
    }

    pub(crate) fn record(&self, slot: Slot) -> &Record {
        &self.stored(slot).record
    }

    /// What lies there, if anything does.
    pub(crate) fn get(&self, slot: Slot) -> Option<(&RequestId, &Record)> {
        self.at(slot).map(|Stored { id, record }| (id, record))
    }

    /// Where records may lie, from this place on.
    pub(crate) fn slots(&self, from: Slot) -> impl Iterator<Item = Slot> + use<> {
        let last = self.chunks.last().map_or(0, |chunk| (self.chunks.len() - 1) * CHUNK + chunk.len());
        (from.0..last as u32).map(Slot)
    }

    /// The record of an id that has none.
    pub(crate) fn insert(&mut self, id: RequestId, record: Record) -> Slot {
        let stored = Some(Stored { id, record });
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.cell(slot) = stored;
                slot
            }
            None => self.append(stored),
        };
        let (table, hash) = self.place(&id);
        self.tables[table].insert_unique(spread(hash), Entry { hash, slot }, |entry| spread(entry.hash));
        self.len += 1;
        slot
    }

    /// Another record in the place of this one.
    pub(crate) fn replace(&mut self, slot: Slot, record: Record) -> Record {
        let stored = self.cell(slot).as_mut().expect("a slot is known as long as something is there");
        mem::replace(&mut stored.record, record)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Record {
        let Stored { id, record } =
            self.cell(slot).take().expect("a slot is known as long as something is there");
        let (table, hash) = self.place(&id);
        let entry = self.tables[table].find_entry(spread(hash), |entry| entry.slot == slot);
        entry.expect("it is found as long as it is there").remove();
        self.free.push(slot);
        self.len -= 1;
        record
    }

    fn append(&mut self, stored: Option<Stored>) -> Slot {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("one was added");
        chunk.push(stored);
        Slot(u32::try_from(before + chunk.len() - 1).expect("four billion records take a terabyte"))
    }

    fn stored(&self, slot: Slot) -> &Stored {
        self.at(slot).expect("a slot is known as long as something is there")
    }

    fn at(&self, Slot(slot): Slot) -> Option<&Stored> {
        self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?.as_ref()
    }

    fn cell(&mut self, Slot(slot): Slot) -> &mut Option<Stored> {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    /// Which table, and its hash there.
    fn place(&self, id: &RequestId) -> (usize, u32) {
        let hash = self.hasher.hash_one(id);
        ((hash >> 32) as usize % TABLES, hash as u32)
    }
}

impl From<Slot> for u32 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl From<u32> for Slot {
    fn from(slot: u32) -> Self {
        Self(slot)
    }
}

/// A table takes its buckets from the low bits and tells entries apart by the high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}
