//! Which bodies the inner service gets, and which its callers get.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use crate::{RequestBody, ResponseBody};

/// What becomes of the body of a request on its way to the inner service. Not to be implemented elsewhere.
pub trait RequestKind<B>: sealed::Sealed {
    /// The body that the inner service gets.
    type Body;

    /// Of a request that is not tracked.
    fn pass(request: Request<B>) -> Request<Self::Body>;

    /// Of a payload that was read.
    fn gathered(body: RequestBody<B>) -> Self::Body;
}

/// What becomes of the body of a response on its way to the caller. Not to be implemented elsewhere.
pub trait ResponseKind<B: Body>: sealed::Sealed {
    /// The body that callers get.
    type Body: Body<Data = Bytes>;

    /// Of a request that is not tracked.
    fn pass(response: Response<B>) -> Response<Self::Body>;

    /// Of one that is.
    fn gathered(body: ResponseBody<B>) -> Self::Body;
}

/// Any service: bodies are wrapped in [`RequestBody`] and [`ResponseBody`].
#[derive(Debug, Clone, Copy)]
pub enum Wrapped {}

impl<B> RequestKind<B> for Wrapped {
    type Body = RequestBody<B>;

    fn pass(request: Request<B>) -> Request<RequestBody<B>> {
        request.map(RequestBody::untouched)
    }

    fn gathered(body: RequestBody<B>) -> RequestBody<B> {
        body
    }
}

impl<B: Body> ResponseKind<B> for Wrapped {
    type Body = ResponseBody<B>;

    fn pass(response: Response<B>) -> Response<ResponseBody<B>> {
        response.map(ResponseBody::untouched)
    }

    fn gathered(body: ResponseBody<B>) -> ResponseBody<B> {
        body
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Wrapped {}
    #[cfg(feature = "axum")]
    impl Sealed for crate::axum::Erased {}
}
