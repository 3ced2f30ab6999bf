//! Whatever a request says, it is untracked, refused, or has an identity that is the same when it is sent again; and what is
//! read as JSON is JSON.

#![no_main]

use idempotency_core::{Scope, Secret};
use idempotency_http::{Admission, Policy, RequestHead};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

/// Between the parts of the input: in none of them does it mean anything.
const NEXT: u8 = 0;

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else { return };
    let mut parts = input.splitn(6, |&byte| byte == NEXT);
    let mut part = || parts.next().unwrap_or_default();
    let (first_key, second_key, prefer, traceparent) = (part(), part(), part(), part());
    let (any_type, body) = (part(), part());
    let content_type = match kind % 3 {
        0 => b"application/json",
        1 => &b"multipart/form-data; boundary=b"[..],
        _ => any_type,
    };
    let keys = [first_key, second_key];
    let head = RequestHead {
        method: "POST",
        path: "/",
        keys: if second_key.is_empty() { &keys[..1] } else { &keys },
        prefer: &[prefer],
        traceparent: Some(traceparent),
        content_type: Some(content_type),
        ..RequestHead::default()
    };
    let policy: Policy<()> = Policy::new(Scope::global()).excluding(["/a", "/b/0"]).tell_differences();
    let Admission::Tracked(admitted) = policy.admit(&head, &()) else {
        // What follows the key is read all the same.
        let keys = [&b"k"[..]];
        let head = RequestHead { keys: &keys, ..head };
        let Admission::Tracked(admitted) = policy.admit(&head, &()) else { unreachable!("a good key") };
        return check(&policy, &admitted, &head, body);
    };
    check(&policy, &admitted, &head, body);
});

fn check(policy: &Policy<()>, admitted: &idempotency_http::Admitted, head: &RequestHead<'_>, body: &[u8]) {
    let identify = || policy.identify(admitted, head, &(), body, Some(&Secret::new([7; 32])));
    let identity = identify();
    assert_eq!(identity, identify());
    let Ok(identity) = identity else { return };
    let problem = policy.mismatch(&identity, &identity.meta);
    assert!(problem.differences().is_none_or(<[String]>::is_empty), "a payload differs from itself");
    let is_json = head.content_type.is_some_and(|of| of.eq_ignore_ascii_case(b"application/json"));
    let is_marked = body.starts_with("\u{feff}".as_bytes());
    // Nothing at all is no document, and is what it is.
    if is_json && !is_marked && !body.is_empty() {
        serde_json::from_slice::<IgnoredAny>(body).expect("what was read as JSON");
    }
}
