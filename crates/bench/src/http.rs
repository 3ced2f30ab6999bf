//! A server and its clients in one process, over loopback: the same POST to a bare handler, to ours, and to the peers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use idempotency::{MemoryStore, Scope, Tracker, axum::IdempotencyLayer};
use ruts::{CookieOptions, Session, SessionLayer, store::moka::MokaStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower_cookies::CookieManagerLayer;

use crate::report::{Ratios, Report, Table};

const CONNECTIONS: [usize; 3] = [1, 64, 512];
const BODY: &str = r#"{"amount":1000,"currency":"EUR","reference":"one of many payments of the day"}"#;

/// The columns, in the order of the targets.
const NAMES: [&str; 4] = ["bare handler", "ours", "axum-idempotent", "idempotent"];

/// A server, and what its clients must send beside the key.
struct Target {
    address: String,
    cookie: Option<String>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub(crate) enum Work {
    /// Each request has a key of its own
    First,
    /// All requests of a connection have one
    Replay,
}

/// Ours by itself.
pub(crate) fn profile(work: Work, connections: usize, millis: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let rates = runtime.block_on(async {
        [
            rate(&bare().await, work, connections, millis).await,
            rate(&ours().await, work, connections, millis).await,
        ]
    });
    println!("bare {}, ours {}", rates[0], rates[1]);
}

pub(crate) fn run(report: &Report, rounds: usize, millis: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for (work, name) in [(Work::First, "first POST"), (Work::Replay, "replay")] {
        let title = format!("{name} over HTTP: requests a second, to those of the bare handler");
        let mut table = Table::new(&title, "connections", &NAMES);
        let mut plotted = NAMES.map(|name| (name, Vec::new()));
        for connections in CONNECTIONS {
            let mut ratios = Ratios::new(NAMES.len());
            for round in 0..rounds {
                let rates = runtime.block_on(async {
                    // New servers in each round: what is stored grows with every request.
                    let targets = [bare().await, ours().await, axum_idempotent().await, idempotent().await];
                    let mut rates = [0.0; NAMES.len()];
                    // Each is first in turn.
                    for at in 0..targets.len() {
                        let at = (at + round) % targets.len();
                        rates[at] = rate(&targets[at], work, connections, millis).await;
                    }
                    rates
                });
                ratios.add(rates.into_iter(), 0);
            }
            for ((_, plotted), median) in plotted.iter_mut().zip(ratios.medians()) {
                plotted.push(median);
            }
            table.row(connections.to_string(), ratios.shown());
        }
        report.table(table);
        report.plot(&format!("http-{}.svg", name.replace(' ', "-")), &title, &CONNECTIONS, &plotted);
    }
}

async fn handler(body: Bytes) -> (StatusCode, Bytes) {
    (StatusCode::CREATED, body)
}

fn router() -> Router {
    Router::new().route("/payments", post(handler))
}

async fn serve(router: Router) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async { axum::serve(listener, router).await });
    Target { address, cookie: None }
}

async fn bare() -> Target {
    serve(router()).await
}

async fn ours() -> Target {
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await.expect("a memory store");
    let policy = idempotency::axum::Policy::new(Scope::global());
    serve(router().layer(IdempotencyLayer::new(tracker, policy).expect("a policy"))).await
}

/// It wants a session, and looks for the key in it.
async fn axum_idempotent() -> Target {
    let store = Arc::new(MokaStore::builder().build());
    let options = IdempotentOptions::default().use_idempotency_key_header(None, true).expire_after(86_400);
    let login = async |session: Session<MokaStore>| {
        session
            .set("user", &"alice".to_owned(), ruts::store::Ttl::new(86_400).expect("a day"), None)
            .await
            .expect("a session");
        "welcome"
    };
    let router = router()
        .layer(IdempotentLayer::<MokaStore>::new(options))
        .route("/login", post(login))
        .layer(
            SessionLayer::new(store)
                .with_cookie_options(CookieOptions::build().name("session").max_age(86_400).path("/")),
        )
        .layer(CookieManagerLayer::new());
    let mut target = serve(router).await;
    let mut stream = TcpStream::connect(&target.address).await.expect("it listens");
    let login = b"POST /login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(login).await.expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let cookie = answer
        .lines()
        .find_map(|line| line.to_ascii_lowercase().starts_with("set-cookie:").then(|| line[11..].trim()));
    let cookie = cookie.expect("a session").split(';').next().expect("a value").to_owned();
    target.cookie = Some(format!("cookie: {cookie}\r\n"));
    target
}

async fn idempotent() -> Target {
    let store = idempotent::memory::MemoryStore::builder().try_build().expect("a memory store");
    let layer = idempotent::middleware::IdempotencyLayer::new(store)
        .scope(|_: &http::request::Parts| Some("all".to_owned()));
    serve(router().layer(layer)).await
}

/// Requests a second, each client one after the other.
async fn rate(target: &Target, work: Work, connections: usize, millis: u64) -> f64 {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..connections {
        let (stop, done) = (stop.clone(), done.clone());
        let (address, cookie) = (target.address.clone(), target.cookie.clone().unwrap_or_default());
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.set_nodelay(true).expect("a socket");
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let request = format!(
                    "POST /payments HTTP/1.1\r\nhost: x\r\n{cookie}content-type: application/json\r\n\
                     idempotency-key: {work}-{client}-{number}\r\ncontent-length: {}\r\n\r\n{BODY}",
                    BODY.len(),
                    work = u8::from(work == Work::First),
                );
                stream.write_all(request.as_bytes()).await.expect("it listens");
                let status = answer(&mut stream).await;
                assert_eq!(status, 201);
                done.fetch_add(1, Ordering::Relaxed);
                number += u64::from(work == Work::First);
            }
        });
    }
    // Until all are connected and the first replays are there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = done.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    let counted = done.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("a client");
    }
    counted as f64
}

/// The status of one whole answer.
async fn answer(stream: &mut TcpStream) -> u16 {
    let (mut bytes, mut chunk) = (Vec::with_capacity(512), [0; 1024]);
    loop {
        let len = stream.read(&mut chunk).await.expect("it answers");
        assert!(len > 0, "it closed");
        bytes.extend_from_slice(&chunk[..len]);
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(start)) = head.parse(&bytes) else { continue };
        let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length =
            length.map_or(0, |length| String::from_utf8_lossy(length.value).parse().expect("a number"));
        if bytes.len() >= start + length {
            return head.code.expect("a status");
        }
    }
}
