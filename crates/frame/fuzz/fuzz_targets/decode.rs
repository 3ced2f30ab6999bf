//! Whatever the bytes are, they are an error or a record that is written as a record that reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes.to_vec());
    // With a checksum that is right, so that what lies behind it is reached.
    if bytes.len() > 4 {
        let mut bytes = bytes.to_vec();
        let end = bytes.len() - 4;
        let checksum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        check(bytes);
    }
});

fn check(bytes: Vec<u8>) {
    if let Ok(record) = idempotency_frame::decode(bytes) {
        let written = idempotency_frame::encode(&record).expect("it was that large");
        assert_eq!(idempotency_frame::decode(written).expect("it was written by us"), record);
    }
}
