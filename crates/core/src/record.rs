use time::OffsetDateTime;

use crate::{Change, Fingerprint, HaltReason, Meta, Owner, RequestId, State, Update};

/// All that is kept of one request.
///
/// ```
/// use idempotency_core::{Claim, Fingerprint, HaltReason, Owner, Record, RequestId, Scope, Write};
/// use time::{Duration, OffsetDateTime};
///
/// let now = OffsetDateTime::UNIX_EPOCH;
/// let id = RequestId::derive(None, &Scope::global(), [&b"key"[..]]);
/// let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, []));
/// let Write::Put(record) = Record::on_insert(None, &claim, now).write else { unreachable!() };
///
/// // The caller stays silent for longer than its lease: an orphan, but not expired.
/// let later = now + Duration::seconds(15);
/// assert!(!record.is_orphan(now));
/// assert!(record.is_orphan(later));
/// assert!(!record.is_expired(later));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Record {
    /// Who claimed it, and alone may settle it.
    pub owner: Owner,
    /// What was asked for.
    pub fingerprint: Fingerprint,
    /// When this generation began.
    pub claimed_at: OffsetDateTime,
    /// From this instant on the record counts as absent. While processing: end of the lease plus retention.
    pub expires_at: OffsetDateTime,
    /// What the claim set.
    pub meta: Meta,
    /// What became of it so far.
    pub state: State,
}

impl Record {
    /// A record that a store read back.
    pub fn new(
        owner: Owner,
        fingerprint: Fingerprint,
        claimed_at: OffsetDateTime,
        expires_at: OffsetDateTime,
        meta: Meta,
        state: State,
    ) -> Self {
        Self { owner, fingerprint, claimed_at, expires_at, meta, state }
    }

    /// The update that deletes exactly this record, once it was copied elsewhere: a running one is released, a settled one
    /// forgotten. Somebody else's is fenced.
    pub fn removal(&self, id: RequestId) -> Update {
        let change = match self.state {
            State::Processing { .. } => Change::Release,
            State::Completed(_) | State::Halted(_) => Change::Forget,
        };
        Update::new(id, self.owner, change)
    }

    /// Whether the record counts as absent: nothing is served or blocked after it expired (I7).
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at <= now
    }

    /// Whether the lease has lapsed. Never true of a settled record.
    pub fn is_lapsed(&self, now: OffsetDateTime) -> bool {
        matches!(self.state, State::Processing { lease_until } if lease_until <= now)
    }

    /// Whether the caller is gone: the lease has lapsed, or the record was halted as cancelled or at shutdown.
    pub fn is_orphan(&self, now: OffsetDateTime) -> bool {
        match self.state {
            State::Processing { .. } => self.is_lapsed(now),
            State::Halted(reason) => reason.is_orphan(),
            State::Completed(_) => false,
        }
    }

    /// Why the outcome is unknown, if it is: the stored reason, or that the lease has lapsed.
    pub fn halted(&self, now: OffsetDateTime) -> Option<HaltReason> {
        match self.state {
            State::Halted(reason) => Some(reason),
            State::Processing { .. } if self.is_lapsed(now) => Some(HaltReason::OwnerLost),
            _ => None,
        }
    }
}
