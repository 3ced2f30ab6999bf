use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use idempotency_core::{Change, HaltReason, Owner, RequestId, StoredResponse, Update};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tracing::Span;

use crate::{
    Error, Lease, Settled,
    inbox::{Inbox, Input, Reply},
};

/// What the caller holds while it works. Say how it ended with [`complete`](Self::complete), [`halt`](Self::halt)
/// or [`release`](Self::release).
///
/// ```
/// use idempotency_core::HaltReason;
/// use idempotency_tracker::Permit;
/// # async fn charge() -> Result<&'static str, &'static str> { Ok("201") }
///
/// async fn work(permit: Permit) {
///     match charge().await {
///         Ok(body) => permit.complete(body).await,
///         Err(_) => permit.halt(HaltReason::Unknown).await,
///     }
///     .expect("the tracker runs");
/// }
/// ```
///
/// Dropped without a result it says that the caller died: `Halted(Panicked)` while the thread unwinds, else
/// `Halted(Cancelled)`. More cannot be known in `Drop`, so a caller that *knows* that nothing was done says
/// `release()`.
pub struct Permit {
    id: RequestId,
    owner: Owner,
    retention: Duration,
    took_over: bool,
    lease: Lease,
    inbox: Inbox,
    fate: Fate,
}

/// What the end of a permit means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is still on its way to its caller; nothing can have been done.
    Undelivered,
    /// Its caller has it.
    Held,
    /// It was settled.
    Spent,
}

impl Permit {
    pub(crate) fn new(
        id: RequestId,
        owner: Owner,
        retention: Duration,
        took_over: bool,
        lease: Lease,
        inbox: Inbox,
    ) -> Self {
        Self { id, owner, retention, took_over, lease, inbox, fate: Fate::Held }
    }

    /// Its way to the caller begins. Only the handle's own future may say so, since it alone can tell when the way
    /// ends: [`delivered`](Self::delivered), in the very poll that returns the permit.
    pub(crate) fn undelivered(mut self) -> Self {
        self.fate = Fate::Undelivered;
        self
    }

    pub(crate) fn delivered(mut self) -> Self {
        self.fate = Fate::Held;
        self
    }

    /// The work was done, and every retry is to get this response.
    ///
    /// The response is handed over *at this call*; the future only waits for the answer, and dropping it undoes
    /// nothing. If the store does not take it within `put_patience` the answer is [`Settled::Deferred`], and the
    /// put is repeated until it is applied, fenced or gone.
    ///
    /// # Errors
    ///
    /// `ShuttingDown` if the tracker is gone.
    pub fn complete(self, response: impl Into<StoredResponse>) -> Settling {
        let change = self.completed(response.into());
        self.settle(change)
    }

    /// Whether the work was done is not known: no retry runs it again.
    ///
    /// Handed over at this call, like [`complete`](Self::complete). A reason that says that the caller is gone
    /// (`Cancelled`, `Shutdown`, `OwnerLost`) is taken as `Unknown`: a caller that speaks is not gone, and what it
    /// left must not be run again by policy.
    ///
    /// # Errors
    ///
    /// `ShuttingDown` if the tracker is gone.
    pub fn halt(self, reason: HaltReason) -> Settling {
        let change = self.halted(reason);
        self.settle(change)
    }

    /// Nothing was done: the next retry may run.
    ///
    /// Handed over at this call, like [`complete`](Self::complete).
    ///
    /// # Errors
    ///
    /// `ShuttingDown` if the tracker is gone.
    pub fn release(self) -> Settling {
        self.settle(Change::Release)
    }

    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Who holds the claim; what [`Forget`](crate::Forget) asks for.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether an earlier caller may have done the work already: with [`OnOrphan::Rerun`](crate::OnOrphan::Rerun) a
    /// claim is taken over from a caller that died.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Whether nobody else can have taken the claim over. Ask before an irreversible step. See [`Lease::is_held`].
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
    }

    /// Resolves when the lease could not be kept. Cancel safe. See [`Lease::lost`].
    pub async fn lost(&self) {
        self.lease.lost().await;
    }

    /// Watches the lease from elsewhere, also after the permit was settled.
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Until when a result that is said now is kept.
    pub(crate) fn expires_at(&self) -> OffsetDateTime {
        self.lease.now().saturating_add(self.retention.try_into().unwrap_or(time::Duration::MAX))
    }

    fn settle(self, change: Change) -> Settling {
        let span = tracing::debug_span!("settle", id = %self.id, change = change.name());
        let (reply, answer) = oneshot::channel();
        let inbox = self.inbox.clone();
        self.hand_over(change, Some(reply), span.clone());
        Settling { answer, inbox, span }
    }

    pub(crate) fn hand_over(mut self, change: Change, reply: Reply<Result<Settled, Error>>, span: Span) {
        self.fate = Fate::Spent;
        let update = Update::new(self.id, self.owner, change);
        self.inbox.push(Input::Settle { update, reply, span });
    }

    pub(crate) fn completed(&self, response: StoredResponse) -> Change {
        Change::Complete { response, retention: self.retention }
    }

    pub(crate) fn halted(&self, reason: HaltReason) -> Change {
        let reason = if reason.is_orphan() { HaltReason::Unknown } else { reason };
        Change::Halt { reason, retention: self.retention }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match mem::replace(&mut self.fate, Fate::Spent) {
            Fate::Spent => {}
            Fate::Undelivered => self.inbox.push(Input::Undelivered { id: self.id, owner: self.owner }),
            Fate::Held => {
                let reason = if thread::panicking() { HaltReason::Panicked } else { HaltReason::Cancelled };
                tracing::warn!(id = %self.id, %reason, "a permit was dropped without a result");
                let change = Change::Halt { reason, retention: self.retention };
                let update = Update::new(self.id, self.owner, change);
                self.inbox.push(Input::Settle { update, reply: None, span: Span::none() });
            }
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .field("took_over", &self.took_over)
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}

/// Waits until a result is stored. The result was handed over when this was made: dropping it undoes nothing.
///
/// ```
/// use idempotency_tracker::{Permit, Settled};
///
/// async fn answer(permit: Permit) -> &'static str {
///     match permit.complete("201").await {
///         Ok(Settled::Stored) => "stored",
///         Ok(_) => "done, but see the log",
///         Err(_) => "done, and the tracker is gone",
///     }
/// }
/// ```
#[derive(Debug)]
#[must_use = "a result is handed over already, but whether it was stored is known only by waiting"]
pub struct Settling {
    answer: oneshot::Receiver<Result<Settled, Error>>,
    inbox: Inbox,
    span: Span,
}

impl Future for Settling {
    type Output = Result<Settled, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            let settled = answer.unwrap_or_else(|_| match self.inbox.is_over() {
                true => Err(self.inbox.closed()),
                // Its actor has died. The one after it has the result, and goes on with it.
                false => Ok(Settled::Deferred),
            });
            self.span.in_scope(|| tracing::debug!(?settled, "settled"));
            settled
        })
    }
}
