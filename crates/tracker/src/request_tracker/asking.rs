//! Whose call of the store is whose, for those who follow a request through its spans.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use idempotency_core::{Inserted, RequestId, Restored, StoreCommand, StoreError, StoreReply, Updated};
use idempotency_engine::Caller;
use tracing::{Span, field};

/// Of each id the one who asked last. Empty where nobody records spans.
#[derive(Default)]
pub(super) struct Asking(HashMap<RequestId, (Caller, Span), RandomState>);

impl Asking {
    pub(super) fn begin(&mut self, id: RequestId, caller: Caller, span: Span) {
        if !span.is_disabled() {
            self.0.insert(id, (caller, span));
        }
    }

    pub(super) fn end(&mut self, id: &RequestId, caller: Caller) {
        if self.0.get(id).is_some_and(|(last, _)| *last == caller) {
            self.0.remove(id);
        }
    }

    /// The span of a call, from here to its answer.
    pub(super) fn call(&self, command: &StoreCommand) -> Span {
        let asked = command.id().and_then(|id| self.0.get(id));
        let Some((_, asked)) = asked else { return Span::none() };
        let (operation, outcome) = (command.name(), field::Empty);
        asked.in_scope(|| tracing::debug_span!("store", operation, outcome))
    }
}

/// One word for what a store answered.
pub(crate) fn outcome(reply: &Result<StoreReply, StoreError>) -> &'static str {
    match reply {
        Err(_) => "failed",
        Ok(StoreReply::Found(None)) => "nothing",
        Ok(StoreReply::Found(Some(_))) => "found",
        Ok(StoreReply::Inserted(Inserted::Claimed)) => "claimed",
        Ok(StoreReply::Inserted(Inserted::Exists(_)) | StoreReply::Restored(Restored::Exists(_))) => "exists",
        Ok(StoreReply::Inserted(Inserted::Busy)) => "busy",
        Ok(StoreReply::Updated(Updated::Applied)) => "applied",
        Ok(StoreReply::Updated(Updated::AlreadyApplied)) => "already_applied",
        Ok(StoreReply::Updated(Updated::Fenced)) => "fenced",
        Ok(StoreReply::Updated(Updated::NotFound)) => "not_found",
        Ok(_) => "done",
    }
}
