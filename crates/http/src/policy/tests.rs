use http::HeaderMap;
use idempotency_core::{Digest, Meta, RequestId, Secret, StoredResponse};
use time::OffsetDateTime;

use super::*;
use crate::{Admission, Disposition, RequestHead};

type Plain = Policy<()>;

fn policy() -> Plain {
    Policy::new(Scope::global())
}

fn head<'a>(keys: &'a [&'a [u8]]) -> RequestHead<'a> {
    RequestHead { method: "POST", path: "/payments", keys, ..RequestHead::default() }
}

fn refused(policy: &Plain, head: &RequestHead<'_>) -> Option<Code> {
    match policy.admit(head, &()) {
        Admission::Refused(problem) => Some(problem.code()),
        _ => None,
    }
}

fn identified(policy: &Plain, head: &RequestHead<'_>, body: &[u8]) -> (RequestId, Fingerprint) {
    let Admission::Tracked(admitted) = policy.admit(head, &()) else { panic!("{head:?}") };
    let identity = policy.identify(&admitted, head, &(), body, None).unwrap();
    (identity.id, identity.fingerprint)
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_with_its_reason() {
    let wrong: [(Plain, &str); 12] = [
        (policy().methods([]), "no method"),
        (policy().methods([Method::POST, Method::TRACE]), "TRACE is a safe method"),
        (policy().methods([Method::CONNECT]), "CONNECT"),
        (policy().request_limit(0), "request limit"),
        (policy().read_limit(Duration::ZERO), "read limit"),
        (policy().gather_limit(Duration::ZERO), "gather limit"),
        (policy().request_limit(100 * 1024 * 1024), "the budget has room"),
        (policy().response_limit(usize::MAX), "the budget has room"),
        (policy().key_rule(KeyRule::MinLen(256)), "no key has 256"),
        (policy().status_of(Code::KeyReused, StatusCode::OK), "200 OK is no status"),
        (policy().excluding(["sent_at"]), "names no part"),
        (policy().documentation("a\nb"), "cannot be the address"),
    ];
    for (policy, reason) in wrong {
        let error = policy.validate().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(policy().validate(), Ok(()));
    let telling = policy().tell_differences();
    assert!(telling.validate_with(None).unwrap_err().to_string().contains("needs a tracker with a secret"));
    assert_eq!(telling.validate_with(Some(&Secret::new([7; 32]))), Ok(()));
}

#[test]
fn the_head_is_judged_in_order_method_key_scope_length() {
    let nobody = Policy::scoped_by(|()| None);
    let large = |keys| RequestHead { content_length: Some(u64::MAX), ..head(keys) };
    let get = RequestHead { method: "GET", ..large(&[]) };
    assert!(matches!(nobody.admit(&get, &()), Admission::Untracked));
    assert_eq!(refused(&nobody, &large(&[])), Some(Code::KeyMissing));
    assert_eq!(refused(&nobody, &large(&[b"a b"])), Some(Code::KeyInvalid));
    assert_eq!(refused(&nobody, &large(&[b"a"])), Some(Code::PrincipalMissing));
    assert_eq!(refused(&policy(), &large(&[b"a"])), Some(Code::PayloadTooLarge));
    // A method is compared as it is: `post` is another one (RFC 9110 §9.1).
    assert!(!policy().tracks("post"));
}

#[test]
fn what_makes_a_request_another_one_and_what_makes_it_a_mismatch() {
    let keys: &[&[u8]] = &[b"k"];
    let (id, payload) = identified(&policy(), &head(keys), b"body");
    let same = |head: RequestHead<'_>, body: &[u8]| {
        let (other_id, other_payload) = identified(&policy(), &head, body);
        (other_id == id, other_payload == payload)
    };
    assert_eq!(same(head(keys), b"body"), (true, true));
    assert_eq!(same(RequestHead { host: Some("a.example"), ..head(keys) }, b"body"), (true, true));
    assert_eq!(same(RequestHead { path: "/payments/", ..head(keys) }, b"body"), (false, true));
    assert_eq!(same(RequestHead { method: "PATCH", ..head(keys) }, b"body"), (false, true));
    assert_eq!(same(head(&[b"l"]), b"body"), (false, true));
    assert_eq!(same(RequestHead { query: Some("a"), ..head(keys) }, b"body"), (true, false));
    assert_eq!(same(RequestHead { content_type: Some(b"text/plain"), ..head(keys) }, b"body"), (true, false));
    assert_eq!(same(head(keys), b"bodyx"), (true, false));
    // No part can be shifted into its neighbour.
    let (_, shifted) = identified(&policy(), &RequestHead { query: Some("a"), ..head(keys) }, b"b");
    let (_, other) = identified(&policy(), &RequestHead { query: Some("ab"), ..head(keys) }, b"");
    assert_ne!(shifted, other);

    let by_host = |host| identified(&policy().by_host(), &RequestHead { host, ..head(keys) }, b"body").0;
    assert_ne!(by_host(Some("a.example")), by_host(Some("b.example")));
    assert_ne!(by_host(Some("a.example")), by_host(Some("a.example:8080")));
    for same in ["A.Example", "a.example:80", "a.example:443", "user:pass@a.example"] {
        assert_eq!(by_host(Some("a.example")), by_host(Some(same)), "{same}");
    }
}

#[test]
fn the_secret_keys_both() {
    let keys: &[&[u8]] = &[b"k"];
    let Admission::Tracked(admitted) = policy().admit(&head(keys), &()) else { panic!() };
    let secret = Secret::new([7; 32]);
    let keyed = policy().identify(&admitted, &head(keys), &(), b"body", Some(&secret)).unwrap();
    let unkeyed = policy().identify(&admitted, &head(keys), &(), b"body", None).unwrap();
    assert!(keyed.id != unkeyed.id && keyed.fingerprint != unkeyed.fingerprint);
}

#[test]
fn the_derivation_is_pinned() {
    // A change of these bytes makes every stored record unreachable: it needs a new major version.
    let (id, payload) = identified(&policy(), &head(&[b"k"]), b"body");
    assert_eq!(id.to_string(), "6672fc79");
    assert_eq!(hex(&payload.as_bytes()[..4]), "5a90851a");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_is_never_gathered_is_stored_as_a_marker() {
    let streams = |status: u16, content_type: &'static str, length, disposition| {
        let status = StatusCode::from_u16(status).unwrap();
        policy().streams(status, Some(content_type.as_bytes()), length, disposition)
    };
    assert!(!streams(200, "application/json", 1024 * 1024, None));
    assert!(streams(200, "application/json", 1024 * 1024 + 1, None));
    assert!(streams(200, "TEXT/event-stream;charset=utf-8", 0, None));
    // Unless the handler says that it has an end.
    assert!(!streams(200, "text/event-stream", 0, Some(Disposition::Keep)));
    assert!(streams(200, "application/json", 0, Some(Disposition::Stream)));
    // A connection that is handed over has no response that could be stored.
    assert!(streams(101, "application/json", 0, None));
    assert_eq!(policy().fate(StatusCode::SWITCHING_PROTOCOLS, None), Fate::Kept);
}

#[test]
fn a_response_that_was_not_kept_or_cannot_be_read_is_a_problem() {
    let not_kept = policy().replay(&StoredResponse::not_kept(Digest::of(b"x")), None, &Meta::default());
    assert_eq!(not_kept.status(), StatusCode::CONFLICT);
    let malformed = policy().replay(&StoredResponse::new("rubbish"), None, &Meta::default());
    assert_eq!(malformed.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(malformed.headers()["retry-after"], "60");
}

#[test]
fn a_request_of_nobody_is_challenged() {
    let policy: Plain = Policy::scoped_by(|()| None).challenge(HeaderValue::from_static("Bearer"));
    let Admission::Refused(problem) = policy.admit(&head(&[b"k"]), &()) else { panic!() };
    assert_eq!(policy.answer(problem).headers()["www-authenticate"], "Bearer");
    assert_eq!(policy.answer(policy.problem(Code::KeyMissing)).headers().get("www-authenticate"), None);
}

#[test]
fn trailers_come_back_and_are_announced() {
    let policy = policy();
    let mut capture = policy.capture(200, []);
    capture.push(b"body").unwrap();
    capture.trailers([("x-sum", &b"42"[..]), ("set-cookie", b"a=1")]);
    let replay = policy.replay(&capture.finish().0, None, &Meta::default());
    assert_eq!(replay.headers()["trailer"], "x-sum");
    assert_eq!(replay.extensions().get::<HeaderMap>().unwrap()["x-sum"], "42");
    assert_eq!(replay.body(), "body");
}

#[test]
fn an_expiry_that_no_date_can_tell_is_not_told() {
    let policy = policy().expires_header();
    let told = |expires_at| policy.expires(expires_at).map(|(_, value)| value.to_str().unwrap().to_owned());
    assert_eq!(told(Some(OffsetDateTime::UNIX_EPOCH)).unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(told(Some(OffsetDateTime::UNIX_EPOCH - time::Duration::DAY * 365)), None);
    assert_eq!(told(None), None);
}
