//! What a lane answers by itself.

use std::time::Duration;

use idempotency_core::{Change, Claim};

use super::{Context, Lane};
use crate::{
    Tracked,
    job::{Claiming, Job},
    live_claim::{Ending, LiveClaim},
};

/// What is known of an id without the store.
enum Here {
    /// This is the answer.
    Answer(Tracked),
    /// A caller of this process is at work.
    Running(Tracked),
    /// Its result is about to be stored.
    Soon,
    /// Nothing.
    Unknown,
}

impl Lane {
    /// While a claim lives here there is nothing to ask the store. A process never judges a claim lapsed whose permit
    /// lives in it, nor one whose result is not stored yet.
    fn here(&self, claim: &Claim, cx: &Context<'_>) -> Here {
        let Some(live) = &self.claim else { return Here::Unknown };
        if live.claim.fingerprint != claim.fingerprint {
            // While the result is on its way for the first time, those who ask are better off waiting for it.
            return match live.ending {
                Ending::Settling => Here::Soon,
                _ => Here::Answer(Tracked::Mismatch {
                    expires_at: live.expires_at().into(),
                    meta: live.claim.meta.clone(),
                }),
            };
        }
        match live.ending {
            Ending::Settling => Here::Soon,
            Ending::Open => Here::Running(live.processing(cx)),
            Ending::Failing => self.deferred_answer(live, cx),
        }
    }

    /// What is not stored yet is answered by the node that has it, and by no other.
    fn deferred_answer(&self, live: &LiveClaim, cx: &Context<'_>) -> Here {
        let change = self.jobs().find_map(|job| match job {
            Job::Settle(settling) if settling.owner() == live.claim.owner => Some(&settling.update.change),
            _ => None,
        });
        let until = |retention: &Duration| cx.moment.after(*retention).into();
        match change {
            Some(Change::Complete { response, retention }) => Here::Answer(Tracked::Cached {
                response: response.clone(),
                expires_at: until(retention),
                meta: live.claim.meta.clone(),
            }),
            Some(Change::Halt { reason, retention }) if !reason.is_orphan() => {
                Here::Answer(Tracked::Halted { reason: *reason, expires_at: until(retention) })
            }
            _ => Here::Running(live.processing(cx)),
        }
    }

    /// Answers from what is known here, or lets the caller wait for what others make of it. Returns it if the store must be
    /// asked.
    pub(super) fn answer_from_here(
        &mut self,
        claiming: Box<Claiming>,
        cx: &mut Context<'_>,
    ) -> Option<Box<Claiming>> {
        match self.here(&claiming.claim, cx) {
            Here::Answer(answer) => cx.tracked(claiming.caller, Ok(answer)),
            Here::Running(processing) => self.wait_or_hear(claiming, processing, cx),
            Here::Soon if claiming.wait_until.is_some() => {
                let processing = Tracked::Processing { since: None, retry_after: cx.config.store_limit };
                self.wait_or_hear(claiming, processing, cx);
            }
            // Who takes over knows what those who wait do not.
            Here::Unknown
                if self.waiters.wait_for(&claiming.claim.fingerprint)
                    && claiming.wait_until.is_some()
                    && claiming.claim.takes_over.is_none() =>
            {
                let processing = self.processing(cx);
                self.wait_or_hear(claiming, processing, cx);
            }
            Here::Soon | Here::Unknown => return Some(claiming),
        }
        None
    }

    /// What a caller hears whose patience for somebody else's work has an end.
    pub(super) fn processing(&self, cx: &Context<'_>) -> Tracked {
        match &self.claim {
            Some(live) => live.processing(cx),
            None => self.waiters.processing(cx),
        }
    }
}
