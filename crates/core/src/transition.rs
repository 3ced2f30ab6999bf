//! The one table of transitions. Local stores call it inside their own lock or transaction; Redis and PostgreSQL
//! say the same in their own language and are held to it by the conformance suite; the model checker runs on it.

use std::time::Duration;

use time::OffsetDateTime;

use crate::{Change, Claim, HaltReason, Inserted, Record, State, StoredResponse, Update, Updated};

/// What a step of the table says: what to write, and what to answer.
///
/// ```
/// use idempotency_core::{Change, Owner, Record, RequestId, Scope, Update, Updated, Write};
/// use time::OffsetDateTime;
///
/// let id = RequestId::derive(None, &Scope::global(), [&b"key"[..]]);
/// let release = Update::new(id, Owner::from_u128(1), Change::Release);
/// let step = Record::on_update(None, &release, OffsetDateTime::UNIX_EPOCH);
/// assert_eq!((step.write, step.answer), (Write::Keep, Updated::NotFound));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition<A> {
    /// What becomes of the stored record.
    pub write: Write,
    /// What the caller hears once that is done.
    pub answer: A,
}

impl<A> Transition<A> {
    fn keep(answer: A) -> Self {
        Self { write: Write::Keep, answer }
    }

    fn put(record: Record, answer: A) -> Self {
        Self { write: Write::Put(record), answer }
    }

    fn delete(answer: A) -> Self {
        Self { write: Write::Delete, answer }
    }
}

/// What becomes of the stored record.
///
/// ```
/// use idempotency_core::{Record, RequestId, Write};
/// use std::collections::HashMap;
///
/// fn write(records: &mut HashMap<RequestId, Record>, id: RequestId, write: Write) {
///     match write {
///         Write::Keep => {}
///         Write::Put(record) => drop(records.insert(id, record)),
///         Write::Delete => drop(records.remove(&id)),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// It stays as it is.
    Keep,
    /// It is replaced by, or created as, this one.
    Put(Record),
    /// It is deleted.
    Delete,
}

/// What `restore` answers.
///
/// ```
/// use idempotency_core::Restored;
///
/// fn is_there(answer: &Restored) -> bool {
///     matches!(answer, Restored::Restored)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restored {
    /// The record is there now.
    Restored,
    /// The record to restore has expired meanwhile; there was nothing to do.
    Expired,
    /// The id is taken by this record.
    Exists(Box<Record>),
}

impl Record {
    /// Claims an id, or takes an orphan over.
    ///
    /// | insert finds | answer |
    /// | --- | --- |
    /// | nothing, or expired | written; `Claimed` |
    /// | `Processing`, mine (lapsed or not) | lease extended; `Claimed`: so a lost reply is repeated |
    /// | settled, mine | `Exists`: a repeated claim never runs finished work again |
    /// | the owner it takes over, fingerprint equal, and `Halted` or lapsed | written anew; `Claimed` |
    /// | anything else | `Exists` |
    ///
    /// For an example see the [crate's first page](crate).
    pub fn on_insert(stored: Option<&Self>, claim: &Claim, now: OffsetDateTime) -> Transition<Inserted> {
        let Some(stored) = stored.filter(|record| !record.is_expired(now)) else {
            return Transition::put(Self::claimed(claim, now), Inserted::Claimed);
        };
        if stored.owner == claim.owner {
            return match stored.renewed(claim.lease, claim.retention, now) {
                Some(renewed) => Transition::put(renewed, Inserted::Claimed),
                None => Transition::keep(Inserted::Exists(stored.clone().into())),
            };
        }
        let may_take_over = claim.takes_over == Some(stored.owner)
            && claim.fingerprint == stored.fingerprint
            && stored.halted(now).is_some();
        if may_take_over {
            return Transition::put(Self::claimed(claim, now), Inserted::Claimed);
        }
        Transition::keep(Inserted::Exists(stored.clone().into()))
    }

