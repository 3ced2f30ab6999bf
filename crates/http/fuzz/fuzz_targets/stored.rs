//! Whatever is found in a store, it is a response that may be sent, or an error.

#![no_main]

use idempotency_core::{Meta, Scope, StoredResponse};
use idempotency_http::{Policy, RequestMeta, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let stored = StoredResponse::new(bytes.to_vec());
    if let Ok(response) = decode(&stored) {
        for value in response.headers().values() {
            let is_one_line = |byte: &u8| !b"\r\n\0".contains(byte);
            assert!(value.as_bytes().iter().all(is_one_line), "a header of several lines");
        }
    }
    let Ok(meta) = Meta::new(bytes.to_vec()) else { return };
    let _ = RequestMeta::read(&meta);
    let policy: Policy<()> = Policy::new(Scope::global());
    let replay = policy.replay(&stored, None, &meta);
    assert!(!replay.status().is_informational());
});
