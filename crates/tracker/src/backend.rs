//! The tracker's side of its backend: sends it what the engine wants called, in batches, and replaces it when it dies.

mod supervision;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix::{MailboxError, dev::RecipientRequest};
use futures_util::{StreamExt, stream::FuturesUnordered};
use idempotency_core::{
    Capabilities, RequestId, SecretCheck, Setup, Store, StoreCommand, StoreError, StoreErrorKind, StoreReply,
};
use idempotency_engine::{Call, Event};
use rand::rngs::StdRng;
use time::OffsetDateTime;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use crate::{
    StoreBatch,
    gate::MAX_BATCH,
    hints::Hints,
    meters::Meters,
    request_tracker::outcome,
    store_actor::{Child, StoreReplies},
};

/// Starts a backend actor on the same store as the one before.
pub(crate) type StartBackend = Arc<dyn Start>;

/// What is behind a backend actor.
pub(crate) trait Start: Send + Sync {
    /// An actor on it.
    fn start(&self) -> Child;

    /// The store itself, to be read through by another one.
    fn store(&self) -> Arc<dyn Store>;
}

/// A call and what came of it.
pub(crate) struct Returned {
    pub(crate) call: Call,
    pub(crate) reply: Result<StoreReply, StoreError>,
    /// It was sent more than once.
    pub(crate) resent: bool,
}

/// How long a prune rests before each step, so that the tracker's thread is not busy without a break: what was measured
/// without stands in ARCHITECTURE.md. Real time, whatever the tracker's clock says.
const REST: Duration = Duration::from_millis(1);

pub(crate) struct Backend {
    start: StartBackend,
    /// What it is set up with.
    secret_check: SecretCheck,
    /// Whether it never was so far, by this tracker or one before it.
    is_first: bool,
    capabilities: Capabilities,
    store_limit: Duration,
    state: State,
    /// What the engine wants called and was not sent yet.
    calls: VecDeque<Queued>,
    /// A prune step that rests.
    resting: Option<(Pin<Box<Sleep>>, StoreCommand)>,
    /// Its timer was not asked yet.
    rest_begins: bool,
    under_way: FuturesUnordered<UnderWay>,
    /// A swap holds calls back.
    held: bool,
    /// A swap wants to know which ids calls are about.
    noted: Option<HashSet<RequestId>>,
    /// Times that the backend failed in a row, without a call that succeeded in between.
    failures: u32,
    failed_at: Option<Instant>,
    last_failure: Option<&'static str>,
    /// It answered when it was to be set up again, and refused.
    refuses: bool,
    restarts: u64,
    /// Calls in a row that were not answered.
    silences: u32,
    /// The breaker is open: no calls go there until it is set up again.
    is_open: bool,
    /// What the engine was not told yet.
    change: Option<Event>,
    random: StdRng,
    /// Where hints of what was settled come to, and the task that brings them.
    hints: Hints,
}

enum State {
    /// Its `setup` is under way.
    SettingUp(Child, Pin<Box<RecipientRequest<StoreBatch>>>),
    Up(Child),
    /// It failed, and is replaced at this time.
    Down(Pin<Box<Sleep>>),
    /// No more calls.
    Closed,
}

/// What became of the very first `setup`.
pub(crate) enum FirstSetup {
    Succeeded,
    Failed(StoreError),
}

impl Backend {
    pub(crate) fn new(
        start: StartBackend,
        setup: Setup,
        store_limit: Duration,
        (is_first, restarts): (bool, u64),
        random: StdRng,
        hints: Hints,
    ) -> Self {
        let mut backend = Self {
            capabilities: start.store().capabilities(),
            start,
            secret_check: setup.secret_check,
            is_first,
            store_limit,
            state: State::Closed,
            calls: VecDeque::new(),
            resting: None,
            rest_begins: false,
            under_way: FuturesUnordered::new(),
            held: false,
            noted: None,
            failures: 0,
            failed_at: None,
            last_failure: None,
            refuses: false,
            restarts,
            silences: 0,
            is_open: false,
            change: None,
            random,
            hints,
        };
        backend.set_up(setup.now);
        backend
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether the breaker is open.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Why it was restarted the last time.
    pub(crate) fn last_failure(&self) -> Option<&'static str> {
        self.last_failure
    }

