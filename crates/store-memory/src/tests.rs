use std::time::Duration;

use futures_util::FutureExt;
use idempotency_core::*;
use time::OffsetDateTime;

use crate::{MemoryConfig, MemoryStore};

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
}

/// The memory store never waits, which is what `immediate` says.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store answers at once")
}

fn id(number: u32) -> RequestId {
    RequestId::derive(None, &Scope::global(), [&number.to_le_bytes()[..]])
}

fn claim(number: u32) -> Claim {
    let mut claim = Claim::new(id(number), Owner::from_u128(number.into()), Fingerprint::derive(None, []));
    claim.lease = Duration::from_secs(15);
    claim.retention = Duration::from_secs(100);
    claim
}

fn complete(number: u32, body: impl Into<StoredResponse>) -> Update {
    let change = Change::Complete { response: body.into(), retention: Duration::from_secs(100) };
    Update::new(id(number), Owner::from_u128(number.into()), change)
}

fn small(budget: usize) -> MemoryStore {
    MemoryStore::with_config(MemoryConfig::new().budget(budget))
}

/// Claims until the store refuses; how many it took.
fn fill(store: &MemoryStore) -> u32 {
    (0..100_000)
        .find(|number| match now(store.insert(&claim(*number), at(0))) {
            Ok(answer) => {
                assert_eq!(answer, Inserted::Claimed);
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Full);
                assert!(error.was_not_applied());
                true
            }
        })
        .expect("a budget ends somewhere")
}

#[test]
fn a_full_store_refuses_new_claims_and_settles_all_that_run() {
    let store = small(1 << 20);
    let claimed = fill(&store);
    assert!(claimed > 400, "{claimed} claims in a mebibyte");
    assert!(store.used() <= (1 << 20) / 10 * 9);
    for number in 0..claimed {
        let put = complete(number, vec![7; 4096]);
        assert_eq!(now(store.update(&put, at(1))).unwrap(), Updated::Applied, "settling is never refused");
        assert!(store.used() <= 1 << 20);
    }
    let bodies = (0..claimed)
        .filter(|number| {
            let record =
                now(store.lookup(&id(*number), at(1))).unwrap().expect("nothing unexpired is dropped");
            let State::Completed(response) = record.state else { panic!("{record:?}") };
            assert_eq!(response.digest(), StoredResponse::new(vec![7; 4096]).digest());
            response.bytes().is_some()
        })
        .count();
    assert!(bodies > 0 && bodies < claimed as usize, "{bodies} of {claimed} bodies were kept");
}

#[test]
fn a_repeated_claim_is_answered_also_when_the_store_is_full() {
    let store = small(1 << 16);
    let claimed = fill(&store);
    for number in 0..claimed {
        assert_eq!(now(store.insert(&claim(number), at(1))).unwrap(), Inserted::Claimed);
    }
}

#[test]
fn expired_records_make_room_for_new_claims_without_a_prune() {
    let store = small(1 << 16);
    let claimed = fill(&store);
    for number in claimed..3 * claimed {
        assert_eq!(now(store.insert(&claim(number), at(115))).unwrap(), Inserted::Claimed);
        if number == 2 * claimed - 1 {
            break;
        }
    }
    assert!(now(store.insert(&claim(2 * claimed + 1), at(115))).is_err(), "the new ones are not expired");
}

#[test]
fn prune_deletes_exactly_what_has_expired_in_steps() {
    let store = MemoryStore::new();
    for number in 0..10 {
        let mut claim = claim(number);
        claim.retention = Duration::from_secs(if number < 7 { 100 } else { 1000 });
        now(store.insert(&claim, at(0))).unwrap();
    }
    assert_eq!(now(store.prune(at(114), 100)).unwrap(), Pruned { deleted: 0, more: false });
    assert_eq!(now(store.prune(at(115), 5)).unwrap(), Pruned { deleted: 5, more: true });
    assert_eq!(now(store.prune(at(115), 5)).unwrap(), Pruned { deleted: 2, more: false });
    assert_eq!(store.len(), 3);
    for number in 7..10 {
        assert!(now(store.lookup(&id(number), at(115))).unwrap().is_some());
    }
}

#[test]
fn a_settled_record_expires_by_its_own_retention() {
    let store = MemoryStore::new();
    now(store.insert(&claim(1), at(0))).unwrap();
    now(store.update(&complete(1, "a"), at(5))).unwrap();
    assert!(now(store.lookup(&id(1), at(104))).unwrap().is_some());
    assert!(now(store.lookup(&id(1), at(105))).unwrap().is_none());
    assert_eq!(now(store.prune(at(105), 10)).unwrap().deleted, 1);
    assert_eq!(store.used(), 0);
}

