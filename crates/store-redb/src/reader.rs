//! The thread that reads, beside the one that writes: it sees what was committed last.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
};

use futures_channel::oneshot;
use futures_executor::block_on;
use idempotency_core::{Cursor, RequestId, StoreError, StoreReply};
use redb::{ReadTransaction, ReadableDatabase};
use time::OffsetDateTime;

use crate::{
    disk::{Disk, closed},
    error::Failure,
    records::Records,
    writer::Job,
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
fn run(disk: &Disk, reads: &Receiver<Read>, jobs: &Sender<Job>) {
    while let Ok(read) = reads.recv() {
        let mut found = attempt(disk, &read.what);
        let is_open = disk.database().is_some();
        if found.is_err() || !is_open {
            // redb refuses everything after an error until the file is opened anew, which is the writer's to do.
            if is_open {
                disk.suspect();
            }
            let (reply, mended) = oneshot::channel();
            let job = Job { commands: Vec::new(), now: OffsetDateTime::UNIX_EPOCH, reply };
            if jobs.send(job).is_ok() && block_on(mended).is_ok() {
                found = attempt(disk, &read.what);
            }
        }
        let _ = read.reply.send(found.unwrap_or_else(|failure| Err(failure.error(false))));
    }
}

fn attempt(disk: &Disk, what: &What) -> Result<Result<StoreReply, StoreError>, Failure> {
    catch_unwind(AssertUnwindSafe(|| answer(disk, what))).unwrap_or(Err(Failure::Panicked))
}

fn answer(disk: &Disk, what: &What) -> Result<Result<StoreReply, StoreError>, Failure> {
    let database = disk.database();
    let Some(database) = &*database else { return Ok(Err(closed())) };
    let txn: ReadTransaction = database.begin_read()?;
    let records = Records::read(&txn)?;
    Ok(match what {
        What::Lookup { id, now } => {
            records.lookup(id, *now)?.map(|found| StoreReply::Found(found.map(Box::new)))
        }
        What::Scan { cursor, limit } => records.scan(cursor.as_ref(), *limit)?.map(StoreReply::Page),
    })
}

/// With a way to the writer, which ends when this thread has.
pub(crate) fn start(
    disk: Arc<Disk>,
    reads: Receiver<Read>,
    jobs: Sender<Job>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let builder = std::thread::Builder::new().name("idempotency-redb-reader".to_owned());
    builder.spawn(move || run(&disk, &reads, &jobs))
}
