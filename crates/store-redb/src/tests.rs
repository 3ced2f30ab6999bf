mod disk;

use std::{
    fs,
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_executor::block_on;
use idempotency_core::{
    Change, Claim, Clock, Fingerprint, HaltReason, Inserted, ManualClock, Owner, Pruned, Record, RequestId,
    Restored, Secret, SecretCheck, Setup, State, Store, StoreCommand, StoreErrorKind, StoreReply,
    StoredResponse, Update, Updated,
};
use idempotency_store_testkit::{StoreFactory, conformance};
use redb::{ReadableTable, StorageBackend, backends::InMemoryBackend};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::{
    RedbConfig, RedbStore,
    disk::Disk,
    records::{RUNNING, SETTLED},
    tables::SCHEMA,
};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + HOUR
}

fn id(number: u64) -> RequestId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    RequestId::from_bytes(bytes)
}

fn claim(number: u64) -> Claim {
    let mut claim = Claim::new(id(number), Owner::from_u128(number.into()), Fingerprint::derive(None, []));
    (claim.lease, claim.retention) = (Duration::from_secs(10), HOUR);
    claim
}

/// The same id for somebody else.
fn rival(number: u64) -> Claim {
    Claim::new(id(number), Owner::from_u128(u128::MAX), Fingerprint::derive(None, []))
}

fn change(number: u64, change: Change) -> Update {
    Update::new(id(number), Owner::from_u128(number.into()), change)
}

fn complete(number: u64, body: impl Into<StoredResponse>) -> Update {
    change(number, Change::Complete { response: body.into(), retention: HOUR })
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.redb");
    (folder, path)
}

fn setup(check: SecretCheck) -> Setup {
    Setup::new(check, now())
}

/// Files in a folder of their own, on a clock that is told what time it is.
struct InFolder {
    folder: TempDir,
    clock: ManualClock,
    opened: AtomicU64,
}

impl InFolder {
    fn new() -> Self {
        let clock = ManualClock::default();
        Self { folder: tempfile::tempdir().unwrap(), clock, opened: AtomicU64::new(0) }
    }
}

#[async_trait]
impl StoreFactory for InFolder {
    type Store = RedbStore;

    async fn open(&self) -> RedbStore {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        RedbStore::open(self.folder.path().join(format!("{number}.redb"))).unwrap()
    }

    async fn reopen(&self, store: RedbStore) -> Option<RedbStore> {
        let path = store.path().to_owned();
        drop(store);
        Some(RedbStore::open(path).unwrap())
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

conformance!(InFolder::new());

#[test]
fn what_was_acknowledged_is_there_when_the_file_is_opened_again() {
    let (_folder, path) = folder();
    block_on(async {
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(store.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        assert_eq!(store.insert(&claim(2), now()).await.unwrap(), Inserted::Claimed);
        assert_eq!(store.update(&complete(1, "one"), now()).await.unwrap(), Updated::Applied);
        let before = [store.lookup(&id(1), now()).await.unwrap(), store.lookup(&id(2), now()).await.unwrap()];
        drop(store);
        let store = RedbStore::open(&path).unwrap();
        let after = [store.lookup(&id(1), now()).await.unwrap(), store.lookup(&id(2), now()).await.unwrap()];
        assert_eq!(before, after);
        assert!(matches!(&after[0], Some(record) if record.state == State::Completed("one".into())));
    });
}

#[test]
fn what_is_not_closed_in_order_is_repaired() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    block_on(store.insert(&claim(1), now())).unwrap();
    // As a crash leaves it: copied while it is open.
    let copy = path.with_extension("copy");
    fs::copy(&path, &copy).unwrap();
    for quick_repair in [false, true] {
        let store = RedbStore::open(RedbConfig::new(&copy).quick_repair(quick_repair)).unwrap();
        assert!(block_on(store.lookup(&id(1), now())).unwrap().is_some());
        block_on(store.insert(&claim(2), now())).unwrap();
    }
}

#[test]
fn commands_of_one_transaction_see_each_other() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    let batch = [
        StoreCommand::Insert(claim(1).into()),
        StoreCommand::Insert(rival(1).into()),
        StoreCommand::Update(complete(1, "done").into()),
        StoreCommand::Lookup(id(7)),
    ];
    let replies = block_on(store.apply(&batch, now()));
    assert!(matches!(replies[0], Ok(StoreReply::Inserted(Inserted::Claimed))));
    assert!(matches!(replies[1], Ok(StoreReply::Inserted(Inserted::Exists(_)))));
    assert!(matches!(replies[2], Ok(StoreReply::Updated(Updated::Applied))));
    assert!(matches!(&replies[3], Ok(StoreReply::Found(None))));
    assert!(block_on(store.lookup(&id(1), now())).unwrap().unwrap().state.is_settled());
    assert_eq!(store.commits(), (1, 3), "three writes, one commit; the read is beside it");
}

#[test]
fn what_waits_goes_into_one_commit() {
    let (_folder, path) = folder();
    let store = Arc::new(RedbStore::open(&path).unwrap());
    let callers = 64;
    thread::scope(|scope| {
        for caller in 0..callers {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..4 {
                    block_on(store.insert(&claim(caller * 10 + round), now())).unwrap();
                }
            });
        }
    });
    let (commits, commands) = store.commits();
    assert_eq!(commands, callers * 4);
    assert!(commits < commands / 4, "{commits} commits for {commands} commands");
}