#[test]
fn what_is_used_is_what_is_held() {
    let store = MemoryStore::new();
    now(store.insert(&claim(1), at(0))).unwrap();
    let claimed = store.used();
    now(store.insert(&claim(1), at(1))).unwrap();
    assert_eq!(store.used(), claimed, "a repeated claim costs nothing");
    now(store.update(&complete(1, "a"), at(1))).unwrap();
    assert!(store.used() < claimed);
    let forget = Update::new(id(1), Owner::from_u128(1), Change::Forget);
    now(store.update(&forget, at(1))).unwrap();
    assert_eq!((store.used(), store.len()), (0, 0));
}

#[test]
fn another_secret_and_a_retired_store_are_refused() {
    let store = MemoryStore::new();
    let setup = |secret: [u8; 32]| Setup::new(Secret::new(secret).check(), at(0));
    now(store.setup(&setup([1; 32]))).unwrap();
    now(store.setup(&setup([1; 32]))).unwrap();
    assert_eq!(now(store.setup(&setup([2; 32]))).unwrap_err().kind(), StoreErrorKind::WrongSecret);
    let unkeyed = Setup::new(SecretCheck::unkeyed(), at(0));
    assert_eq!(now(store.setup(&unkeyed)).unwrap_err().kind(), StoreErrorKind::WrongSecret);
    now(store.retire("redb:./payments.redb")).unwrap();
    assert_eq!(now(store.setup(&setup([1; 32]))).unwrap_err().kind(), StoreErrorKind::Moved);
}

