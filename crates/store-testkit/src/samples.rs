//! Requests by number, for tests of stores beside the suite.

use std::time::Duration;

use idempotency_core::{
    Change, Claim, Clock, Fingerprint, Owner, RequestId, SecretCheck, Setup, Store, StoreError, SystemClock,
    Update,
};
use time::OffsetDateTime;

/// The lease and the retention of them all.
pub const HOUR: Duration = Duration::from_secs(60 * 60);

/// The system's time.
pub fn now() -> OffsetDateTime {
    SystemClock::new().now()
}

/// Text of 32 digits, so that it can be said to a server, too.
pub fn id(number: u64) -> RequestId {
    RequestId::from_bytes(format!("{number:032}").into_bytes().try_into().expect("32 digits"))
}

/// Whose the claim of this number is.
pub fn owner(number: u64) -> Owner {
    Owner::from_u128(u128::from(number) + 1)
}

/// A claim of an id, by its owner.
pub fn claim(number: u64) -> Claim {
    let mut claim = Claim::new(id(number), owner(number), Fingerprint::derive(None, []));
    (claim.lease, claim.retention) = (HOUR, HOUR);
    claim
}

/// The same by somebody else.
pub fn rival(number: u64) -> Claim {
    let mut rival = claim(number);
    rival.owner = Owner::from_u128(u128::MAX);
    rival
}

/// A change by the owner.
pub fn update(number: u64, change: Change) -> Update {
    Update::new(id(number), owner(number), change)
}

/// A result by the owner.
pub fn complete(number: u64, body: impl Into<Vec<u8>>) -> Update {
    update(number, Change::Complete { response: body.into().into(), retention: HOUR })
}

/// A store that is set up.
///
/// # Errors
///
/// It cannot be.
pub async fn set_up<S: Store>(store: S) -> Result<S, StoreError> {
    store.setup(&Setup::new(SecretCheck::unkeyed(), now())).await.map(|()| store)
}
