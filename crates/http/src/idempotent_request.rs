use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use idempotency_core::{ChildKey, IdempotencyKey, RequestId, Secret};

use crate::Disposition;

/// What the handler of a tracked request finds in the extensions of the request: which one it is, and a word about its end.
///
/// ```
/// use idempotency_http::IdempotentRequest;
///
/// fn pay(request: &IdempotentRequest) -> Result<String, &'static str> {
///     if !request.is_held() {
///         // Somebody else may have taken over by now.
///         return Err("too late");
///     }
///     // The same at every attempt, so that the provider charges once.
///     let key = request.child("charge").to_string();
///     let Some(charge) = charge(&key) else {
///         // The provider says that nothing was done: the retry may run.
///         request.release();
///         return Err("try again");
///     };
///     Ok(charge)
/// }
/// # fn charge(_: &str) -> Option<String> { None }
/// ```
///
/// Untracked requests have none, but for those that run while the store is away by a policy that fails open: theirs is not held.
#[derive(Clone)]
pub struct IdempotentRequest {
    key: IdempotencyKey,
    id: RequestId,
    secret: Option<Secret>,
    said: Arc<Mutex<Option<Disposition>>>,
    is_held: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl IdempotentRequest {
    /// For adapters, which know whether the claim is still held.
    pub fn new(
        key: IdempotencyKey,
        id: RequestId,
        secret: Option<Secret>,
        is_held: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { key, id, secret, said: Arc::default(), is_held: Arc::new(is_held) }
    }

    /// What the client sent.
    pub fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// A key of its own for one step, to be sent downstream.
    pub fn child(&self, step: &str) -> ChildKey {
        ChildKey::derive(self.secret.as_ref(), &self.id, step)
    }

    /// Whether nobody else can have taken the request over. Ask before an irreversible step.
    pub fn is_held(&self) -> bool {
        (self.is_held)()
    }

    /// The work was done: store the response and replay it, whatever its status.
    pub fn keep(&self) {
        self.say(Disposition::Keep);
    }

    /// Nothing was done: the retry runs, whatever the status.
    pub fn release(&self) {
        self.say(Disposition::Release);
    }

    /// Whether it was done is not known: no retry runs.
    pub fn halt(&self) {
        self.say(Disposition::Halt);
    }

    /// What was said last. A [`Disposition`] in the extensions of the response outranks it.
    pub fn said(&self) -> Option<Disposition> {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, disposition: Disposition) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(disposition);
    }
}

/// Without the key, which is the client's.
impl fmt::Debug for IdempotentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotentRequest")
            .field("id", &self.id)
            .field("said", &self.said())
            .field("is_held", &self.is_held())
            .finish_non_exhaustive()
    }
}
