use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response: the handler's own as it passes, one that was gathered, or one that flows on after its
    /// beginning was gathered.
    pub struct ResponseBody<B: MessageBody> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = InnerProjected]
    enum Inner<B: MessageBody> {
        Untouched { #[pin] body: B },
        Gathered { bytes: Bytes },
        // Not there for every response, and in a box: a body is moved several times on its way.
        Flowing { flowing: Box<Flowing<B>> },
    }
}

/// What was gathered, and what comes after it.
struct Flowing<B: MessageBody> {
    prefix: VecDeque<Bytes>,
    rest: Rest<B>,
}

/// What comes after the gathered beginning. It was polled before, so it is pinned already.
enum Rest<B: MessageBody> {
    Body(Pin<Box<B>>),
    Error(B::Error),
    Nothing,
}

impl<B: MessageBody> ResponseBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self { inner: Inner::Untouched { body } }
    }

    pub(crate) fn gathered(bytes: Bytes) -> Self {
        Self { inner: Inner::Gathered { bytes } }
    }

    pub(crate) fn flowing(prefix: [Bytes; 2], rest: Pin<Box<B>>) -> Self {
        Self::after(prefix, Rest::Body(rest))
    }

    pub(crate) fn broken(prefix: Bytes, error: B::Error) -> Self {
        Self::after([prefix], Rest::Error(error))
    }

    fn after(prefix: impl IntoIterator<Item = Bytes>, rest: Rest<B>) -> Self {
        // actix-web takes an empty chunk for the end of a body.
        let prefix = prefix.into_iter().filter(|bytes| !bytes.is_empty()).collect();
        Self { inner: Inner::Flowing { flowing: Box::new(Flowing { prefix, rest }) } }
    }
}

impl<B: MessageBody> MessageBody for ResponseBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        match &self.inner {
            Inner::Untouched { body } => body.size(),
            Inner::Gathered { bytes } => BodySize::Sized(bytes.len() as u64),
            // A body of known size that is too large is never gathered.
            Inner::Flowing { .. } => BodySize::Stream,
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        match self.project().inner.project() {
            InnerProjected::Untouched { body } => body.poll_next(cx),
            InnerProjected::Gathered { bytes } => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            InnerProjected::Flowing { flowing } => {
                let Flowing { prefix, rest } = &mut **flowing;
                if let Some(bytes) = prefix.pop_front() {
                    return Poll::Ready(Some(Ok(bytes)));
                }
                match rest {
                    Rest::Body(body) => body.as_mut().poll_next(cx),
                    Rest::Nothing => Poll::Ready(None),
                    Rest::Error(_) => match std::mem::replace(rest, Rest::Nothing) {
                        Rest::Error(error) => Poll::Ready(Some(Err(error))),
                        _ => Poll::Ready(None),
                    },
                }
            }
        }
    }
}

impl<B: MessageBody> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Untouched { .. } => "untouched",
            Inner::Gathered { .. } => "gathered",
            Inner::Flowing { .. } => "flowing",
        };
        f.debug_struct("ResponseBody").field("kind", &kind).finish_non_exhaustive()
    }
}
