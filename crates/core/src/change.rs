use std::time::Duration;

use crate::{HaltReason, Owner, RequestId, StoredResponse};

/// What `update` is asked: move the record of `id` on if `owner` is its owner.
///
/// ```
/// use idempotency_core::{Change, Owner, RequestId, Scope, StoredResponse, Update};
/// use std::time::Duration;
///
/// let id = RequestId::derive(None, &Scope::global(), [&b"key"[..]]);
/// let retention = Duration::from_secs(24 * 60 * 60);
/// let put = Update::new(id, Owner::from_u128(1), Change::Complete { response: "201".into(), retention });
/// assert_eq!(put.change.name(), "complete");
/// # let _: StoredResponse = "201".into();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Update {
    /// The request.
    pub id: RequestId,
    /// Who must own the record for anything to happen.
    pub owner: Owner,
    /// What is to happen.
    pub change: Change,
}

impl Update {
    /// An update of `id` by `owner`.
    pub fn new(id: RequestId, owner: Owner, change: Change) -> Self {
        Self { id, owner, change }
    }
}

/// The ways in which a record moves on.
///
/// ```
/// use idempotency_core::Change;
///
/// assert_eq!(Change::Release.name(), "release");
/// ```
///
/// Durations count from the moment the store applies the change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// A sign of life: the lease begins anew.
    Renew {
        /// How long the claim stands from now without another sign of life.
        lease: Duration,
        /// How long the record is kept after that.
        retention: Duration,
    },
    /// The work was done.
    Complete {
        /// What every retry gets.
        response: StoredResponse,
        /// How long it is kept.
        retention: Duration,
    },
    /// Whether the work was done is not known.
    Halt {
        /// Why.
        reason: HaltReason,
        /// How long that is kept.
        retention: Duration,
    },
    /// Nothing was done, the retry may run.
    Release,
    /// An operator deletes a settled or orphaned record, by the owner he read.
    Forget,
}

impl Change {
    /// One word for logs and metrics labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Renew { .. } => "renew",
            Self::Complete { .. } => "complete",
            Self::Halt { .. } => "halt",
            Self::Release => "release",
            Self::Forget => "forget",
        }
    }

    /// Lets go of the body of a response, if it is one: only the fact that the work was done is kept.
    ///
    /// ```
    /// use idempotency_core::{Body, Change};
    /// use std::time::Duration;
    ///
    /// let mut change = Change::Complete { response: "created".into(), retention: Duration::from_secs(60) };
    /// change.let_body_go();
    /// assert!(matches!(change, Change::Complete { response, .. } if response.body() == &Body::NotKept));
    /// ```
    pub fn let_body_go(&mut self) {
        if let Self::Complete { response, .. } = self {
            *response = response.clone().without_body();
        }
    }
}

/// What `update` answers.
///
/// ```
/// use idempotency_core::Updated;
///
/// // A put whose reply was lost is repeated, and both answers mean that it is stored.
/// fn is_stored(answer: Updated) -> bool {
///     matches!(answer, Updated::Applied | Updated::AlreadyApplied)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Updated {
    /// The record moved on.
    Applied,
    /// It had moved on like that before: the repetition of a call whose reply was lost.
    AlreadyApplied,
    /// The record belongs to somebody else, or was settled otherwise. Nothing changed.
    Fenced,
    /// There is no record, or it has expired. Nothing changed.
    NotFound,
}