#[test]
fn a_scan_in_pages_finds_every_record_once() {
    let store = MemoryStore::new();
    for number in 0..25 {
        now(store.insert(&claim(number), at(number.into()))).unwrap();
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = now(store.scan(cursor, 10)).unwrap();
        found.extend(page.records.into_iter().map(|(id, _)| id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 25);
    let malformed = now(store.scan(Some(Cursor::new("x")), 10)).unwrap_err();
    assert_eq!(malformed.kind(), StoreErrorKind::Invalid);
}

#[test]
fn whatever_order_records_expire_in_each_goes_when_its_time_has_come() {
    let store = MemoryStore::new();
    let retention = |number: u32| Duration::from_secs(u64::from(number * 7_919 % 100 + 1));
    let runs = |number: u32| number.is_multiple_of(4);
    for number in 0..5_000 {
        now(store.insert(&claim(number), at(0))).unwrap();
        // Every fourth still runs, and expires after 115 seconds.
        if !runs(number) {
            let change = Change::Complete { response: "a".into(), retention: retention(number) };
            now(store.update(&Update::new(id(number), Owner::from_u128(number.into()), change), at(0)))
                .unwrap();
        }
    }
    let expires = |number: u32| if runs(number) { 115 } else { retention(number).as_secs() as i64 };
    let mut left = 5_000;
    for second in 0..=115 {
        let due = (0..5_000).filter(|number| expires(*number) == second).count();
        assert_eq!(now(store.prune(at(second), usize::MAX)).unwrap(), Pruned { deleted: due, more: false });
        left -= due;
        assert_eq!(store.len(), left, "after {second} s");
    }
    assert_eq!(store.used(), 0);
}

#[test]
fn records_that_are_deleted_before_their_time_hide_none_of_those_that_stay() {
    let store = MemoryStore::new();
    let many = 6_000;
    for number in 0..many {
        now(store.insert(&claim(number), at(0))).unwrap();
        now(store.update(&complete(number, "a"), at(0))).unwrap();
    }
    for number in (0..many).filter(|number| number % 8 > 0) {
        let forget = Update::new(id(number), Owner::from_u128(number.into()), Change::Forget);
        assert_eq!(now(store.update(&forget, at(1))).unwrap(), Updated::Applied);
    }
    // In the places of those, with other times.
    for number in many..many + 2_000 {
        now(store.insert(&claim(number), at(50))).unwrap();
        now(store.update(&complete(number, "a"), at(50))).unwrap();
    }
    let old = many as usize / 8;
    assert_eq!(now(store.prune(at(99), usize::MAX)).unwrap(), Pruned { deleted: 0, more: false });
    assert_eq!(now(store.prune(at(100), old - 1)).unwrap(), Pruned { deleted: old - 1, more: true });
    assert_eq!(now(store.prune(at(100), old)).unwrap(), Pruned { deleted: 1, more: false });
    assert_eq!(now(store.prune(at(150), 2_000)).unwrap(), Pruned { deleted: 2_000, more: false });
    assert_eq!((store.len(), store.used()), (0, 0));
}

#[test]
fn a_scan_passes_over_what_was_deleted_and_ends() {
    let store = MemoryStore::new();
    for number in 0..500 {
        now(store.insert(&claim(number), at(0))).unwrap();
    }
    let release = |number: u32| {
        let release = Update::new(id(number), Owner::from_u128(number.into()), Change::Release);
        assert_eq!(now(store.update(&release, at(1))).unwrap(), Updated::Applied);
    };
    (0..500).filter(|number| number % 100 != 99).for_each(release);
    let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = now(store.scan(cursor, 2)).unwrap();
        found.extend(page.records.into_iter().map(|(_, record)| record.owner));
        (cursor, pages) = (page.next, pages + 1);
        if cursor.is_none() {
            break;
        }
        if pages == 1 {
            release(499);
        }
    }
    assert_eq!(found, [99, 199, 299, 399].map(Owner::from_u128));
    assert!(pages > 10, "no page goes along all places: {pages}");
    let past_the_end = Some(Cursor::new(u32::MAX.to_be_bytes().to_vec()));
    for (cursor, limit) in [(past_the_end, 10), (None, 0)] {
        assert_eq!(now(store.scan(cursor, limit)).unwrap(), Page { records: Vec::new(), next: None });
    }
    assert_eq!(now(store.scan(None, usize::MAX)).unwrap().records.len(), 4);
}

#[test]
fn a_restored_record_is_the_same_record() {
    let (from, to) = (MemoryStore::new(), MemoryStore::new());
    now(from.insert(&claim(1), at(0))).unwrap();
    now(from.update(&complete(1, "a"), at(1))).unwrap();
    let record = now(from.lookup(&id(1), at(2))).unwrap().unwrap();
    assert_eq!(now(to.restore(&id(1), &record, at(2))).unwrap(), Restored::Restored);
    assert_eq!(now(to.lookup(&id(1), at(2))).unwrap(), Some(record.clone()));
    assert_eq!(now(to.restore(&id(1), &record, at(2))).unwrap(), Restored::Exists(record.into()));
}

#[test]
fn a_batch_answers_each_command_in_order() {
    let store = MemoryStore::new();
    let batch = [
        StoreCommand::Insert(claim(1).into()),
        StoreCommand::Lookup(id(2)),
        StoreCommand::Watch(id(1)),
        StoreCommand::Update(complete(1, "a").into()),
        StoreCommand::Prune { limit: 10 },
    ];
    let replies = now(store.apply(&batch, at(0)));
    assert_eq!(replies[0], Ok(StoreReply::Inserted(Inserted::Claimed)));
    assert_eq!(replies[1], Ok(StoreReply::Found(None)));
    assert_eq!(replies[2].as_ref().unwrap_err().kind(), StoreErrorKind::Unsupported);
    assert_eq!(replies[3], Ok(StoreReply::Updated(Updated::Applied)));
    assert_eq!(replies[4], Ok(StoreReply::Pruned(Pruned { deleted: 0, more: false })));
}

#[test]
fn places_that_became_free_are_taken_again_and_nobody_else_is_found_there() {
    let store = MemoryStore::new();
    let many = 3_000;
    for number in 0..many {
        assert_eq!(now(store.insert(&claim(number), at(0))).unwrap(), Inserted::Claimed);
    }
    for number in (0..many).step_by(2) {
        let release = Update::new(id(number), Owner::from_u128(number.into()), Change::Release);
        assert_eq!(now(store.update(&release, at(1))).unwrap(), Updated::Applied);
    }
    for number in many..2 * many {
        assert_eq!(now(store.insert(&claim(number), at(2))).unwrap(), Inserted::Claimed);
    }
    assert_eq!(store.len(), many as usize * 3 / 2);
    for number in 0..2 * many {
        let found = now(store.lookup(&id(number), at(3))).unwrap().map(|record| record.owner);
        let is_there = number >= many || number % 2 == 1;
        assert_eq!(found, is_there.then(|| Owner::from_u128(number.into())), "{number}");
    }
    assert_eq!(now(store.prune(at(1_000), usize::MAX)).unwrap().deleted, many as usize * 3 / 2);
    assert_eq!((store.len(), store.used()), (0, 0));
}
