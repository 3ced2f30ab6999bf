//! What the original's suite checks of its stores, in our words.

use std::time::Duration;

use idempotency::{
    Clock, ErrorKind, Fingerprint, ManualClock, MemoryStore, Owner, RequestId, Scope, Secret, State, Tracker,
    store::{Change, Claim, Inserted, Pruned, SecretCheck, Setup, Store, StoreErrorKind, Update, Updated},
};

fn claim(key: &str) -> Claim {
    let id = RequestId::derive(None, &Scope::global(), [key.as_bytes()]);
    let mut claim = Claim::new(id, Owner::from_u128(1), Fingerprint::derive(None, [&b"fingerprint"[..]]));
    claim.retention = Duration::from_secs(60);
    claim
}

fn complete(claim: &Claim) -> Update {
    let change = Change::Complete { response: "data".into(), retention: claim.retention };
    Update::new(claim.id, claim.owner, change)
}

#[tokio::test]
async fn setup_prepares_the_store_and_bears_repetition() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let setup = Setup::new(SecretCheck::unkeyed(), clock.now());
    store.setup(&setup).await.unwrap();
    store.setup(&setup).await.unwrap();
}

#[tokio::test]
async fn a_setup_that_fails_stops_the_start() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    store.setup(&Setup::new(Secret::new([1; 32]).check(), clock.now())).await.unwrap();
    let error = Tracker::builder(store).secret(Secret::new([2; 32])).spawn().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Setup);
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.to_string().starts_with(StoreErrorKind::WrongSecret.as_str()), "{source}");
}

#[tokio::test]
async fn what_is_inserted_is_looked_up() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let claim = claim("a");
    assert_eq!(store.lookup(&claim.id, clock.now()).await.unwrap(), None);
    assert_eq!(store.insert(&claim, clock.now()).await.unwrap(), Inserted::Claimed);
    let record = store.lookup(&claim.id, clock.now()).await.unwrap().unwrap();
    assert_eq!((record.fingerprint, record.owner), (claim.fingerprint, claim.owner));
    assert_eq!(record.state, State::Processing { lease_until: clock.now() + claim.lease });
}

#[tokio::test]
async fn what_is_there_is_not_inserted_twice() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let first = claim("a");
    store.insert(&first, clock.now()).await.unwrap();
    let mut second = claim("a");
    second.owner = Owner::from_u128(2);
    let Inserted::Exists(record) = store.insert(&second, clock.now()).await.unwrap() else { panic!() };
    assert_eq!(record.owner, first.owner);
}

#[tokio::test]
async fn what_is_updated_is_looked_up() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let claim = claim("a");
    store.insert(&claim, clock.now()).await.unwrap();
    assert_eq!(store.update(&complete(&claim), clock.now()).await.unwrap(), Updated::Applied);
    let record = store.lookup(&claim.id, clock.now()).await.unwrap().unwrap();
    assert_eq!(record.state, State::Completed("data".into()));
    assert_eq!(record.expires_at, clock.now() + claim.retention);
}

#[tokio::test]
async fn an_update_of_nothing_is_told_so() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    assert_eq!(store.update(&complete(&claim("a")), clock.now()).await.unwrap(), Updated::NotFound);
    assert!(store.is_empty());
}

#[tokio::test]
async fn prune_deletes_what_has_expired_and_keeps_what_has_not() {
    let (store, clock) = (MemoryStore::new(), ManualClock::default());
    let (expired, kept) = (claim("expired"), claim("kept"));
    store.insert(&expired, clock.now()).await.unwrap();
    store.update(&complete(&expired), clock.now()).await.unwrap();
    clock.advance(Duration::from_secs(30));
    store.insert(&kept, clock.now()).await.unwrap();
    store.update(&complete(&kept), clock.now()).await.unwrap();
    clock.advance(Duration::from_secs(30));
    assert_eq!(store.prune(clock.now(), 100).await.unwrap(), Pruned { deleted: 1, more: false });
    assert_eq!(store.lookup(&expired.id, clock.now()).await.unwrap(), None);
    assert!(store.lookup(&kept.id, clock.now()).await.unwrap().is_some());
}
