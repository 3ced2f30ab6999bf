use std::time::Duration;

use crate::{Fingerprint, Meta, Owner, Record, RequestId};

/// How long a claim stands without a sign of life unless said otherwise: 15 s.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// How long a settled record is kept unless said otherwise: 24 h, as the large payment APIs do.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// What `insert` is asked: let `owner` work on `id`.
///
/// ```
/// use idempotency_core::{Claim, Fingerprint, Owner, RequestId, Scope};
/// use std::time::Duration;
///
/// let id = RequestId::derive(None, &Scope::global(), [&b"key"[..]]);
/// let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, []));
/// assert_eq!(claim.lease, Duration::from_secs(15));
/// ```
///
/// It carries durations, never instants: a claim that waited in a queue, a swap or an outage must not arrive
/// already lapsed. The store adds them to its own time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Claim {
    /// The request.
    pub id: RequestId,
    /// Who claims it.
    pub owner: Owner,
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// How long the claim stands without a sign of life.
    pub lease: Duration,
    /// How long the record is kept after the lease lapsed, or after it was settled.
    pub retention: Duration,
    /// Kept unchanged with the record.
    pub meta: Meta,
    /// The owner of the orphan that this claim takes over, with the `meta` that was read there.
    pub takes_over: Option<Owner>,
}

impl Claim {
    /// A claim with the default lease and retention, no meta, that takes nothing over.
    pub fn new(id: RequestId, owner: Owner, fingerprint: Fingerprint) -> Self {
        Self {
            id,
            owner,
            fingerprint,
            lease: DEFAULT_LEASE,
            retention: DEFAULT_RETENTION,
            meta: Meta::default(),
            takes_over: None,
        }
    }
}

/// What `insert` answers.
///
/// ```
/// use idempotency_core::Inserted;
///
/// fn may_work(answer: &Inserted) -> bool {
///     matches!(answer, Inserted::Claimed)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Inserted {
    /// The claim stands.
    Claimed,
    /// It does not; this is what is there, unexpired.
    Exists(Box<Record>),
    /// Somebody holds the id in an open transaction and nothing committed answers the question.
    Busy,
}