#[test]
fn a_retry_and_a_renewal_cost_no_fsync() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    block_on(store.insert(&claim(1), now())).unwrap();
    let (before, _) = store.commits();
    let renew = Change::Renew { lease: Duration::from_secs(60), retention: HOUR };
    assert_eq!(block_on(store.update(&change(1, renew), now())).unwrap(), Updated::Applied);
    let other = rival(1);
    let Inserted::Exists(record) = block_on(store.insert(&other, now())).unwrap() else { panic!() };
    assert_eq!(record.state, State::Processing { lease_until: now() + Duration::from_secs(60) });
    assert_eq!(store.commits().0, before);
    // The last step of a prune is synced, or it would begin again after a crash.
    assert_eq!(block_on(store.prune(now() + 3 * HOUR, 10)).unwrap(), Pruned { deleted: 1, more: false });
    assert_eq!(store.commits().0, before + 1);
}

#[test]
fn prune_deletes_what_has_expired_in_steps_and_nothing_else() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    let later = now() + HOUR + HOUR / 2;
    block_on(async {
        for number in 0..10 {
            store.insert(&claim(number), now()).await.unwrap();
        }
        // Settled, halted, renewed, released; the rest expires as claimed.
        let completed = store.update(&complete(0, "kept"), now() + HOUR).await.unwrap();
        assert_eq!(completed, Updated::Applied);
        let reason = HaltReason::Panicked;
        store.update(&change(1, Change::Halt { reason, retention: 4 * HOUR }), now()).await.unwrap();
        let renew = Change::Renew { lease: 3 * HOUR, retention: HOUR };
        store.update(&change(2, renew), now()).await.unwrap();
        store.update(&change(3, Change::Release), now()).await.unwrap();
        let mut deleted = 0;
        for _ in 0..20 {
            let pruned = store.prune(later, 2).await.unwrap();
            assert!(pruned.deleted <= 2);
            deleted += pruned.deleted;
            if !pruned.more {
                break;
            }
        }
        assert_eq!(deleted, 6);
        for number in 0..10 {
            let there = store.lookup(&id(number), later).await.unwrap().is_some();
            assert_eq!(there, number < 3, "{number}");
        }
        // Nothing is left in the index but what it must have.
        assert_eq!(store.prune(later + 10 * HOUR, 100).await.unwrap(), Pruned { deleted: 3, more: false });
        assert_eq!(store.scan(None, 10).await.unwrap().records, []);
        assert_eq!(store.prune(later + 99 * HOUR, 100).await.unwrap(), Pruned::default());
    });
}

#[test]
fn a_scan_finds_every_record_also_while_others_are_written() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    block_on(async {
        for number in 0..25 {
            store.insert(&claim(number), now()).await.unwrap();
            if number % 3 == 0 {
                store.update(&complete(number, "done"), now()).await.unwrap();
            }
        }
        let (mut cursor, mut found) = (None, Vec::new());
        loop {
            let page = store.scan(cursor, 10).await.unwrap();
            found.extend(page.records.iter().map(|(id, _)| *id));
            assert!(found.is_sorted());
            // What runs is settled meanwhile, before and behind what was seen, and others come.
            for number in [4, 13, 22, found.len() as u64 / 3 * 3 + 1] {
                let _ = store.update(&complete(number, "done"), now()).await.unwrap();
            }
            store.insert(&claim(100 + found.len() as u64), now()).await.unwrap();
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        for number in 0..25 {
            assert!(found.contains(&id(number)), "{number}");
        }
        let wrong = store.scan(Some(idempotency_core::Cursor::new("rubbish")), 10).await.unwrap_err();
        assert_eq!(wrong.kind(), StoreErrorKind::Invalid);
    });
}

