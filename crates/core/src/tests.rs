//! What is said of values, by their names, their bytes and in logs.

use std::{
    collections::HashSet,
    error::Error as _,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use time::OffsetDateTime;

use crate::*;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn id() -> RequestId {
    RequestId::from_bytes([1; 32])
}

fn payload(payload: &[u8]) -> Fingerprint {
    Fingerprint::derive(None, [payload])
}

fn record(state: State) -> Record {
    let (owner, expires_at) = (Owner::from_u128(1), NOW + Duration::from_secs(60));
    Record::new(owner, payload(b"10"), NOW, expires_at, Meta::default(), state)
}

#[test]
fn bytes_come_back_as_they_were_given() {
    let key = "a-key".parse::<IdempotencyKey>().unwrap();
    assert_eq!((key.as_str(), key.as_bytes()), ("a-key", &b"a-key"[..]));
    assert_eq!(Owner::from_u128(7).as_bytes(), &7_u128.to_be_bytes());
    assert_eq!(SecretCheck::from_bytes([7; 32]).as_bytes(), &[7; 32]);
    assert_eq!(Digest::from_bytes([7; 32]).as_bytes(), &[7; 32]);
    assert_eq!(Fingerprint::from_parts(Scheme::RAW, [7; 32]).as_bytes(), &[7; 32]);
    assert_eq!(Cursor::new(&b"here"[..]).as_bytes(), &b"here"[..]);
    let child = ChildKey::derive(None, &id(), "charge");
    assert_eq!(child.to_string().replace('-', ""), hex(child.as_bytes()));
    // A UUID of version 8, variant 1.
    assert_eq!((child.as_bytes()[6] >> 4, child.as_bytes()[8] >> 6), (8, 2));
    let response = StoredResponse::new("done");
    assert_eq!((response.bytes().map(|bytes| &bytes[..]), response.kept_len()), (Some(&b"done"[..]), 4));
    let marker = response.without_body();
    assert_eq!((marker.bytes(), marker.kept_len()), (None, 0));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// No secret, no key and no body, but something by which one is told from another.
#[test]
fn what_logs_show_names_things_and_reveals_nothing() {
    let body = Body::Kept("a secret body".into());
    let shown = [
        format!("{:?}", "a-secret".parse::<IdempotencyKey>().unwrap()),
        format!("{:?}", Scope::principal(["a secret"])),
        format!("{:?}", Secret::new(*b"a secret a secret a secret a sec")),
        format!("{:?}", SecretCheck::from_bytes(*b"a secret a secret a secret a sec")),
        format!("{:?}", Meta::new(&b"a secret"[..]).unwrap()),
        format!("{body:?}"),
        format!("{:?}", Owner::from_u128(7)),
        format!("{:?}", Digest::of(b"a secret body")),
        format!("{:?}", Cursor::new(&b"a secret"[..])),
    ];
    for shown in &shown {
        assert!(
            shown.len() > 4
                && !shown.contains("a secret")
                && !shown.contains("a-secret")
                && !shown.contains("97, 32"),
            "{shown}"
        );
    }
    assert_eq!(shown.iter().collect::<HashSet<_>>().len(), shown.len());
}

#[test]
fn equal_fingerprints_hash_alike_and_others_do_not() {
    let hash = |it: Fingerprint| BuildHasherDefault::<DefaultHasher>::new().hash_one(it);
    assert_eq!(hash(payload(b"10")), hash(payload(b"10")));
    assert_ne!(hash(payload(b"10")), hash(payload(b"11")));
}

#[test]
fn an_orphan_is_one_whose_caller_is_gone_and_of_which_nobody_said_what_it_did() {
    let reasons = [
        (HaltReason::Cancelled, "cancelled", true),
        (HaltReason::Shutdown, "shutdown", true),
        (HaltReason::Panicked, "panicked", false),
        (HaltReason::TimedOut, "timed_out", false),
        (HaltReason::Unknown, "unknown", false),
        (HaltReason::Unresolved, "unresolved", false),
        (HaltReason::OwnerLost, "owner_lost", true),
    ];
    for (reason, name, is_orphan) in reasons {
        assert_eq!((reason.as_str(), &*reason.to_string(), reason.is_orphan()), (name, name, is_orphan));
        assert_eq!(record(State::Halted(reason)).is_orphan(NOW), is_orphan);
    }
    assert!(!record(State::Completed("done".into())).is_orphan(NOW));
    let second = Duration::from_secs(1);
    for (lease_until, is_orphan) in [(NOW - second, true), (NOW, true), (NOW + second, false)] {
        assert_eq!(record(State::Processing { lease_until }).is_orphan(NOW), is_orphan);
    }
}

#[test]
fn an_error_says_whether_to_try_again_and_whether_it_was_done() {
    let kinds = [
        (StoreErrorKind::Unavailable, "unavailable", true),
        (StoreErrorKind::TimedOut, "timed_out", true),
        (StoreErrorKind::Panicked, "panicked", true),
        (StoreErrorKind::Full, "full", false),
        (StoreErrorKind::WrongSecret, "wrong_secret", false),
        (StoreErrorKind::Moved, "moved", false),
        (StoreErrorKind::Misconfigured, "misconfigured", false),
        (StoreErrorKind::Unsupported, "unsupported", false),
        (StoreErrorKind::Corrupt, "corrupt", false),
        (StoreErrorKind::Invalid, "invalid", false),
        (StoreErrorKind::Other, "other", true),
    ];
    for (kind, name, is_retryable) in kinds {
        assert_eq!((kind.as_str(), &*kind.to_string()), (name, name));
        let error = StoreError::new(kind, "why");
        assert_eq!((error.is_retryable(), error.was_not_applied()), (is_retryable, false));
        assert_eq!(error.clone().retryable(!is_retryable).is_retryable(), !is_retryable);
        assert!(error.clone().not_applied().was_not_applied());
        assert_eq!((error.to_string(), error.source().is_some()), (format!("{name}: why"), false));
        assert!(format!("{error:?}").contains("why"));
        let because = error.clone().with_source("because");
        assert_eq!(because.source().unwrap().to_string(), "because");
        assert_eq!(because, error, "whatever it comes from");
        assert_ne!(error, StoreError::new(kind, "another"));
    }
}

#[test]
fn a_durability_covers_what_is_no_more_than_it() {
    let levels = [Survives::Memory, Survives::ProcessCrash, Survives::PowerLoss];
    for (one, local) in levels.into_iter().enumerate() {
        for (other, less) in levels.into_iter().enumerate() {
            for (replicas, fewer) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                let covers = Durability::new(local, replicas).covers(Durability::new(less, fewer));
                assert_eq!(covers, one >= other && replicas >= fewer);
            }
        }
    }
    let names = ["memory", "process_crash", "power_loss", "anything"].map(Survives::from_name);
    let [memory, crash, loss] = levels.map(Some);
    assert_eq!(names, [memory, crash, loss, None]);
}

#[test]
fn commands_are_named_and_say_whose_they_are() {
    let retention = Duration::from_secs(1);
    let update = |change| StoreCommand::Update(Update::new(id(), Owner::from_u128(1), change).into());
    let halt = Change::Halt { reason: HaltReason::Unknown, retention };
    let of_an_id = [
        (StoreCommand::Lookup(id()), "lookup"),
        (StoreCommand::Insert(Claim::new(id(), Owner::from_u128(1), payload(b"10")).into()), "insert"),
        (update(Change::Renew { lease: retention, retention }), "renew"),
        (update(Change::Complete { response: "done".into(), retention }), "complete"),
        (update(halt), "halt"),
        (update(Change::Release), "release"),
        (update(Change::Forget), "forget"),
        (
            StoreCommand::Restore { id: id(), record: record(State::Halted(HaltReason::Unknown)).into() },
            "restore",
        ),
        (StoreCommand::Watch(id()), "watch"),
    ];
    for (command, name) in of_an_id {
        assert_eq!((command.name(), command.id()), (name, Some(&id())));
    }
    let of_none = [
        (StoreCommand::Setup(Setup::new(SecretCheck::unkeyed(), NOW)), "setup"),
        (StoreCommand::Prune { limit: 1 }, "prune"),
        (StoreCommand::Scan { cursor: None, limit: 1 }, "scan"),
        (StoreCommand::Retire { to: "another".to_owned() }, "retire"),
        (StoreCommand::Close, "close"),
    ];
    for (command, name) in of_none {
        assert_eq!((command.name(), command.id()), (name, None));
    }
}

#[test]
fn defaults_are_what_is_documented() {
    assert_eq!((DEFAULT_LEASE.as_secs(), DEFAULT_RETENTION.as_secs()), (15, 86_400));
}
