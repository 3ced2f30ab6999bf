use bytes::Bytes;
use idempotency_core::{
    Body, Digest, Fingerprint, HaltReason, Meta, Owner, Record, Scheme, State, StoredResponse,
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;

use crate::{FrameError, VERSION, decode, encode};

/// Nanoseconds since 1970 as an instant.
fn at(nanos: i128) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap()
}

fn record(meta: &[u8], state: State) -> Record {
    Record::new(
        Owner::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        Fingerprint::from_parts(Scheme(1), [7; 32]),
        at(1_700_000_000_123_456_789),
        at(1_700_086_400_000_000_001),
        Meta::new(meta.to_vec()).unwrap(),
        state,
    )
}

/// One of each kind, under the name of its golden file.
fn samples() -> Vec<(&'static str, Record)> {
    let digest = Digest::from_bytes([9; 32]);
    let body = |body: &'static [u8]| {
        State::Completed(StoredResponse::from_parts(digest, Body::Kept(Bytes::from_static(body))))
    };
    let mut old = record(b"", State::Halted(HaltReason::Unknown));
    old.claimed_at = at(-1);
    vec![
        ("processing", record(b"trace-1", State::Processing { lease_until: at(1_700_000_015_000_000_000) })),
        ("completed", record(b"", body(b"\0\xff binary"))),
        ("completed-empty", record(b"", body(b""))),
        ("completed-not-kept", record(b"", State::Completed(StoredResponse::not_kept(digest)))),
        ("halted", record(&[0; 1024], State::Halted(HaltReason::Panicked))),
        ("before-1970", old),
    ]
}

#[test]
fn the_golden_files_of_version_1_are_what_is_written_and_read() {
    for (name, record) in samples() {
        let path = format!("{}/golden/v1-{name}.frame", env!("CARGO_MANIFEST_DIR"));
        let golden = std::fs::read(&path).unwrap();
        assert_eq!(decode(golden.clone()).unwrap(), record, "{name}");
        if VERSION == 1 {
            assert_eq!(encode(&record).unwrap(), golden, "{name}");
        }
    }
}

#[test]
fn every_halt_reason_comes_back() {
    use HaltReason::*;
    for reason in [Cancelled, Shutdown, Panicked, TimedOut, Unknown, Unresolved, OwnerLost] {
        let record = record(b"", State::Halted(reason));
        assert_eq!(decode(encode(&record).unwrap()).unwrap(), record);
    }
}

/// The frame with this head and metadata, checksum and lengths made right.
fn framed(version: u8, flags: u8, metadata: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = b"IDRC".to_vec();
    frame.extend([version, flags]);
    frame.extend((metadata.len() as u16).to_le_bytes());
    frame.extend((body.len() as u32).to_le_bytes());
    frame.extend(metadata);
    frame.extend(body);
    frame.extend(crc32c::crc32c(&frame).to_le_bytes());
    frame
}

fn metadata_of(frame: &[u8]) -> Vec<u8> {
    let len = u16::from_le_bytes([frame[6], frame[7]]);
    frame[12..12 + usize::from(len)].to_vec()
}

#[test]
fn the_next_version_is_read_and_its_new_metadata_skipped() {
    for (name, record) in samples() {
        let frame = encode(&record).unwrap();
        let (flags, mut metadata) = (frame[5], metadata_of(&frame));
        metadata.extend(b"\xa2\x06\x03new"); // field 100
        let body = &frame[12 + metadata_of(&frame).len()..frame.len() - 4];
        assert_eq!(decode(framed(VERSION + 1, flags | 0x80, &metadata, body)).unwrap(), record, "{name}");
    }
    let later = framed(VERSION + 2, 0, &metadata_of(&encode(&samples()[0].1).unwrap()), b"");
    assert_eq!(decode(later), Err(FrameError::Version(VERSION + 2)));
    assert_eq!(decode(framed(0, 0, b"", b"")), Err(FrameError::Version(0)));
    // A halt reason of a later version: that it halted is what counts.
    let mut metadata = metadata_of(&encode(&samples()[4].1).unwrap());
    assert_eq!(metadata.split_off(metadata.len() - 2), [0x48, 3]);
    metadata.extend([0x48, 99]);
    assert_eq!(decode(framed(2, 0, &metadata, b"")).unwrap().state, State::Halted(HaltReason::Unknown));
}

