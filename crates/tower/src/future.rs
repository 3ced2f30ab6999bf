use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::ready;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    ResponseBody,
    kind::{ResponseKind, Wrapped},
};

pin_project! {
    /// The answer of [`Idempotency`](crate::Idempotency) on its way.
    ///
    /// Cancel safe: dropped before the handler began, nothing was done; dropped later, the handler goes on.
    pub struct ResponseFuture<F, B: Body, E, K = Wrapped> {
        #[pin]
        state: State<F, B, E>,
        kind: PhantomData<fn() -> K>,
    }
}

type Tracked<B, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, E>> + Send>>;

pin_project! {
    #[project = Projected]
    enum State<F, B: Body, E> {
        Untracked { #[pin] inner: F },
        Answered { response: Option<Box<Response<ResponseBody<B>>>> },
        Tracked { tracked: Tracked<B, E> },
    }
}

impl<F, B: Body, E, K> ResponseFuture<F, B, E, K> {
    pub(crate) fn untracked(inner: F) -> Self {
        Self { state: State::Untracked { inner }, kind: PhantomData }
    }

    pub(crate) fn answered(response: Response<ResponseBody<B>>) -> Self {
        Self { state: State::Answered { response: Some(Box::new(response)) }, kind: PhantomData }
    }

    pub(crate) fn tracked(
        tracked: impl Future<Output = Result<Response<ResponseBody<B>>, E>> + Send + 'static,
    ) -> Self {
        Self { state: State::Tracked { tracked: Box::pin(tracked) }, kind: PhantomData }
    }
}

impl<F, B, E, K> Future for ResponseFuture<F, B, E, K>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    K: ResponseKind<B>,
{
    type Output = Result<Response<K::Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match self.project().state.project() {
            Projected::Untracked { inner } => return inner.poll(cx).map_ok(K::pass),
            Projected::Answered { response } => {
                *response.take().expect("a future is not polled after its end")
            }
            Projected::Tracked { tracked } => ready!(tracked.as_mut().poll(cx))?,
        };
        Poll::Ready(Ok(response.map(K::gathered)))
    }
}

impl<F, B: Body, E, K> fmt::Debug for ResponseFuture<F, B, E, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Untracked { .. } => "untracked",
            State::Answered { .. } => "answered",
            State::Tracked { .. } => "tracked",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish()
    }
}
