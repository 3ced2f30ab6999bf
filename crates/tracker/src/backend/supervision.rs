//! When the backend is replaced, and when nothing is sent to it for a while.

use std::{
    mem,
    task::{Context, Poll},
    time::Duration,
};

use actix::MailboxError;
use idempotency_core::{Setup, StoreCommand, StoreError, StoreErrorKind, StoreReply};
use idempotency_engine::Event;
use rand::RngExt;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};

use super::{Backend, FirstSetup, Queued, Returned, State};
use crate::{StoreBatch, store_actor::StoreReplies};

/// After this time a failure says nothing of the next one.
const LONG_AGO: Duration = Duration::from_secs(10);

/// So many calls in a row that the store did not answer, and no more are sent to it for a while.
const SILENCES: u32 = 5;

/// How long a backend is left alone that failed for the second time in a row; then doubling, up to the longest: whatever it was
/// that kept it away, it is used again a second after it is back.
const FIRST_BACK_OFF: Duration = Duration::from_millis(20);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

impl Backend {
    pub(super) fn poll_state(
        &mut self,
        now: OffsetDateTime,
        cx: &mut Context<'_>,
        returned: &mut Vec<Returned>,
    ) -> Option<FirstSetup> {
        loop {
            match &mut self.state {
                State::Closed => return None,
                State::Up(child) => {
                    if !child.is_alive() {
                        self.failed("it died", now);
                        continue;
                    }
                    return None;
                }
                State::Down(until) => match until.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.give_up_old_calls(returned);
                        return None;
                    }
                    Poll::Ready(()) => {
                        self.restarts += 1;
                        self.set_up(now);
                    }
                },
                State::SettingUp(_, request) => {
                    let Poll::Ready(answer) = request.as_mut().poll(cx) else {
                        self.give_up_old_calls(returned);
                        return None;
                    };
                    let answer = setup_answer(answer);
                    match answer {
                        Ok(()) => {
                            self.is_set_up();
                            if mem::take(&mut self.is_first) {
                                return Some(FirstSetup::Succeeded);
                            }
                        }
                        Err(error) if self.is_first => {
                            self.state = State::Closed;
                            return Some(FirstSetup::Failed(error));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "the store could not be set up again");
                            self.refuses = !is_silence(error.kind());
                            self.failed("it could not be set up again", now);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn set_up(&mut self, now: OffsetDateTime) {
        let child = self.start.start();
        let setup = StoreCommand::Setup(Setup::new(self.secret_check, now));
        let request = child.recipient.send(StoreBatch { commands: vec![setup], now });
        let request = Box::pin(request.timeout(self.store_limit * 2));
        self.state = State::SettingUp(child, request);
    }

    fn is_set_up(&mut self) {
        if let State::SettingUp(child, _) = mem::replace(&mut self.state, State::Closed) {
            if self.restarts > 0 {
                tracing::info!(restarts = self.restarts, "the backend is back");
            }
            self.state = State::Up(child);
            self.refuses = false;
            self.close_breaker();
            self.hints.listen_once_to(&*self.start.store());
        }
    }

    /// What was sent together was answered, or not. `restarts`: how often the backend had been restarted when it was sent; what
    /// it was before says nothing of what it is.
    pub(super) fn heard(
        &mut self,
        replies: &[Result<StoreReply, StoreError>],
        restarts: u64,
        now: OffsetDateTime,
    ) {
        if restarts != self.restarts {
            return;
        }
        let is_silent = |reply: &Result<_, StoreError>| {
            reply.as_ref().err().is_some_and(|error| is_silence(error.kind()))
        };
        if replies.iter().any(Result::is_ok) {
            (self.silences, self.failures) = (0, 0);
        } else if replies.iter().all(is_silent) {
            self.silences += 1;
        } else {
            self.silences = 0;
        }
        if self.silences >= SILENCES && matches!(self.state, State::Up(_)) && !self.held {
            // What opens it once is no accident.
            self.failures = self.failures.max(1);
            self.failed("it does not answer", now);
        }
    }

    pub(super) fn close_breaker(&mut self) {
        self.silences = 0;
        if mem::take(&mut self.is_open) {
            self.change = Some(Event::Up);
        }
    }

    /// The first replacement comes at once: one panic is an accident. Then it takes a while, and nobody waits for it.
    pub(super) fn failed(&mut self, reason: &'static str, now: OffsetDateTime) {
        let last = self.failed_at.replace(Instant::now());
        if last.is_none_or(|last| last.elapsed() > LONG_AGO) {
            self.failures = self.failures.min(1);
        }
        let back_off = match self.failures {
            0 => Duration::ZERO,
            failures => {
                let most = FIRST_BACK_OFF.saturating_mul(1 << failures.min(10)).min(LONGEST_BACK_OFF);
                // Nodes that have lost the same store must not come back to it together.
                most.mul_f64(self.random.random_range(0.5..1.0))
            }
        };
        self.failures += 1;
        self.last_failure = Some(reason);
        if !back_off.is_zero() {
            self.is_open = true;
            self.change = Some(Event::Down { until: now + back_off, refuses: self.refuses });
        }
        tracing::warn!(reason, ?back_off, "the backend failed and is replaced");
        self.state = State::Down(Box::pin(sleep_until(Instant::now() + back_off)));
    }

    /// What has waited for longer than a call may take, or at all if the breaker is open, was certainly not sent.
    fn give_up_old_calls(&mut self, returned: &mut Vec<Returned>) {
        let old = |since: &Instant| self.is_open || since.elapsed() >= self.store_limit;
        while self.calls.front().is_some_and(|queued| old(&queued.since)) {
            let Some(Queued { call, span, .. }) = self.calls.pop_front() else { return };
            span.record("outcome", "not_sent");
            let error =
                StoreError::new(StoreErrorKind::Unavailable, "the backend is being restarted").not_applied();
            returned.push(Returned { call, reply: Err(error), resent: false });
        }
    }
}

/// Nothing was heard from the store.
fn is_silence(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Unavailable | StoreErrorKind::TimedOut)
}

fn setup_answer(replies: Result<StoreReplies, MailboxError>) -> Result<(), StoreError> {
    match replies.map(|replies| replies.into_iter().next()) {
        Ok(Some(Ok(_))) => Ok(()),
        Ok(Some(Err(error))) => Err(error),
        Ok(None) => Err(StoreError::new(StoreErrorKind::Other, "the backend did not answer `setup`")),
        Err(MailboxError::Timeout) => {
            Err(StoreError::new(StoreErrorKind::TimedOut, "setup did not end in time"))
        }
        Err(MailboxError::Closed) => {
            Err(StoreError::new(StoreErrorKind::Panicked, "the backend died in `setup`"))
        }
    }
}
