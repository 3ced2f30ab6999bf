use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{Error, body::MessageBody, dev::ServiceResponse};
use futures_core::ready;
use pin_project_lite::pin_project;

use crate::ResponseBody;

pin_project! {
    /// The answer of [`IdempotencyMiddleware`](crate::IdempotencyMiddleware) on its way.
    ///
    /// Cancel safe: dropped before the handler began, nothing was done; dropped later, the handler goes on.
    pub struct ResponseFuture<F, B: MessageBody> {
        #[pin]
        state: State<F, B>,
    }
}

type Tracked<B> = Pin<Box<dyn Future<Output = Result<ServiceResponse<ResponseBody<B>>, Error>>>>;

pin_project! {
    #[project = Projected]
    enum State<F, B: MessageBody> {
        Untracked { #[pin] inner: F },
        Answered { response: Option<Box<ServiceResponse<ResponseBody<B>>>> },
        Tracked { tracked: Tracked<B> },
    }
}

impl<F, B: MessageBody> ResponseFuture<F, B> {
    pub(crate) fn untracked(inner: F) -> Self {
        Self { state: State::Untracked { inner } }
    }

    pub(crate) fn answered(response: ServiceResponse<ResponseBody<B>>) -> Self {
        Self { state: State::Answered { response: Some(Box::new(response)) } }
    }

    pub(crate) fn tracked(
        tracked: impl Future<Output = Result<ServiceResponse<ResponseBody<B>>, Error>> + 'static,
    ) -> Self {
        Self { state: State::Tracked { tracked: Box::pin(tracked) } }
    }
}

impl<F, B> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody,
{
    type Output = Result<ServiceResponse<ResponseBody<B>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Untracked { inner } => {
                let response = ready!(inner.poll(cx))?;
                Poll::Ready(Ok(response.map_body(|_, body| ResponseBody::untouched(body))))
            }
            Projected::Answered { response } => {
                Poll::Ready(Ok(*response.take().expect("a future is not polled after its end")))
            }
            Projected::Tracked { tracked } => tracked.as_mut().poll(cx),
        }
    }
}

impl<F, B: MessageBody> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Untracked { .. } => "untracked",
            State::Answered { .. } => "answered",
            State::Tracked { .. } => "tracked",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish()
    }
}
