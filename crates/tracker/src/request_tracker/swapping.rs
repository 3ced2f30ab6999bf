//! What the actor does for a swap; the swap itself goes on beside it.

use std::{
    iter,
    sync::{Arc, atomic::AtomicUsize},
};

use idempotency_core::{Capabilities, RequestId};

use super::{RequestTracker, answer};
use crate::{
    Error, SwapPolicy, SwapReport,
    backend::StartBackend,
    inbox::Reply,
    swap::{self, Begun, Held, NewBackend, Step, Swap},
};

/// A swap under way.
pub(super) struct Swapping {
    pub(super) copied: Arc<AtomicUsize>,
    /// Who waits until no call is under way.
    pub(super) held: Reply<Held>,
}

impl RequestTracker {
    pub(super) fn ask_swap(
        &self,
        backend: NewBackend,
        policy: SwapPolicy,
        reply: Reply<Result<SwapReport, Error>>,
    ) {
        let capabilities = backend.capabilities;
        let (old, runtime) = (self.backend.store(), self.parts.runtime.clone());
        let swap = Swap {
            inbox: self.inbox.clone(),
            actor: self.number,
            start: backend.start(&policy, old, runtime, self.parts.config.store_limit),
            capabilities,
            policy,
            secret_check: self.parts.secret_check,
            clock: self.parts.clock.clone(),
            store_limit: self.parts.config.store_limit,
            longest_pause: self.parts.defaults.lease / 3,
        };
        // Beside the actor: it goes on meanwhile, also if nobody waits for the report any more.
        actix::spawn(async move { answer(reply, swap.run().await) });
    }

    pub(super) fn swap(&mut self, step: Step) {
        match step {
            Step::Begin { start, capabilities, policy, reply } => {
                let begun = self.begin_swap(&start, capabilities, &policy);
                if let Some(reply) = reply
                    && reply.send(begun).is_err()
                {
                    // Whoever wanted it is gone.
                    self.swap(Step::Resume);
                }
            }
            Step::Unnoted { mut records, reply } => {
                // What runs is taken along all the same: if it is not written again, the pause need not.
                records.retain(|(id, record)| !record.state.is_settled() || !self.backend.is_noted(id));
                answer(reply, records);
            }
            Step::Noted { reply } => {
                // What is under way may come after it is read.
                let noted = self.backend.noted(self.engine.ids());
                answer(reply, noted.into_iter().collect());
            }
            Step::Hold { reply } => {
                self.backend.hold();
                if let Some(swapping) = &mut self.swapping {
                    swapping.held = reply;
                }
                self.tell_when_quiet();
            }
            Step::Flip { start, new, capabilities, reply } => {
                self.estate.borrow_mut().backend = start.clone();
                self.parts.cache.clear();
                answer(reply, self.backend.flip(start, new, capabilities));
                self.swapping = None;
            }
            Step::Resume => {
                self.backend.resume();
                self.swapping = None;
            }
        }
    }

    fn begin_swap(
        &mut self,
        start: &StartBackend,
        capabilities: Capabilities,
        policy: &SwapPolicy,
    ) -> Result<Begun, Error> {
        if self.engine.is_draining() {
            return Err(self.inbox.closed());
        }
        let old_capabilities = self.backend.capabilities();
        swap::check(policy, old_capabilities, capabilities)?;
        if self.swapping.is_some() {
            return Err(Error::not_swapped("another swap is under way"));
        }
        // What was sent before may arrive after a page was read.
        let Some((old, new)) = self.backend.begin_swap(start, self.engine.ids()) else {
            return Err(Error::not_swapped("the backend is being restarted"));
        };
        let copied = Arc::<AtomicUsize>::default();
        self.swapping = Some(Swapping { copied: copied.clone(), held: None });
        Ok(Begun { old, old_capabilities, new, copied })
    }

    /// Calls are held for a swap, and the last one that was under way has ended.
    pub(super) fn tell_when_quiet(&mut self) {
        let Some(swapping) = self.swapping.as_mut().filter(|_| self.backend.is_quiet()) else { return };
        let Some(reply) = swapping.held.take() else { return };
        let mut ids = self.backend.noted(iter::empty());
        ids.extend(self.engine.ids());
        let ids: Vec<RequestId> = ids.into_iter().collect();
        let live = self.engine.live().cloned().collect();
        if reply.send(Held { ids, live }).is_err() {
            self.swap(Step::Resume);
        }
    }
}
