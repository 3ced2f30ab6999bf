//! A GET costs next to nothing: counted in instructions, which do not depend on how busy the machine is.

use std::{
    convert::Infallible,
    env,
    process::Command,
    task::{Context, Poll},
};

use actix_web::{App, HttpResponse, dev::Service as _, test, web};
use axum::{
    Router,
    body::{Body, Bytes},
    routing,
};
use clap::ValueEnum;
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use idempotency::{
    MemoryStore, Scope, Tracker,
    actix_web::Idempotency,
    axum::{IdempotencyLayer, RequestBody},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::{Layer, Service};

/// In percent of what a middleware costs that does nothing. The aim is 2; see ARCHITECTURE.md.
const BOUND: f64 = 10.0;

/// By framework: the handler, behind a middleware that does nothing, and behind ours.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    ActixBare,
    ActixNothing,
    ActixOurs,
    AxumBare,
    AxumNothing,
    AxumOurs,
    HyperBare,
    HyperNothing,
    HyperOurs,
}

/// Prints the table; fails past the bound.
pub(crate) fn run() {
    let kinds = [
        ("actix-web", [Kind::ActixBare, Kind::ActixNothing, Kind::ActixOurs]),
        ("axum", [Kind::AxumBare, Kind::AxumNothing, Kind::AxumOurs]),
        ("hyper", [Kind::HyperBare, Kind::HyperNothing, Kind::HyperOurs]),
    ];
    println!("instructions of a GET: the handler, behind a middleware that does nothing, behind ours");
    let mut is_over = false;
    for (name, kinds) in kinds {
        let [bare, nothing, ours] = kinds.map(each);
        let more = |than: f64| (ours / than - 1.0) * 100.0;
        println!(
            "{name:10} {bare:7.0} {nothing:7.0} {ours:7.0}: {:+.2} % of the handler, {:+.2} % of nothing",
            more(bare),
            more(nothing)
        );
        is_over |= more(nothing) > BOUND;
    }
    assert!(!is_over, "more than {BOUND} % for a request that is not tracked");
}

/// Between two numbers of requests, so that what comes before them does not count.
fn each(kind: Kind) -> f64 {
    const FEW: u64 = 500;
    const MANY: u64 = 2500;
    (instructions(kind, MANY) - instructions(kind, FEW)) as f64 / (MANY - FEW) as f64
}

fn instructions(kind: Kind, requests: u64) -> u64 {
    let kind = kind.to_possible_value().expect("none is skipped");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("its own file"))
        .args(["run", kind.get_name(), &requests.to_string()])
        .output()
        .expect("valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let counted = said.lines().find_map(|line| line.split("Collected :").nth(1)).expect("a count");
    counted.trim().parse().expect("a number")
}

/// Over a connection in memory: all that a server does but the system calls. actix-web has no such; there requests go to the
/// application, past its connections.
pub(crate) fn requests(kind: Kind, requests: u64) {
    match kind {
        Kind::ActixBare | Kind::ActixNothing | Kind::ActixOurs => {
            actix_web::rt::System::new().block_on(actix(kind, requests));
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(tower(kind, requests));
        }
    }
}

async fn actix(kind: Kind, requests: u64) {
    let handler = || async { HttpResponse::Ok().body("done") };
    // There in all of them, so that only the middleware differs.
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await.expect("a memory store");
    let policy = idempotency::actix_web::Policy::new(Scope::global());
    let idempotency = Idempotency::new(tracker, policy).expect("a policy");
    let app = || App::new().route("/thing", web::get().to(handler));
    let get = || test::TestRequest::get().uri("/thing").to_request();
    macro_rules! answer_all {
        ($app:expr) => {{
            let app = test::init_service($app).await;
            for _ in 0..requests {
                assert_eq!(test::call_service(&app, get()).await.status(), 200);
            }
        }};
    }
    match kind {
        Kind::ActixOurs => answer_all!(app().wrap(idempotency)),
        Kind::ActixNothing => answer_all!(app().wrap_fn(|request, service| service.call(request))),
        _ => answer_all!(app()),
    }
}

/// Hands every request on.
#[derive(Debug, Clone)]
struct Nothing<S>(S);

impl<S: Service<R>, R> Service<R> for Nothing<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

async fn tower(kind: Kind, requests: u64) {
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await.expect("a memory store");
    let ours =
        IdempotencyLayer::new(tracker, idempotency::axum::Policy::new(Scope::global())).expect("a policy");
    let router = Router::new().route("/thing", routing::get(|| async { Body::from("done") }));
    let (client, server) = tokio::io::duplex(4096);
    macro_rules! serve {
        ($service:expr) => {{
            let service = TowerToHyperService::new($service);
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        }};
    }
    macro_rules! handler {
        ($body:ty) => {
            tower::service_fn(async |_: http::Request<$body>| {
                Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from("done")))
            })
        };
    }
    match kind {
        Kind::AxumNothing => serve!(router.layer(tower::layer::layer_fn(Nothing))),
        Kind::AxumOurs => serve!(router.layer(ours)),
        Kind::HyperBare => serve!(handler!(Incoming)),
        Kind::HyperNothing => serve!(Nothing(handler!(Incoming))),
        Kind::HyperOurs => serve!(ours.layer(handler!(RequestBody<Incoming>))),
        _ => serve!(router),
    }
    answer_all(client, requests).await;
}

async fn answer_all(mut client: DuplexStream, requests: u64) {
    let mut answer = [0; 1024];
    for _ in 0..requests {
        client.write_all(b"GET /thing HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it listens");
        let len = client.read(&mut answer).await.expect("it answers");
        assert!(answer[..len].starts_with(b"HTTP/1.1 200") && answer[..len].ends_with(b"done"));
    }
}
