use std::{fmt, ops::Deref, sync::Arc, time::Duration, vec};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, Recipient, dev::MessageResponse};
use idempotency_core::{Store, StoreCommand, StoreError, StoreReply};
use time::OffsetDateTime;
use tokio::{
    runtime,
    sync::{oneshot, watch},
};

use crate::gate::{AtOnce, Gate};

/// The answers to a [`StoreBatch`]: one for each command, in their order. They are collected from these.
///
/// ```
/// use idempotency_core::{Inserted, StoreReply};
/// use idempotency_tracker::StoreReplies;
///
/// let replies: StoreReplies = [Ok(StoreReply::Inserted(Inserted::Claimed))].into_iter().collect();
/// assert_eq!(replies.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreReplies {
    replies: Vec<Result<StoreReply, StoreError>>,
    /// The commands were sent more than once, so copies of them may have been carried out, or may be later.
    pub(crate) resent: bool,
}

impl StoreReplies {
    pub(crate) fn resent(mut self, resent: bool) -> Self {
        self.resent = resent;
        self
    }
}

impl From<Vec<Result<StoreReply, StoreError>>> for StoreReplies {
    fn from(replies: Vec<Result<StoreReply, StoreError>>) -> Self {
        Self { replies, resent: false }
    }
}

impl FromIterator<Result<StoreReply, StoreError>> for StoreReplies {
    fn from_iter<I: IntoIterator<Item = Result<StoreReply, StoreError>>>(replies: I) -> Self {
        Vec::from_iter(replies).into()
    }
}

impl IntoIterator for StoreReplies {
    type Item = Result<StoreReply, StoreError>;
    type IntoIter = vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.replies.into_iter()
    }
}

impl Deref for StoreReplies {
    type Target = [Result<StoreReply, StoreError>];

    fn deref(&self) -> &Self::Target {
        &self.replies
    }
}

/// The one message that a backend actor understands.
///
/// ```
/// use actix::{Actor, Context, Handler, MessageResult};
/// use idempotency_core::{StoreError, StoreErrorKind};
/// use idempotency_tracker::StoreBatch;
///
/// /// A backend that has nothing and takes nothing.
/// struct Nowhere;
///
/// impl Actor for Nowhere {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<StoreBatch> for Nowhere {
///     type Result = MessageResult<StoreBatch>;
///
///     fn handle(&mut self, batch: StoreBatch, _: &mut Self::Context) -> Self::Result {
///         let refused = || StoreError::new(StoreErrorKind::Unavailable, "nowhere to be found").not_applied();
///         MessageResult(batch.commands.iter().map(|_| Err(refused())).collect())
///     }
/// }
/// ```
///
/// The commands of a batch are independent of each other. A backend that does not batch gets one at a time.
///
/// A backend sends none of them on more than once: after a call of which the end is not known it answers with an error
/// that is not [`was_not_applied`](StoreError::was_not_applied), and the tracker repeats the command, and sees to what a
/// late copy of it may do.
#[derive(Debug, Message)]
#[rtype(result = "StoreReplies")]
pub struct StoreBatch {
    /// What to do.
    pub commands: Vec<StoreCommand>,
    /// The tracker's time.
    pub now: OffsetDateTime,
}

/// A backend actor, and the way to its store.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) recipient: Recipient<StoreBatch>,
    /// If the store never waits: its calls need not travel through the mailbox of an actor on the same thread.
    pub(crate) at_once: Option<Arc<dyn AtOnce>>,
}

impl Child {
    /// Calls can reach it.
    pub(crate) fn is_alive(&self) -> bool {
        self.recipient.connected() && !self.at_once.as_ref().is_some_and(|store| store.has_panicked())
    }
}

/// The child of the tracker that a [`Store`] lives behind: gathers what waits into batches where the store says that
/// it batches, bounds the time of every call and how many run at once, and dies of a panic in the store, so that the
/// tracker replaces it and sets the store up anew.
pub(crate) struct StoreActor<S: Store> {
    gate: Arc<Gate<S>>,
}

impl<S: Store> StoreActor<S> {
    /// `ended` closes when the tracker is gone, and with it the timers that bound the calls.
    pub(crate) fn start(
        store: Arc<S>,
        limit: Duration,
        runtime: runtime::Handle,
        ended: watch::Receiver<()>,
    ) -> Child {
        let mut at_once: Option<Arc<dyn AtOnce>> = None;
        let addr = Self::create(|ctx| {
            let panicked = ctx.address().downgrade().recipient();
            let gate = Arc::new(Gate::new(store, limit, runtime, ended, panicked));
            if gate.is_immediate() {
                at_once = Some(gate.clone());
            }
            Self { gate }
        });
        Child { recipient: addr.recipient(), at_once }
    }
}

impl<S: Store> Actor for StoreActor<S> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // The engine bounds what is in flight; a full mailbox would only park senders.
        ctx.set_mailbox_capacity(1 << 20);
    }
}

impl<S: Store> Handler<StoreBatch> for StoreActor<S> {
    type Result = Replying<S>;

    fn handle(&mut self, batch: StoreBatch, ctx: &mut Self::Context) -> Self::Result {
        if !self.gate.is_immediate() {
            return Replying::Later(self.gate.clone(), batch);
        }
        let replies = self.gate.run_at_once(&batch);
        if self.gate.has_panicked() {
            ctx.stop();
        }
        Replying::Now(replies)
    }
}

/// A call has panicked. Nobody knows what it left behind, so the store is set up anew behind a new actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Panicked;

impl<S: Store> Handler<Panicked> for StoreActor<S> {
    type Result = ();

    fn handle(&mut self, _: Panicked, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// An answer that is there, or that a task on the store's runtime will send. Spawning the task when actix hands over
/// the sender saves the way back through this actor.
pub(crate) enum Replying<S: Store> {
    Now(StoreReplies),
    Later(Arc<Gate<S>>, StoreBatch),
}

impl<S: Store> MessageResponse<StoreActor<S>, StoreBatch> for Replying<S> {
    fn handle(self, _: &mut Context<StoreActor<S>>, reply: Option<oneshot::Sender<StoreReplies>>) {
        let Some(reply) = reply else { return };
        match self {
            Self::Now(replies) => drop(reply.send(replies)),
            Self::Later(gate, batch) => gate.submit(batch, reply),
        }
    }
}

impl<S: Store> fmt::Debug for StoreActor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreActor").finish_non_exhaustive()
    }
}
