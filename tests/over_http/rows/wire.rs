//! What only the wire shows.

use std::net::TcpStream;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

pub(super) fn trailers_and_http2(kind: Kind) {
    let server = start(kind);
    let chunked = |trailer: &str| {
        let bytes = format!(
            "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: t\r\n\
             transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n{trailer}\r\n"
        );
        client::send(&server.address, bytes.as_bytes())
    };
    for (trailer, is_replay) in [("x-sum: 1\r\n", false), ("x-sum: 2\r\n", true), ("", true)] {
        let reply = chunked(trailer);
        assert_eq!((reply.text().as_str(), reply.is_replay()), ("body", is_replay), "{trailer:?}");
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(&server.address).await.unwrap();
        let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = connected.unwrap();
        tokio::spawn(connection);
        let mut post = async |keys: &[&str], path: &str, body: &str| {
            let uri = format!("http://{}{path}", server.address);
            let mut request = http::Request::post(uri).body(Full::new(Bytes::from(body.to_owned()))).unwrap();
            for key in keys {
                request.headers_mut().append(KEY, http::HeaderValue::from_str(key).unwrap());
            }
            sender.ready().await.unwrap();
            let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
            assert_eq!(parts.version, http::Version::HTTP_2);
            (parts, body.collect().await.unwrap().to_bytes())
        };
        let (first, first_body) = post(&["k"], "/thing", "x").await;
        let (retry, retry_body) = post(&["k"], "/thing", "x").await;
        assert_eq!((first.status.as_u16(), first.headers.get("idempotency-replayed")), (201, None));
        assert_eq!(
            (retry.status.as_u16(), &retry.headers["idempotency-replayed"]),
            (201, &"true".parse().unwrap())
        );
        assert_eq!(first_body, retry_body);
        let links: Vec<_> = retry.headers.get_all("link").iter().collect();
        assert_eq!(links, ["<a>; rel=\"x\"", "<b>; rel=\"y\""]);
        for (keys, body, status) in [(&[][..], "", 400), (&["a", "b"], "", 400), (&["k"], "other", 422)] {
            assert_eq!(post(keys, "/thing", body).await.0.status.as_u16(), status, "{keys:?}");
        }
        // What came over HTTP/1.1 is replayed over HTTP/2, and the other way round.
        assert_eq!(
            post(&["t"], "/echo", "body").await.0.headers.get("idempotency-replayed").unwrap(),
            "true"
        );
    });
    assert!(server.post("/thing", "k", "x").is_replay());
    assert_eq!(server.app.begun("/thing"), 1);
}

configure!(Careful, |_policy, principal| Policy::scoped_by(principal).request_limit(1000));

pub(super) fn expect_continue(kind: Kind) {
    let store = Breakable::new();
    let server = Server::start(kind, store.clone(), Careful);
    let head = |method: &str, headers: &[(&str, &str)], length: usize| {
        let mut head =
            format!("{method} /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + &format!("content-length: {length}\r\n\r\n")
    };
    let alice = ("x-principal", "alice");
    for (headers, length, status) in [
        (&[alice][..], 4, 400),
        (&[alice, (KEY, "two words")], 4, 400),
        (&[(KEY, "k")], 4, 401),
        (&[alice, (KEY, "k")], 1001, 413),
    ] {
        let mut stream = client::connect(&server.address);
        stream.write_all(head("POST", headers, length).as_bytes()).unwrap();
        let answer = until_answered(&mut stream);
        if kind == Kind::ActixWeb {
            // Its connection says 100 before any middleware has seen the request. Nothing of the body is read all the same.
            assert!(
                answer.starts_with("HTTP/1.1 100") || answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        } else {
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        assert!(answer.contains(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!((server.app.begun("/echo"), store.records()), (0, 0));

    let mut stream = client::connect(&server.address);
    stream.write_all(head("POST", &[alice, (KEY, "k")], 4).as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 100");
    stream.write_all(b"body").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200") && rest.ends_with("body"), "{rest}");
}

/// All that comes until the server closes, or to the end of a final answer.
fn until_answered(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(len) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..len]);
        let text = String::from_utf8_lossy(&bytes);
        if len == 0 || text.contains("}\n") {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
