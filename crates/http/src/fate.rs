use http::StatusCode;
use idempotency_core::HaltReason;

/// What becomes of a key when its handler has answered.
///
/// ```
/// use http::StatusCode;
/// use idempotency_http::Fate;
///
/// assert_eq!(Fate::of(StatusCode::CREATED), Fate::Kept);
/// assert_eq!(Fate::of(StatusCode::PAYMENT_REQUIRED), Fate::Kept);
/// assert_eq!(Fate::of(StatusCode::TOO_MANY_REQUESTS), Fate::Released);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The response is stored and replayed.
    Kept,
    /// Nothing was done: the retry runs.
    Released,
    /// Whether it was done is not known: no retry runs.
    Halted(HaltReason),
}

impl Fate {
    /// The default: an answer is a result, also a refusal or a failure.
    ///
    /// Released are only the statuses that by their definition say that nothing was done: 421 (RFC 9110 §15.5.20),
    /// 425 (RFC 8470 §5.2) and 429 (RFC 6585 §4). A status proves nothing once a handler has begun; a handler that
    /// *knows* says [`Disposition::Release`]. 408 is what a timeout layer answers after it dropped a running handler.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            421 | 425 | 429 => Self::Released,
            408 => Self::Halted(HaltReason::TimedOut),
            _ => Self::Kept,
        }
    }
}

/// What a handler says about its response, in the response's extensions; it outranks the status.
///
/// ```
/// use idempotency_http::Disposition;
///
/// // Nothing was done, and the same key may be tried again with another payload.
/// let mut response = http::Response::new("the amount must be more than 0");
/// response.extensions_mut().insert(Disposition::Release);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// The work was done: store the response and replay it.
    Keep,
    /// Nothing was done: the retry runs.
    Release,
    /// Whether it was done is not known: no retry runs.
    Halt,
    /// The work was done, and the response is a stream that is not to be gathered: store that it was not kept. Without
    /// this a stream of lines or of progress reaches its client only when it ends, is too large, or takes too long;
    /// only event streams are known by their content type.
    Stream,
}
