//! Spawns the tracker, sends it every typed message, and prints each answer.
//!
//! ```sh
//! cargo run --example typed_messages
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use idempotency::{
    Error, Forget, Halt, HaltReason, Lookup, MemoryStore, Permit, Prune, PutResponse, Release, RequestId,
    Scope, Status, Track, Tracked, Tracker, TrackerHandle,
};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
    let payload = tracker.fingerprint([&br#"{"amount":1000}"#[..]]);
    let other_payload = tracker.fingerprint([&br#"{"amount":9000}"#[..]]);

    println!("-- completed");
    let id = id_of(&tracker, "order-1");
    // Nobody has done it, so we get a permit: Init
    let permit = init(&tracker, id).await?;
    // Meanwhile somebody else asks for the same: Processing
    println!("Track, meanwhile:     {}", shown(&tracker.send(Track::new(id, payload)).await?));
    // Somebody uses the key for something else: Mismatch
    println!("Track, other payload: {}", shown(&tracker.send(Track::new(id, other_payload)).await?));
    // The work is done: Stored
    println!("PutResponse:          {:?}", tracker.send(PutResponse::new(permit, "201 Created")).await?);
    // The retry gets the same answer: Cached
    println!("Track, retried:       {}", shown(&tracker.send(Track::new(id, payload)).await?));

    println!("-- halted");
    let id = id_of(&tracker, "order-2");
    let permit = init(&tracker, id).await?;
    // The provider did not answer; was it charged? Stored
    println!("Halt:                 {:?}", tracker.send(Halt::new(permit, HaltReason::TimedOut)).await?);
    // No retry charges again: Halted
    println!("Track, retried:       {}", shown(&tracker.send(Track::new(id, payload)).await?));

    println!("-- a caller that dies");
    let id = id_of(&tracker, "order-3");
    // A permit that is dropped says so by itself
    drop(init(&tracker, id).await?);
    // Halted, as cancelled
    println!("Track, retried:       {}", shown(&tracker.send(Track::new(id, payload)).await?));

    println!("-- released");
    let id = id_of(&tracker, "order-4");
    let permit = init(&tracker, id).await?;
    // We know that nothing was done: Stored
    println!("Release:              {:?}", tracker.send(Release::new(permit)).await?);
    // So the retry may work: Init
    let permit = init(&tracker, id).await?;
    println!("PutResponse:          {:?}", tracker.send(PutResponse::new(permit, "201 Created")).await?);

    println!("-- an operator");
    // What is kept: a record, its response shown by length only
    let record = tracker.send(Lookup { id }).await?.expect("it was just put");
    println!("Lookup:               {:?}", record.state);
    // It is deleted by the owner that was read: Forgotten
    println!("Forget:               {:?}", tracker.send(Forget::new(id, record.owner, "an example")).await?);
    println!("Lookup:               {:?}", tracker.send(Lookup { id }).await?);
    // Nothing has expired: 0
    println!("Prune:                {} deleted", tracker.send(Prune).await?);
    let status = tracker.send(Status).await?;
    println!("Status:               {} live, backend up: {}", status.live, status.backend_up);

    let report = tracker.shutdown(Duration::from_secs(1)).await?;
    println!("shut down, {} unsettled", report.unsettled);
    Ok(())
}

fn id_of(tracker: &TrackerHandle, key: &str) -> RequestId {
    tracker.request_id(&Scope::global(), [&b"orders"[..], key.as_bytes()])
}

async fn init(tracker: &TrackerHandle, id: RequestId) -> Result<Permit, Error> {
    let tracked = tracker.send(Track::new(id, tracker.fingerprint([&br#"{"amount":1000}"#[..]]))).await?;
    println!("Track:                {}", shown(&tracked));
    match tracked {
        Tracked::Init(permit) => Ok(permit),
        other => panic!("nobody has worked on it, so this cannot be: {other:?}"),
    }
}

fn shown(tracked: &Tracked) -> String {
    match tracked {
        Tracked::Init(_) => "Init".to_owned(),
        Tracked::Processing { .. } => "Processing".to_owned(),
        Tracked::Cached { response, .. } => format!("Cached {:?}", response.bytes()),
        Tracked::Halted { reason, .. } => format!("Halted ({reason})"),
        Tracked::Mismatch { .. } => "Mismatch".to_owned(),
        other => format!("{other:?}"),
    }
}
