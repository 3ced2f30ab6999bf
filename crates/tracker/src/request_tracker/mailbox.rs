//! The messages of the actor's own mailbox. They join those from the inbox, so that there is one way through.

use std::fmt;

use actix::{Context, Handler, Message, dev::MessageResponse};
use idempotency_core::{Change, Record};
use tokio::sync::oneshot;
use tracing::Span;

use super::RequestTracker;
use crate::{
    Error, Forget, Forgotten, Halt, Lookup, Prune, PutResponse, Release, Settled, Status, StatusReport, Swap,
    SwapReport, Track, Tracked,
    inbox::{Input, Reply},
    swap::NewBackend,
};

/// The answer to a message that came through the mailbox: given later, to the sender that actix hands over.
pub struct Later<T>(Box<dyn FnOnce(Reply<T>)>);

impl<T> fmt::Debug for Later<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

impl<T: 'static, M: Message<Result = T>> MessageResponse<RequestTracker, M> for Later<T> {
    fn handle(self, _: &mut Context<RequestTracker>, reply: Option<oneshot::Sender<T>>) {
        (self.0)(reply);
    }
}

impl RequestTracker {
    /// Puts the input where the next round finds it: actix polls the actor's future right after its mailbox.
    fn later<T: 'static>(&self, input: impl FnOnce(Reply<T>) -> Input + 'static) -> Later<T> {
        let estate = self.estate.clone();
        Later(Box::new(move |reply| estate.borrow_mut().taken.push_back(input(reply))))
    }
}

impl Handler<Track> for RequestTracker {
    type Result = Later<Result<Tracked, Error>>;

    fn handle(&mut self, track: Track, _: &mut Self::Context) -> Self::Result {
        let caller = self.inbox.next_caller();
        self.later(move |reply| Input::Track { caller, track, reply, slot: None })
    }
}

impl Handler<PutResponse> for RequestTracker {
    type Result = Later<Result<Settled, Error>>;

    fn handle(&mut self, put: PutResponse, _: &mut Self::Context) -> Self::Result {
        let change = put.permit.completed(put.response);
        Later(Box::new(move |reply| put.permit.hand_over(change, reply, Span::none())))
    }
}

impl Handler<Halt> for RequestTracker {
    type Result = Later<Result<Settled, Error>>;

    fn handle(&mut self, halt: Halt, _: &mut Self::Context) -> Self::Result {
        let change = halt.permit.halted(halt.reason);
        Later(Box::new(move |reply| halt.permit.hand_over(change, reply, Span::none())))
    }
}

impl Handler<Release> for RequestTracker {
    type Result = Later<Result<Settled, Error>>;

    fn handle(&mut self, release: Release, _: &mut Self::Context) -> Self::Result {
        Later(Box::new(move |reply| release.permit.hand_over(Change::Release, reply, Span::none())))
    }
}

impl Handler<Lookup> for RequestTracker {
    type Result = Later<Result<Option<Record>, Error>>;

    fn handle(&mut self, Lookup { id }: Lookup, _: &mut Self::Context) -> Self::Result {
        self.later(move |reply| Input::Lookup { id, reply })
    }
}

impl Handler<Forget> for RequestTracker {
    type Result = Later<Result<Forgotten, Error>>;

    fn handle(&mut self, Forget { id, owner, reason }: Forget, _: &mut Self::Context) -> Self::Result {
        self.later(move |reply| Input::Forget { id, owner, reason, reply })
    }
}

impl Handler<Prune> for RequestTracker {
    type Result = Later<Result<usize, Error>>;

    fn handle(&mut self, _: Prune, _: &mut Self::Context) -> Self::Result {
        self.later(|reply| Input::Prune { reply })
    }
}

impl Handler<Status> for RequestTracker {
    type Result = Later<Result<StatusReport, Error>>;

    fn handle(&mut self, _: Status, _: &mut Self::Context) -> Self::Result {
        self.later(|reply| Input::Status { reply })
    }
}

impl Handler<Swap> for RequestTracker {
    type Result = Later<Result<SwapReport, Error>>;

    fn handle(&mut self, Swap { store, policy }: Swap, _: &mut Self::Context) -> Self::Result {
        let backend = NewBackend::store(store);
        self.later(move |reply| Input::AskSwap { backend, policy, reply })
    }
}
