//! A node for tests that is flooded: whoever starts it sends it requests on its standard input and reads the answers from its
//! standard output. A request is a tenant and a key, eight bytes each; an answer the
//! same and a letter.

use std::{
    io::{self, BufReader, BufWriter, ErrorKind::UnexpectedEof, Read, Write},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clap::Parser;
use idempotency::{
    Error, ErrorKind, MemoryConfig, MemoryStore, Once, Outcome, Scope, Tenant, TenantLimits, Track, Tracker,
    TrackerHandle,
};
use tokio::{
    runtime::Runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// A node that is to be flooded
#[derive(Debug, Parser)]
struct Args {
    /// What the records may take, in bytes
    #[arg(long)]
    budget: usize,

    /// What those of one tenant may
    #[arg(long)]
    tenant_bytes: u64,
}

/// Of each response, in bytes.
const RESPONSE: usize = 256;

/// How many requests are at work at once.
const AT_ONCE: u32 = 256;

fn main() -> io::Result<()> {
    let args = Args::parse();
    let runtime = Runtime::new()?;
    let store = MemoryStore::with_config(MemoryConfig::new().budget(args.budget));
    let limits = TenantLimits::new().max_stored_bytes(args.tenant_bytes);
    // Nothing here is about time: a machine that stands still must not matter.
    let patient = Duration::from_secs(30);
    let tracker = Tracker::builder(store).lease(patient * 4).store_limit(patient).put_patience(patient);
    let tracker = runtime.block_on(tracker.tenant_limits(limits).spawn());
    let tracker = tracker.expect("a memory store is always there");

    let (answers, answered) = mpsc::channel::<([u8; 16], u8, OwnedSemaphorePermit)>();
    let writing = thread::spawn(move || {
        let mut output = BufWriter::new(io::stdout().lock());
        while let Ok(first) = answered.recv() {
            // As many as there are, and none of them later.
            for (request, letter, place) in [first].into_iter().chain(answered.try_iter()) {
                output.write_all(&request)?;
                output.write_all(&[letter])?;
                drop(place);
            }
            output.flush()?;
        }
        io::Result::Ok(())
    });

    let room = Arc::new(Semaphore::new(AT_ONCE as usize));
    let mut input = BufReader::new(io::stdin().lock());
    loop {
        let mut request = [0; 16];
        match input.read_exact(&mut request) {
            Err(error) if error.kind() == UnexpectedEof => break,
            read => read?,
        }
        let place = runtime.block_on(room.clone().acquire_owned()).expect("it is never closed");
        let (tracker, answers) = (tracker.clone(), answers.clone());
        runtime.spawn(async move {
            let (tenant, key) = request.split_at(8);
            let letter = letter(work(&tracker, tenant, key).await);
            // The writer is gone if nobody reads any more.
            drop(answers.send((request, letter, place)));
        });
    }
    drop(runtime.block_on(room.acquire_many(AT_ONCE)));
    drop(answers);
    drop(runtime.block_on(tracker.shutdown(Duration::from_secs(10))));
    drop(runtime);
    writing.join().expect("it only writes")
}

async fn work(tracker: &TrackerHandle, tenant: &[u8], key: &[u8]) -> Result<Once<()>, Error> {
    let id = tracker.request_id(&Scope::principal([tenant]), [key]);
    let track = Track::new(id, tracker.fingerprint([key])).tenant(Tenant::derive(None, [tenant]));
    let response = key.repeat(RESPONSE / key.len());
    tracker.once_with(track, move |_| async move { Outcome::done(response) }).await
}

fn letter(answer: Result<Once<()>, Error>) -> u8 {
    match answer {
        Ok(Once::Done { replayed: false, expires_at: Some(_), .. }) => b'd',
        Ok(Once::Done { response, replayed: true, .. }) if response.bytes().is_some() => b'r',
        Ok(_) => b'?',
        Err(error) => match error.kind() {
            ErrorKind::Overloaded => b'o',
            ErrorKind::Unavailable { .. } => b'u',
            _ => b'?',
        },
    }
}