    /// What the engine must know of it, once.
    pub(crate) fn changed(&mut self) -> Option<Event> {
        self.change.take()
    }

    /// The store in use.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.start.store()
    }

    /// Starts an actor beside the one in use, and notes from now on which ids calls are about; those of calls under way are
    /// said. `None` if there is nothing that could be swapped: the backend is down.
    pub(crate) fn begin_swap(
        &mut self,
        start: &StartBackend,
        under_way: impl Iterator<Item = RequestId>,
    ) -> Option<(Child, Child)> {
        let State::Up(old) = &self.state else { return None };
        self.noted = Some(under_way.collect());
        Some((old.clone(), start.start()))
    }

    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// Nothing is on its way to the store.
    pub(crate) fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }

    /// The ids that calls were about since the swap began, or since this was asked last. These are noted from now on.
    pub(crate) fn noted(&mut self, under_way: impl Iterator<Item = RequestId>) -> HashSet<RequestId> {
        self.noted.replace(under_way.collect()).unwrap_or_default()
    }

    /// Whether a call was about this id since then, so that it is carried anyhow.
    pub(crate) fn is_noted(&self, id: &RequestId) -> bool {
        self.noted.as_ref().is_some_and(|noted| noted.contains(id))
    }

    /// The other actor from now on. Returns what starts the old one.
    pub(crate) fn flip(
        &mut self,
        start: StartBackend,
        new: Child,
        capabilities: Capabilities,
    ) -> StartBackend {
        let old = mem::replace(&mut self.start, start);
        self.capabilities = capabilities;
        self.state = State::Up(new);
        (self.failures, self.failed_at, self.refuses) = (0, None, false);
        self.close_breaker();
        self.hints.listen_to(&*self.start.store());
        self.resume();
        old
    }

    pub(crate) fn resume(&mut self) {
        self.held = false;
        self.noted = None;
    }

    pub(crate) fn call(&mut self, call: Call, command: StoreCommand, since: Instant, span: Span) {
        match call {
            Call::Prune => {
                self.resting = Some((Box::pin(sleep_until(since + REST)), command));
                self.rest_begins = true;
            }
            _ => {
                let command = match command {
                    // Nobody will tell of it.
                    StoreCommand::Watch(id) if !self.capabilities.push => StoreCommand::Lookup(id),
                    command => command,
                };
                self.calls.push_back(Queued { call, command, since, span });
            }
        }
    }

    /// Sends what waits, if there is somebody to send it to; what a store answers at once has returned by then. True if
    /// [`poll`](Self::poll) has something new to poll.
    pub(crate) fn send(
        &mut self,
        now: OffsetDateTime,
        meters: &Meters,
        returned: &mut Vec<Returned>,
    ) -> bool {
        // Once: from then on its timer wakes us.
        let mut to_poll = mem::take(&mut self.rest_begins);
        // Where commands are answered one by one, each travels alone: a slow key must not delay another.
        let together = self.capabilities.batches > 0 || self.capabilities.immediate;
        while let State::Up(child) = &self.state
            && !self.calls.is_empty()
            && !self.held
        {
            if !child.is_alive() {
                self.failed("it died", now);
                return true;
            }
            let most = if together { self.calls.len().min(MAX_BATCH) } else { 1 };
            let (calls, commands): (Vec<_>, Vec<_>) = self.calls.drain(..most).map(Queued::sent).collect();
            if let Some(noted) = &mut self.noted {
                noted.extend(commands.iter().filter_map(StoreCommand::id));
            }
            let sent = Sent { calls, at: Instant::now(), restarts: self.restarts };
            let batch = StoreBatch { commands, now };
            if let Some(store) = &child.at_once {
                let replies = store.run_at_once(&batch);
                to_poll |= store.has_panicked();
                self.take_back(sent, Ok(replies), now, meters, returned);
                to_poll |= self.change.is_some();
                continue;
            }
            // The actor bounds its calls; this bound is for a store that blocks its thread, and for an actor that
            // does not answer.
            let request = Box::pin(child.recipient.send(batch).timeout(self.store_limit * 3));
            self.under_way.push(UnderWay { sent, request });
            to_poll = true;
        }
        to_poll
    }

    /// Takes in what came back, and replaces a backend that died. Wakes the task when there is more.
    pub(crate) fn poll(
        &mut self,
        now: OffsetDateTime,
        cx: &mut Context<'_>,
        meters: &Meters,
        returned: &mut Vec<Returned>,
    ) -> Option<FirstSetup> {
        if let Some((rest, _)) = &mut self.resting
            && rest.as_mut().poll(cx).is_ready()
            && let Some((_, command)) = self.resting.take()
        {
            let (call, since, span) = (Call::Prune, Instant::now(), Span::none());
            self.calls.push_back(Queued { call, command, since, span });
        }
        while let Poll::Ready(Some((sent, replies))) = self.under_way.poll_next_unpin(cx) {
            self.take_back(sent, replies, now, meters, returned);
        }
        self.poll_state(now, cx, returned)
    }

    fn take_back(
        &mut self,
        sent: Sent,
        replies: Result<StoreReplies, MailboxError>,
        now: OffsetDateTime,
        meters: &Meters,
        returned: &mut Vec<Returned>,
    ) {
        let took = sent.at.elapsed();
        let replies = self.replies(sent.calls.len(), replies, sent.restarts, now);
        let resent = replies.resent;
        for (SentCall { call, name, span }, reply) in sent.calls.into_iter().zip(replies) {
            meters.call(name, took);
            span.record("outcome", outcome(&reply));
            returned.push(Returned { call, reply, resent });
        }
    }

    /// Sends the last command, if need be to an actor that is started for it. Nothing is sent after it.
    pub(crate) fn close(&mut self, now: OffsetDateTime) -> RecipientRequest<StoreBatch> {
        let child = match mem::replace(&mut self.state, State::Closed) {
            State::Up(child) | State::SettingUp(child, _) if child.is_alive() => child,
            _ => self.start.start(),
        };
        child
            .recipient
            .send(StoreBatch { commands: vec![StoreCommand::Close], now })
            .timeout(self.store_limit * 2)
    }

    /// As many as there were calls, whatever came back.
    fn replies(
        &mut self,
        count: usize,
        replies: Result<StoreReplies, MailboxError>,
        restarts: u64,
        now: OffsetDateTime,
    ) -> StoreReplies {
        let error = match replies {
            Ok(replies) if replies.len() == count => {
                self.heard(&replies, restarts, now);
                return replies;
            }
            Ok(replies) => {
                let message = format!("the backend gave {} answers to {count} commands", replies.len());
                StoreError::new(StoreErrorKind::Other, message)
            }
            Err(MailboxError::Timeout) => {
                let error =
                    StoreError::new(StoreErrorKind::TimedOut, "the backend actor did not answer in time");
                self.heard(&[Err(error.clone())], restarts, now);
                error
            }
            // Nobody knows whether it ran.
            Err(MailboxError::Closed) => {
                if let State::Up(child) = &self.state
                    && !child.is_alive()
                {
                    self.failed("it died", now);
                }
                StoreError::new(StoreErrorKind::Unavailable, "the backend actor died")
            }
        };
        vec![Err(error); count].into()
    }
}

/// A call that was not sent yet.
struct Queued {
    call: Call,
    command: StoreCommand,
    since: Instant,
    /// From here to its answer.
    span: Span,
}

impl Queued {
    fn sent(self) -> (SentCall, StoreCommand) {
        let name = self.command.name();
        (SentCall { call: self.call, name, span: self.span }, self.command)
    }
}

/// A call that waits for its answer.
struct SentCall {
    call: Call,
    name: &'static str,
    span: Span,
}

/// A batch on its way.
struct UnderWay {
    sent: Sent,
    request: Pin<Box<RecipientRequest<StoreBatch>>>,
}

/// What was sent together.
struct Sent {
    calls: Vec<SentCall>,
    at: Instant,
    /// How often the backend had been restarted by then.
    restarts: u64,
}

impl Future for UnderWay {
    type Output = (Sent, Result<StoreReplies, MailboxError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let replies = ready!(self.request.as_mut().poll(cx));
        let sent = Sent { calls: mem::take(&mut self.sent.calls), ..self.sent };
        Poll::Ready((sent, replies))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("is_up", &self.is_up())
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}
