//! Bare redb, also for the benchmarks beside peers, which include this file.

use std::{ops::Range, path::Path, time::Instant};

use idempotency_core::{RequestId, Scope};
use redb::{Database, ReadableTable, TableDefinition};

const RECORDS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("records");
const EXPIRY: TableDefinition<&[u8; 44], ()> = TableDefinition::new("expiry");

/// What any store on redb has to do, and nothing else: look for the row, then write it and its index entry (a claim); look
/// for the row, then write it again (a put).
pub(crate) struct Bare {
    database: Database,
    batch: u64,
    /// How many bytes a response has.
    len: usize,
}

impl Bare {
    pub(crate) fn open(path: &Path, batch: usize, len: usize) -> Self {
        let database = Database::builder().set_cache_size(64 * 1024 * 1024).create(path).expect("a database");
        Self { database, batch: batch as u64, len }
    }

    /// A claim and a put of each. What each pair of commits took, in seconds.
    pub(crate) fn cycles(&self, numbers: Range<u64>) -> Vec<f64> {
        let (claim, put) = (vec![1; 130], vec![7; self.len + 150]);
        let mut took = Vec::new();
        for first in numbers.clone().step_by(self.batch as usize) {
            let batch = first..(first + self.batch).min(numbers.end);
            let since = Instant::now();
            for (value, is_put) in [(&claim, false), (&put, true)] {
                self.commit(batch.clone(), value, is_put);
            }
            took.push(since.elapsed().as_secs_f64());
        }
        took
    }

    fn commit(&self, numbers: Range<u64>, value: &[u8], is_put: bool) {
        let txn = self.database.begin_write().expect("a transaction");
        {
            let mut records = txn.open_table(RECORDS).expect("a table");
            let mut expiry = txn.open_table(EXPIRY).expect("a table");
            for number in numbers {
                let id = id(number);
                let found = records.get(id.as_bytes()).expect("a lookup").is_some();
                assert_eq!(found, is_put);
                records.insert(id.as_bytes(), value).expect("a row");
                if !is_put {
                    let mut key = [0; 44];
                    key[4..12].copy_from_slice(&number.to_be_bytes());
                    key[12..].copy_from_slice(id.as_bytes());
                    expiry.insert(&key, ()).expect("an entry");
                }
            }
        }
        txn.commit().expect("a commit");
    }
}

pub(crate) fn id(number: u64) -> RequestId {
    RequestId::derive(None, &Scope::global(), [&number.to_le_bytes()[..]])
}
