//! A client that says exactly what it is told to, and shows exactly what came back.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// What came back, as it was on the wire.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in small letters, in the order of the wire.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its end, as far as the head tells.
    pub(crate) whole: bool,
    /// What came after the last chunk, as it was.
    pub(crate) trailers: String,
}

impl Reply {
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} came {} times", all.len());
        all.first().map(|value| std::str::from_utf8(value).unwrap())
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and code, for assertions.
    pub(crate) fn problem(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

/// The bytes of a request with a body of known length.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends the bytes and reads until the server closes.
pub(crate) fn send(address: &str, bytes: &[u8]) -> Reply {
    let mut stream = connect(address);
    // A server that refuses early may stop reading.
    let _ = stream.write_all(bytes);
    read(&mut stream).expect("an answer")
}

/// Reads until the server closes, or breaks the connection; `None` if there was no answer at all.
pub(crate) fn read(stream: &mut TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    let closed = stream.read_to_end(&mut bytes).is_ok();
    parse(&bytes, closed)
}

fn parse(bytes: &[u8], closed: bool) -> Option<Reply> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = head.parse(bytes).ok()? else { return None };
    let status = head.code.unwrap();
    if (100..200).contains(&status) {
        return parse(&bytes[len..], closed);
    }
    let headers: Vec<(String, Vec<u8>)> =
        head.headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec())).collect();
    let mut reply = Reply { status, headers, body: Vec::new(), whole: closed, trailers: String::new() };
    let body = &bytes[len..];
    if reply.header("transfer-encoding") == Some("chunked") {
        (reply.body, reply.whole, reply.trailers) = dechunk(body);
    } else {
        let announced = reply.header("content-length").map(|length| length.parse::<usize>().unwrap());
        reply.whole &= announced.is_none_or(|length| length == body.len());
        reply.body = body.to_vec();
    }
    Some(reply)
}

fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool, String) {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(bytes) else {
            return (body, false, String::new());
        };
        let (at, size) = (at, size as usize);
        if size == 0 {
            return (body, true, String::from_utf8_lossy(&bytes[at..]).into_owned());
        }
        let Some(chunk) = bytes.get(at..at + size) else { return (body, false, String::new()) };
        body.extend_from_slice(chunk);
        let Some(rest) = bytes.get(at + size + 2..) else { return (body, false, String::new()) };
        bytes = rest;
    }
}
