//! The thread that reads, beside the one that writes: it sees what was committed last.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc::Receiver},
};

use futures_channel::oneshot;
use idempotency_core::{Cursor, RequestId, StoreError, StoreReply};
use redb::{ReadTransaction, ReadableDatabase};
use time::OffsetDateTime;

use crate::{
    disk::{Disk, closed},
    error::Failure,
    tables::{self, RECORDS},
};

/// Something to read, and where it goes.
pub(crate) struct Read {
    pub(crate) what: What,
    pub(crate) reply: oneshot::Sender<Result<StoreReply, StoreError>>,
}

pub(crate) enum What {
    Lookup { id: RequestId, now: OffsetDateTime },
    Scan { cursor: Option<Cursor>, limit: usize },
}

/// Until the last handle is gone.
pub(crate) fn run(disk: &Disk, reads: &Receiver<Read>) {
    while let Ok(read) = reads.recv() {
        let found = catch_unwind(AssertUnwindSafe(|| answer(disk, &read.what)));
        let found = found.unwrap_or(Err(Failure::Panicked));
        let _ = read.reply.send(found.unwrap_or_else(|failure| Err(failure.error(false))));
    }
}

fn answer(disk: &Disk, what: &What) -> Result<Result<StoreReply, StoreError>, Failure> {
    let database = disk.database();
    let Some(database) = &*database else { return Ok(Err(closed())) };
    let txn: ReadTransaction = database.begin_read()?;
    let records = txn.open_table(RECORDS)?;
    Ok(match what {
        What::Lookup { id, now } => tables::lookup(&records, id, *now)?.map(StoreReply::Found),
        What::Scan { cursor, limit } => {
            tables::scan(&records, cursor.as_ref(), *limit)?.map(StoreReply::Page)
        }
    })
}

/// The threads' own handle on the disk.
pub(crate) fn start(disk: Arc<Disk>, reads: Receiver<Read>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let builder = std::thread::Builder::new().name("idempotency-redb-reader".to_owned());
    builder.spawn(move || run(&disk, &reads))
}
