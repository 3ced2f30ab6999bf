use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::ready;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::ResponseBody;

pin_project! {
    /// The answer of [`Idempotency`](crate::Idempotency) on its way.
    ///
    /// Cancel safe: dropped before the handler began, nothing was done; dropped later, the handler goes on.
    pub struct ResponseFuture<F, B: Body, E> {
        #[pin]
        state: State<F, B, E>,
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

impl<F, B: Body, E> ResponseFuture<F, B, E> {
    pub(crate) fn untracked(inner: F) -> Self {
        Self { state: State::Untracked { inner } }
    }

    pub(crate) fn answered(response: Response<ResponseBody<B>>) -> Self {
        Self { state: State::Answered { response: Some(Box::new(response)) } }
    }

    pub(crate) fn tracked(
        tracked: impl Future<Output = Result<Response<ResponseBody<B>>, E>> + Send + 'static,
    ) -> Self {
        Self { state: State::Tracked { tracked: Box::pin(tracked) } }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Untracked { inner } => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(response.map(ResponseBody::untouched)))
            }
            Projected::Answered { response } => {
                Poll::Ready(Ok(*response.take().expect("a future is not polled after its end")))
            }
            Projected::Tracked { tracked } => tracked.as_mut().poll(cx),
        }
    }
}

impl<F, B: Body, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Untracked { .. } => "untracked",
            State::Answered { .. } => "answered",
            State::Tracked { .. } => "tracked",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish()
    }
}