#[test]
fn a_whole_record_is_restored_and_keeps_its_times() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    let idempotency_core::Write::Put(record) = Record::on_insert(None, &claim(1), now()).write else {
        panic!()
    };
    block_on(async {
        assert_eq!(store.restore(&id(1), &record, now()).await.unwrap(), Restored::Restored);
        assert_eq!(store.lookup(&id(1), now()).await.unwrap().as_ref(), Some(&record));
        assert_eq!(store.restore(&id(1), &record, now() + 9 * HOUR).await.unwrap(), Restored::Expired);
    });
}

#[test]
fn another_secret_and_a_retired_file_are_refused() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    let secret = Secret::new([1; 32]).check();
    block_on(async {
        store.setup(&setup(secret)).await.unwrap();
        store.setup(&setup(secret)).await.unwrap();
        for other in [Secret::new([2; 32]).check(), SecretCheck::unkeyed()] {
            let error = store.setup(&setup(other)).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::WrongSecret);
        }
        store.retire("redis://elsewhere").await.unwrap();
    });
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    let error = block_on(store.setup(&setup(secret))).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Moved);
    assert!(error.to_string().contains("redis://elsewhere"), "{error}");
}

#[test]
fn each_kind_of_change_is_synced_but_renewals_which_follow_within_a_second() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    let mut synced = 0;
    let reason = HaltReason::Panicked;
    let kept = Change::Complete { response: "done".into(), retention: HOUR };
    for (number, settle) in (1..).zip([kept, Change::Halt { reason, retention: HOUR }, Change::Release]) {
        block_on(store.insert(&claim(number), now())).unwrap();
        assert_eq!(block_on(store.update(&change(number, settle), now())).unwrap(), Updated::Applied);
        synced += 2;
        assert_eq!(store.commits().0, synced, "{number}");
    }
    block_on(store.insert(&claim(9), now())).unwrap();
    // Renewals alone, without a moment of rest. A second of real time is the point.
    let before = store.commits().0;
    let renew = Change::Renew { lease: HOUR, retention: HOUR };
    let renewals = (0..10_000_000).take_while(|_| {
        assert_eq!(block_on(store.update(&change(9, renew.clone()), now())).unwrap(), Updated::Applied);
        store.commits().0 == before
    });
    assert!((10..10_000_000).contains(&renewals.count()));
}

#[test]
fn a_prune_goes_on_over_what_was_only_noted_too_early() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    block_on(async {
        // Noted for an hour from now, and renewed to live longer; behind them one that has expired.
        for number in 0..20 {
            store.insert(&claim(number), now()).await.unwrap();
            let renew = Change::Renew { lease: 9 * HOUR, retention: HOUR };
            store.update(&change(number, renew), now()).await.unwrap();
        }
        store.insert(&claim(99), now() + Duration::from_secs(1)).await.unwrap();
        let pruned = store.prune(now() + 2 * HOUR, 4).await.unwrap();
        assert_eq!(pruned, Pruned { deleted: 1, more: false });
    });
}

#[test]
fn what_nobody_waits_for_any_more_need_not_be_done() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    let noop = std::task::Waker::noop();
    for number in 0..200 {
        let mut call = Box::pin(async { store.insert(&claim(number), now()).await });
        let _ = call.as_mut().poll(&mut std::task::Context::from_waker(noop));
    }
    block_on(store.insert(&claim(1000), now())).unwrap();
    let done = block_on(store.scan(None, 1000)).unwrap().records.len();
    assert!(done < 200, "{done} of 200 calls that were given up were done");
}

#[test]
fn a_store_that_was_closed_says_so() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    block_on(store.close()).unwrap();
    assert_eq!(block_on(store.insert(&claim(1), now())).unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(block_on(store.lookup(&id(1), now())).unwrap_err().kind(), StoreErrorKind::Unavailable);
    // And lets the file go.
    drop(RedbStore::open(&path).unwrap());
}
