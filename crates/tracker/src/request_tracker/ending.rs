//! The orderly end: of what runs, then of the store, then of the actor.

use std::time::Duration;

use actix::{ActorContext, ActorFutureExt, AsyncContext, Context};
use idempotency_engine::Event;
use time::OffsetDateTime;

use super::{RequestTracker, Waiting};
use crate::{Error, ShutdownReport, estate::Shutdown, inbox::Reply};

impl RequestTracker {
    pub(super) fn begin_shutdown(
        &mut self,
        now: OffsetDateTime,
        grace: Duration,
        reply: Reply<Result<ShutdownReport, Error>>,
    ) {
        let grace = time::Duration::try_from(grace).unwrap_or(time::Duration::MAX);
        let until = now.saturating_add(grace);
        {
            let mut estate = self.estate.borrow_mut();
            if let Some(shutdown) = &mut estate.shutdown {
                // The first one set the time; all hear how it ends.
                shutdown.waiting.extend(reply);
                return;
            }
            estate.shutdown = Some(Shutdown { until, waiting: reply.into_iter().collect() });
        }
        tracing::info!(%grace, live = self.engine.load().live, "shutting down");
        self.go_on_shutting_down(now);
    }

    pub(super) fn go_on_shutting_down(&mut self, now: OffsetDateTime) {
        let until = self.estate.borrow().shutdown.as_ref().map(|shutdown| shutdown.until);
        if let Some(until) = until {
            self.parts.cache.close();
            let caller = self.wait(Waiting::Shutdown);
            self.decide(now, Event::Shutdown { caller, until });
        }
    }

    /// Nobody can ask anything any more.
    pub(super) fn is_left_alone(&self, ctx: &Context<Self>) -> bool {
        self.estate.borrow().is_abandoned() && !ctx.connected()
    }

    /// All is settled that can be: closes the store, then tells those who wait, then stops.
    pub(super) fn close(&mut self, ctx: &mut Context<Self>, now: OffsetDateTime, unsettled: usize) {
        let closing = actix::fut::wrap_future::<_, Self>(self.backend.close(now));
        ctx.spawn(closing.map(move |closed, this, ctx| {
            match closed.map(|replies| replies.into_iter().next()) {
                Ok(Some(Ok(_))) => tracing::info!(unsettled, "shut down"),
                Ok(Some(Err(error))) => {
                    tracing::warn!(unsettled, %error, "shut down; the store did not close in order")
                }
                Ok(None) | Err(_) => {
                    tracing::warn!(unsettled, "shut down; the store did not answer to its closing")
                }
            }
            let shutdown = this.estate.borrow_mut().shutdown.take();
            for reply in shutdown.into_iter().flat_map(|shutdown| shutdown.waiting) {
                let _ = reply.send(Ok(ShutdownReport { unsettled }));
            }
            this.end(ctx);
        }));
    }

    /// In order. (actix calls `stopped` also where the actor dies of a panic.)
    pub(super) fn end(&mut self, ctx: &mut Context<Self>) {
        self.inbox.end();
        if let Some(stopped) = self.stopped.take() {
            let _ = stopped.send(());
        }
        ctx.stop();
    }
}
