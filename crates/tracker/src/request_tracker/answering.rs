//! From the engine's word to whoever waits for it.

use actix::Context;
use idempotency_core::{Claim, RequestId, Tenant};
use idempotency_engine::{self as engine, Answer, Caller, Granted, Happened};
use time::OffsetDateTime;

use super::{RequestTracker, Tracking, Waiting, answer};
use crate::{Error, Lease, Permit, Tracked, estate::Live};

impl RequestTracker {
    pub(super) fn answer(
        &mut self,
        ctx: &mut Context<Self>,
        now: OffsetDateTime,
        caller: Caller,
        answered: Answer,
    ) {
        let Some(waiting) = self.waited(caller) else { return };
        match (waiting, answered) {
            (Waiting::Track { track, reply }, Answer::Tracked(tracked)) => {
                let tracked = tracked.map(|tracked| self.tracked(now, &track, tracked)).map_err(Error::from);
                match &tracked {
                    // Of a result that is put off nobody knows yet whether the store will have it.
                    Ok(_) if self.engine.is_live(&track.id) => self.parts.cache.remove(&track.id),
                    Ok(tracked) => self.parts.cache.heard(track.id, track.fingerprint, tracked, now),
                    Err(_) => {}
                }
                self.meters.request(tracked.as_ref().map_or_else(Error::outcome, Tracked::outcome));
                match &tracked {
                    Ok(tracked) => tracing::debug!(id = %track.id, outcome = tracked.outcome(), "tracked"),
                    Err(error) => tracing::debug!(id = %track.id, %error, "not tracked"),
                }
                answer(reply, tracked);
            }
            (Waiting::Settle { reply, .. }, Answer::Settled(settled)) => answer(reply, Ok(settled)),
            (Waiting::Lookup { id, reply }, Answer::Found(found)) => {
                self.parts.cache.remove(&id);
                answer(reply, found.map_err(Error::from));
            }
            (Waiting::Scan(reply), Answer::Page(page)) => answer(reply, page.map_err(Error::from)),
            (Waiting::Forget(reply), Answer::Forgotten(forgotten)) => {
                // Also where it failed: it may have happened.
                self.parts.cache.clear();
                answer(reply, forgotten.map_err(Error::from));
            }
            (Waiting::Prune(reply), Answer::Pruned(deleted)) => answer(reply, deleted.map_err(Error::from)),
            (Waiting::Shutdown, Answer::Drained(unsettled)) => self.close(ctx, now, unsettled),
            // The engine answers what it was asked.
            _ => {}
        }
    }

    fn tracked(&mut self, now: OffsetDateTime, track: &Tracking, tracked: engine::Tracked) -> Tracked {
        match tracked {
            engine::Tracked::Init(granted) => {
                let permit = self.permit(now, granted, track.tenant);
                // With a slot it came through the handle, whose future will say that it was delivered.
                Tracked::Init(if track.slot.is_some() { permit.undelivered() } else { permit })
            }
            engine::Tracked::Processing { since, retry_after } => Tracked::Processing { since, retry_after },
            engine::Tracked::Cached { response, expires_at, meta } => {
                Tracked::Cached { response, expires_at, meta }
            }
            engine::Tracked::Halted { reason, expires_at } => Tracked::Halted { reason, expires_at },
            engine::Tracked::Mismatch { expires_at, meta } => Tracked::Mismatch { expires_at, meta },
        }
    }

    fn permit(&mut self, now: OffsetDateTime, granted: Granted, tenant: Option<Tenant>) -> Permit {
        let lease = Lease::new(self.parts.clock.clone(), granted.held_until);
        let Claim { id, owner, retention, takes_over, .. } = *granted.claim;
        let permit =
            Permit::new(id, owner, retention, takes_over.is_some(), lease.clone(), self.inbox.clone());
        self.estate.borrow_mut().live.insert(owner, Live::new(lease, granted, now, tenant));
        permit
    }

    /// Somebody who may know is asked, under a permit that nobody else holds.
    pub(super) fn resolve(&mut self, now: OffsetDateTime, caller: Caller, granted: Granted) {
        let meta = granted.claim.meta.clone();
        let (resolver, tenant) = match self.callers.get(&caller) {
            Some(Waiting::Track { track, .. }) => (track.resolver.clone(), track.tenant),
            _ => (None, None),
        };
        let permit = self.permit(now, granted, tenant);
        match resolver {
            Some(resolver) => {
                drop(self.parts.runtime.spawn(resolver.run(permit, meta, self.parts.config.resolve_limit)));
            }
            // Who asked is gone: whoever comes next asks.
            None => drop(permit),
        }
    }

    pub(super) fn happened(&self, id: RequestId, what: Happened) {
        match what {
            Happened::Orphaned(reason) => tracing::debug!(%id, %reason, "an orphan was found"),
            Happened::Superseded | Happened::Gone => {
                tracing::error!(%id, ?what, "the work was done, and its result is not stored");
            }
            Happened::Deferred => tracing::warn!(%id, "a result is stored later: the store does not take it"),
            Happened::NotKept => {
                tracing::warn!(%id, "there is no room for a response: only the fact is kept")
            }
            Happened::Unstored => {
                tracing::error!(%id, "the tracker ends, and the response of this request is not stored");
            }
            _ => tracing::debug!(%id, ?what, "a claim whose reply was lost stands"),
        }
        self.meters.happened(what);
        self.parts.on_happened.tell(id, what);
    }
}