    /// Moves a record on, if `update.owner` is its owner.
    ///
    /// | update finds | renew | complete | halt | release | forget |
    /// | --- | --- | --- | --- | --- | --- |
    /// | nothing, or expired | NotFound | NotFound | NotFound | NotFound | NotFound |
    /// | `Processing` | Applied | Applied | Applied | Applied: deleted | Fenced |
    /// | `Processing`, lapsed | Applied | Applied | Applied | Applied: deleted | Applied: deleted |
    /// | `Completed` | Fenced | AlreadyApplied if the digests are equal, else Fenced | Fenced | Fenced | Applied: deleted |
    /// | `Halted` | Fenced | Applied if the reason is `Shutdown`, else Fenced | AlreadyApplied | Fenced | Applied: deleted |
    /// | another owner | Fenced | Fenced | Fenced | Fenced | Fenced |
    ///
    /// ```
    /// use idempotency_core::*;
    /// use time::OffsetDateTime;
    ///
    /// let (now, id) = (OffsetDateTime::UNIX_EPOCH, RequestId::from_bytes([1; 32]));
    /// let claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, []));
    /// let Write::Put(record) = Record::on_insert(None, &claim, now).write else { unreachable!() };
    ///
    /// let stranger = Update::new(id, Owner::from_u128(2), Change::Release);
    /// assert_eq!(Record::on_update(Some(&record), &stranger, now).answer, Updated::Fenced);
    /// let owner = Update::new(id, Owner::from_u128(1), Change::Release);
    /// assert_eq!(Record::on_update(Some(&record), &owner, now).write, Write::Delete);
    /// ```
    pub fn on_update(stored: Option<&Self>, update: &Update, now: OffsetDateTime) -> Transition<Updated> {
        let Some(stored) = stored.filter(|record| !record.is_expired(now)) else {
            return Transition::keep(Updated::NotFound);
        };
        if stored.owner != update.owner {
            return Transition::keep(Updated::Fenced);
        }
        match (&stored.state, &update.change) {
            (State::Processing { .. }, Change::Renew { lease, retention }) => {
                stored.renewed(*lease, *retention, now).map_or_else(
                    || Transition::keep(Updated::Fenced),
                    |record| Transition::put(record, Updated::Applied),
                )
            }

            (
                State::Processing { .. } | State::Halted(HaltReason::Shutdown),
                Change::Complete { response, retention },
            ) => Transition::put(
                stored.settled(State::Completed(response.clone()), *retention, now),
                Updated::Applied,
            ),
            (State::Completed(kept), Change::Complete { response, .. }) => {
                Transition::keep(Self::repeated(kept, response))
            }

            (State::Processing { .. }, Change::Halt { reason, retention }) => {
                Transition::put(stored.settled(State::Halted(*reason), *retention, now), Updated::Applied)
            }
            (State::Halted(_), Change::Halt { .. }) => Transition::keep(Updated::AlreadyApplied),

            (State::Processing { .. }, Change::Release) => Transition::delete(Updated::Applied),

            // A running record is its caller's; only what is settled or orphaned is an operator's to delete.
            (State::Processing { .. }, Change::Forget) if !stored.is_lapsed(now) => {
                Transition::keep(Updated::Fenced)
            }
            (_, Change::Forget) => Transition::delete(Updated::Applied),

            (State::Completed(_), Change::Renew { .. } | Change::Halt { .. } | Change::Release)
            | (State::Halted(_), Change::Renew { .. } | Change::Complete { .. } | Change::Release) => {
                Transition::keep(Updated::Fenced)
            }
        }
    }

    /// Puts a whole record where it came from: a swap copies it from one store into another.
    ///
    /// Written if the id is free, expired, or `Processing` with the same owner; else `Exists`. A record that has
    /// itself expired is not written.
    ///
    /// ```
    /// use idempotency_core::*;
    /// use time::OffsetDateTime;
    ///
    /// let now = OffsetDateTime::UNIX_EPOCH;
    /// let claim = Claim::new(RequestId::from_bytes([1; 32]), Owner::from_u128(1), Fingerprint::derive(None, []));
    /// let Write::Put(record) = Record::on_insert(None, &claim, now).write else { unreachable!() };
    /// let step = Record::on_restore(None, &record, now);
    /// assert_eq!((step.write, step.answer), (Write::Put(record), Restored::Restored));
    /// ```
    pub fn on_restore(stored: Option<&Self>, record: &Self, now: OffsetDateTime) -> Transition<Restored> {
        if record.is_expired(now) {
            return Transition::keep(Restored::Expired);
        }
        match stored {
            Some(stored)
                if !stored.is_expired(now) && (stored.state.is_settled() || stored.owner != record.owner) =>
            {
                Transition::keep(Restored::Exists(stored.clone().into()))
            }
            _ => Transition::put(record.clone(), Restored::Restored),
        }
    }

    fn claimed(claim: &Claim, now: OffsetDateTime) -> Self {
        let lease_until = after(now, claim.lease);
        Self {
            owner: claim.owner,
            fingerprint: claim.fingerprint,
            claimed_at: now,
            expires_at: after(lease_until, claim.retention),
            meta: claim.meta.clone(),
            state: State::Processing { lease_until },
        }
    }

    /// The record with its lease begun anew; `None` if it is settled. A lease is never cut short: a renewal that
    /// was held up somewhere must not undo a later one.
    fn renewed(&self, lease: Duration, retention: Duration, now: OffsetDateTime) -> Option<Self> {
        let State::Processing { lease_until } = self.state else {
            return None;
        };
        let lease_until = lease_until.max(after(now, lease));
        Some(Self {
            expires_at: after(lease_until, retention),
            state: State::Processing { lease_until },
            ..self.clone()
        })
    }

    fn settled(&self, state: State, retention: Duration, now: OffsetDateTime) -> Self {
        Self { expires_at: after(now, retention), state, ..self.clone() }
    }

    fn repeated(kept: &StoredResponse, put: &StoredResponse) -> Updated {
        if kept.digest() == put.digest() { Updated::AlreadyApplied } else { Updated::Fenced }
    }
}

/// `now` plus `duration`, at most the last instant there is: an absurd retention must not panic a store.
fn after(now: OffsetDateTime, duration: Duration) -> OffsetDateTime {
    time::Duration::try_from(duration)
        .map_or_else(|_| now.saturating_add(time::Duration::MAX), |duration| now.saturating_add(duration))
}

#[cfg(test)]
mod tests;
