use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

// What is not there for every request is in a box: a body is moved several times on its way.

pin_project! {
    /// The body that the inner service gets: the client's own, or the payload that was read from it.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: Payload<B>,
    }
}

pin_project! {
    #[project = PayloadProjected]
    #[derive(Debug)]
    enum Payload<B> {
        Untouched { #[pin] body: B },
        Gathered { gathered: Box<Gathered> },
        Nothing,
    }
}

/// Bytes and trailers that are all there.
#[derive(Debug)]
struct Gathered {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
}

impl Gathered {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.bytes.has_remaining() {
            return Some(Frame::data(std::mem::take(&mut self.bytes)));
        }
        self.trailers.take().map(Frame::trailers)
    }

    /// Trailers come only after a body whose end is not announced (RFC 9112 §7.1.2).
    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        match self.trailers {
            None => hint.set_exact(self.bytes.len() as u64),
            Some(_) => hint.set_lower(self.bytes.len() as u64),
        }
        hint
    }

    fn is_end(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }
}

impl<B> RequestBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self { inner: Payload::Untouched { body } }
    }

    pub(crate) fn gathered(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { inner: Payload::Gathered { gathered: Box::new(Gathered { bytes, trailers }) } }
    }

    /// What was gathered.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.inner {
            Payload::Gathered { gathered } => &gathered.bytes,
            Payload::Untouched { .. } | Payload::Nothing => &[],
        }
    }
}

/// Nothing: for services that replace a request's body by the default one.
impl<B> Default for RequestBody<B> {
    fn default() -> Self {
        Self { inner: Payload::Nothing }
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().inner.project() {
            PayloadProjected::Untouched { body } => poll_bytes(body, cx),
            PayloadProjected::Gathered { gathered } => Poll::Ready(gathered.next().map(Ok)),
            PayloadProjected::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Payload::Untouched { body } => body.is_end_stream(),
            Payload::Gathered { gathered } => gathered.is_end(),
            Payload::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Payload::Untouched { body } => body.size_hint(),
            Payload::Gathered { gathered } => gathered.size_hint(),
            Payload::Nothing => SizeHint::with_exact(0),
        }
    }
}

/// A frame of any data as one of bytes, which costs nothing where they are bytes.
fn poll_bytes<B: Body>(
    body: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    let bytes = |frame: Frame<B::Data>| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
    body.poll_frame(cx).map_ok(bytes)
}

pin_project! {
    /// The body of a response: the handler's own as it passes, one that was gathered, or one that flows on after its
    /// beginning was gathered.
    #[project = ResponseProjected]
    pub struct ResponseBody<B: Body> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = InnerProjected]
    enum Inner<B: Body> {
        Untouched { #[pin] body: B },
        Gathered { gathered: Box<Gathered> },
        Flowing { flowing: Box<Flowing<B>> },
    }
}

/// What was gathered, and what comes after it.
struct Flowing<B: Body> {
    prefix: VecDeque<Bytes>,
    rest: Rest<B>,
}

/// What comes after the gathered beginning. It was polled before, so it is pinned already.
enum Rest<B: Body> {
    Body(Pin<Box<B>>),
    Error(B::Error),
    Nothing,
}

impl<B: Body> ResponseBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self { inner: Inner::Untouched { body } }
    }

    pub(crate) fn gathered(bytes: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { inner: Inner::Gathered { gathered: Box::new(Gathered { bytes, trailers }) } }
    }

    /// The handler's own, if it is.
    #[cfg(feature = "axum")]
    pub(crate) fn into_untouched(self) -> Result<B, Self> {
        match self.inner {
            Inner::Untouched { body } => Ok(body),
            _ => Err(self),
        }
    }

    pub(crate) fn flowing(prefix: [Bytes; 2], rest: Pin<Box<B>>) -> Self {
        Self::after(prefix, Rest::Body(rest))
    }

    pub(crate) fn broken(prefix: Bytes, error: B::Error) -> Self {
        Self::after([prefix], Rest::Error(error))
    }

    fn after(prefix: impl IntoIterator<Item = Bytes>, rest: Rest<B>) -> Self {
        let prefix = prefix.into_iter().filter(|bytes| !bytes.is_empty()).collect();
        Self { inner: Inner::Flowing { flowing: Box::new(Flowing { prefix, rest }) } }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().inner.project() {
            InnerProjected::Untouched { body } => poll_bytes(body, cx),
            InnerProjected::Gathered { gathered } => Poll::Ready(gathered.next().map(Ok)),
            InnerProjected::Flowing { flowing } => {
                let Flowing { prefix, rest } = &mut **flowing;
                if let Some(bytes) = prefix.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                match rest {
                    Rest::Body(body) => poll_bytes(body.as_mut(), cx),
                    Rest::Nothing => Poll::Ready(None),
                    Rest::Error(_) => match std::mem::replace(rest, Rest::Nothing) {
                        Rest::Error(error) => Poll::Ready(Some(Err(error))),
                        _ => Poll::Ready(None),
                    },
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Untouched { body } => body.is_end_stream(),
            Inner::Gathered { gathered } => gathered.is_end(),
            Inner::Flowing { flowing } => {
                let Flowing { prefix, rest } = &**flowing;
                prefix.is_empty()
                    && match rest {
                        Rest::Body(body) => body.is_end_stream(),
                        Rest::Error(_) => false,
                        Rest::Nothing => true,
                    }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Untouched { body } => body.size_hint(),
            Inner::Gathered { gathered } => gathered.size_hint(),
            Inner::Flowing { flowing } => {
                let Flowing { prefix, rest } = &**flowing;
                let gathered: u64 = prefix.iter().map(|bytes| bytes.len() as u64).sum();
                let rest = match rest {
                    Rest::Body(body) => body.size_hint(),
                    Rest::Error(_) => SizeHint::new(),
                    Rest::Nothing => SizeHint::with_exact(0),
                };
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(gathered));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(gathered)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Untouched { .. } => "untouched",
            Inner::Gathered { .. } => "gathered",
            Inner::Flowing { .. } => "flowing",
        };
        f.debug_struct("ResponseBody").field("kind", &kind).finish_non_exhaustive()
    }
}
