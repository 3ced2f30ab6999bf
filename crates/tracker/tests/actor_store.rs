//! A backend actor of somebody else's, behind `ActorStore`: the conformance suite, and a tracker on it.

use std::{sync::mpsc, thread};

use actix::{Actor, Context, Handler, MessageResult, Recipient};
use futures_util::FutureExt;
use idempotency_core::{Capabilities, Store};
use idempotency_store_memory::MemoryStore;
use idempotency_store_testkit::{OnManualClock, conformance};
use idempotency_tracker::{ActorStore, ErrorKind, Outcome, StoreBatch, Tracker};
use tokio::sync::oneshot;

use crate::support::*;

/// Has its own way to keep records; here it is the store in memory. Whoever has the other end of the channel hears when
/// it is gone.
struct Foreign(MemoryStore, #[expect(dead_code, reason = "it is there to be dropped")] oneshot::Sender<()>);

impl Actor for Foreign {
    type Context = Context<Self>;
}

impl Handler<StoreBatch> for Foreign {
    type Result = MessageResult<StoreBatch>;

    fn handle(&mut self, batch: StoreBatch, _: &mut Self::Context) -> Self::Result {
        let replies = self.0.apply(&batch.commands, batch.now).now_or_never();
        MessageResult(replies.expect("the store in memory answers at once").into())
    }
}

/// Starts it on a thread of its own, which ends with the last recipient.
fn foreign() -> Recipient<StoreBatch> {
    let (send, recipient) = mpsc::channel();
    thread::spawn(move || {
        actix::System::new().block_on(async move {
            let (alive, gone) = oneshot::channel();
            send.send(Foreign(MemoryStore::new(), alive).start().recipient()).unwrap();
            let _ = gone.await;
        });
    });
    recipient.recv().unwrap()
}

fn store() -> ActorStore {
    let mut capabilities: Capabilities = MemoryStore::new().capabilities();
    capabilities.push = true;
    ActorStore::new(foreign(), capabilities)
}

conformance!(OnManualClock::new(store));

#[test]
fn what_a_foreign_actor_cannot_offer_is_not_promised() {
    assert!(!store().capabilities().push && !store().capabilities().immediate);
}

#[tokio::test]
async fn a_tracker_runs_on_a_foreign_actor_and_says_when_it_is_gone() {
    let tracker = Tracker::builder(store()).spawn().await.unwrap();
    for _ in 0..2 {
        let once = tracker.once(id(1), payload(), || async { Outcome::<()>::done("done") }).await.unwrap();
        assert!(matches!(once, idempotency_tracker::Once::Done { .. }));
    }

    let (send, stopped) = mpsc::channel();
    thread::spawn(move || {
        actix::System::new().block_on(async move {
            let (alive, _) = oneshot::channel();
            send.send(Foreign(MemoryStore::new(), alive).start().recipient()).unwrap();
            actix::System::current().stop();
        });
    });
    let dead = ActorStore::new(stopped.recv().unwrap(), Capabilities::default());
    let error = Tracker::builder(dead).spawn().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Setup));
}
