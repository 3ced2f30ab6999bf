//! How everything reaches the tracker actor: one queue that wakes it once for many inputs.
//!
//! Measured (`cargo bench -p idempotency-tracker`): an actix mailbox with `Addr::send` moves about half as much.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency_core::{Cursor, Owner, Page, Record, RequestId, Update};
use idempotency_engine::Caller;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::{
    Error, ErrorKind, Forgotten, Settled, ShutdownReport, StatusReport, SwapPolicy, SwapReport, Track,
    Tracked,
    swap::{NewBackend, Step},
};

/// Where an answer goes. `None`: nobody waits for it.
pub(crate) type Reply<T> = Option<oneshot::Sender<T>>;

/// One thing for the tracker to take in.
pub(crate) enum Input {
    Track {
        caller: Caller,
        track: Track,
        reply: Reply<Result<Tracked, Error>>,
        /// Of a caller that came through the handle: bounded, and its permit is undelivered until it has it.
        slot: Option<Slot>,
    },
    Gone {
        id: RequestId,
        caller: Caller,
    },
    Undelivered {
        id: RequestId,
        owner: Owner,
    },
    Settle {
        update: Update,
        reply: Reply<Result<Settled, Error>>,
        /// What its store calls belong to.
        span: Span,
    },
    Lookup {
        id: RequestId,
        reply: Reply<Result<Option<Record>, Error>>,
    },
    Scan {
        cursor: Option<Cursor>,
        limit: usize,
        reply: Reply<Result<Page, Error>>,
    },
    Forget {
        id: RequestId,
        owner: Owner,
        reason: String,
        reply: Reply<Result<Forgotten, Error>>,
    },
    Prune {
        reply: Reply<Result<usize, Error>>,
    },
    Status {
        reply: Reply<Result<StatusReport, Error>>,
    },
    Shutdown {
        grace: Duration,
        reply: Reply<Result<ShutdownReport, Error>>,
    },
    AskSwap {
        backend: NewBackend,
        policy: SwapPolicy,
        reply: Reply<Result<SwapReport, Error>>,
    },
    /// Of the swap that this actor carries out, or of one of an actor before it.
    Swap {
        actor: u64,
        step: Step,
    },
    /// A store that pushes says that this id was settled.
    Hinted {
        id: RequestId,
    },
    /// The last handle is gone.
    Abandoned,
}

/// The sending end, shared by handles and permits.
#[derive(Clone)]
pub(crate) struct Inbox(Arc<Shared>);

struct Shared {
    sender: mpsc::UnboundedSender<Input>,
    next_caller: AtomicU64,
    queued: AtomicUsize,
    max_queued: usize,
    over: AtomicBool,
}

impl Inbox {
    pub(crate) fn new(max_queued: usize) -> (Self, mpsc::UnboundedReceiver<Input>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            sender,
            next_caller: AtomicU64::new(0),
            queued: AtomicUsize::new(0),
            max_queued,
            over: AtomicBool::new(false),
        };
        (Self(Arc::new(shared)), receiver)
    }

    /// Nothing is refused here: admission comes before, and settling is never refused. If the tracker is gone the
    /// input is dropped, and with it the reply, which tells whoever waits.
    pub(crate) fn push(&self, input: Input) {
        let _ = self.0.sender.send(input);
    }

    pub(crate) fn next_caller(&self) -> Caller {
        Caller(self.0.next_caller.fetch_add(1, Ordering::Relaxed))
    }

    /// A place among those who wait for the answer to a `Track`.
    pub(crate) fn admit(&self) -> Result<Slot, Error> {
        // Made first, so that it gives the place back also when there was none.
        let slot = Slot(self.clone());
        if self.0.queued.fetch_add(1, Ordering::Relaxed) >= self.0.max_queued {
            return Err(Error::new(ErrorKind::Overloaded));
        }
        Ok(slot)
    }

    pub(crate) fn queued(&self) -> usize {
        self.0.queued.load(Ordering::Relaxed)
    }

    /// The tracker is gone, and no other one takes its place.
    pub(crate) fn end(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// For those whose answer will not come: the tracker is gone, or has died and is being replaced.
    pub(crate) fn closed(&self) -> Error {
        Error::new(match self.is_over() {
            true => ErrorKind::ShuttingDown,
            false => ErrorKind::Unavailable { retry_after: Duration::from_secs(1) },
        })
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("queued", &self.queued()).finish_non_exhaustive()
    }
}

/// A place among those who wait; given back when the answer is there, not when the caller goes away: until then
/// the tracker has work with it.
#[derive(Debug)]
pub(crate) struct Slot(Inbox);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}