#[test]
fn what_is_cut_off_changed_or_followed_by_something_is_an_error() {
    for (name, record) in samples() {
        let frame = encode(&record).unwrap();
        for len in 0..frame.len() {
            assert_eq!(decode(frame[..len].to_vec()), Err(FrameError::Truncated), "{name} cut at {len}");
        }
        let mut longer = frame.clone();
        longer.push(0);
        assert_eq!(decode(longer), Err(FrameError::TooLong), "{name}");
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut changed = frame.clone();
                changed[at] ^= 1 << bit;
                assert!(decode(changed).is_err(), "{name} changed at {at}");
            }
        }
    }
}

#[test]
fn metadata_that_lacks_something_or_contradicts_the_flags_is_an_error() {
    assert_eq!(decode(framed(1, 0, b"", b"")), Err(FrameError::Metadata("owner")));
    assert_eq!(decode(framed(1, 0, b"\xff\xff", b"")), Err(FrameError::Metadata("not such a message")));
    let [processing, completed] = [0, 1].map(|index| metadata_of(&encode(&samples()[index].1).unwrap()));
    assert!(decode(framed(1, 1, &processing, b"body")).is_err(), "a body without a response");
    assert!(decode(framed(1, 0, &completed, b"body")).is_err(), "a body that was not kept");
    assert!(decode(framed(1, 0, &completed, b"")).is_ok());
}

#[test]
fn a_length_that_the_input_does_not_have_allocates_nothing() {
    let mut frame = b"IDRC\x01\x01\xff\xff".to_vec();
    frame.extend(u32::MAX.to_le_bytes());
    frame.extend([0; 100]);
    assert_eq!(decode(frame), Err(FrameError::Truncated));
}

#[test]
fn a_million_random_mutations_are_an_error_or_an_equal_record() {
    let mut random = StdRng::seed_from_u64(1);
    let frames: Vec<_> =
        samples().into_iter().map(|(_, record)| (encode(&record).unwrap(), record)).collect();
    let (mut equal, mut parsed) = (0, 0);
    for round in 0..1_000_000 {
        let (frame, record) = &frames[random.random_range(0..frames.len())];
        let mut frame = frame.clone();
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..frame.len());
            match random.random_range(0..4) {
                0 => frame[at] = random.random(),
                1 => frame.truncate(at.max(1)),
                2 => frame.insert(at, random.random()),
                _ => drop(frame.remove(at)),
            }
            if frame.is_empty() {
                break;
            }
        }
        // Half of them with a checksum that is right, so that what lies behind it is reached.
        let repaired = round % 2 == 0 && frame.len() > 4;
        if repaired {
            let end = frame.len() - 4;
            let checksum = crc32c::crc32c(&frame[..end]).to_le_bytes();
            frame[end..].copy_from_slice(&checksum);
        }
        match decode(frame) {
            Ok(decoded) if decoded == *record => equal += 1,
            Ok(_) if repaired => parsed += 1,
            Ok(_) => panic!("a changed record passed its checksum"),
            Err(_) => {}
        }
    }
    assert!(equal > 100_000 && parsed > 100, "{equal} equal, {parsed} others with a right checksum");
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes: Vec<u8>) {
        let _ = decode(bytes);
    }

    #[test]
    fn every_record_comes_back(
        owner: u128,
        hash: [u8; 32],
        scheme: u8,
        claimed in -1_000_000_000_000_000_000i64..4_000_000_000_000_000_000,
        expires in -1_000_000_000_000_000_000i64..4_000_000_000_000_000_000,
        meta in prop::collection::vec(any::<u8>(), 0..1024),
        body: Option<Vec<u8>>,
    ) {
        let digest = Digest::from_bytes(hash);
        let body = body.map_or(Body::NotKept, |body| Body::Kept(body.into()));
        let record = Record::new(
            Owner::from_u128(owner),
            Fingerprint::from_parts(Scheme(scheme), hash),
            at(claimed.into()),
            at(expires.into()),
            Meta::new(meta).unwrap(),
            State::Completed(StoredResponse::from_parts(digest, body)),
        );
        prop_assert_eq!(decode(encode(&record).unwrap()).unwrap(), record);
    }
}
