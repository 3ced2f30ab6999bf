//! A GET costs next to nothing: counted in instructions, which do not depend on how busy the machine is.

use std::{
    convert::Infallible,
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{self, Command, Stdio},
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use actix_web::{App, HttpResponse, HttpServer, dev::Service as _, web};
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
    axum as for_axum,
    tower::{IdempotencyLayer, RequestBody},
};
use tower::{Layer, Service, ServiceBuilder};

/// In percent of what a middleware costs that does nothing.
const BOUND: f64 = 2.0;

/// The same for a service that is next to nothing itself; bodies change their types there, see ARCHITECTURE.md.
const BOUND_OF_HYPER: f64 = 8.0;

/// By framework: the handler, behind a middleware that does nothing, and behind ours.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    ActixBare,
    ActixNothing,
    ActixOurs,
    AxumBare,
    AxumNothing,
    AxumOurs,
    AxumNothingAround,
    AxumAround,
    HyperBare,
    HyperNothing,
    HyperOurs,
}

/// Prints the table; fails past the bound.
pub(crate) fn run() {
    let kinds = [
        ("actix-web", BOUND, [Kind::ActixBare, Kind::ActixNothing, Kind::ActixOurs]),
        ("axum, a layer of the router", BOUND, [Kind::AxumBare, Kind::AxumNothing, Kind::AxumOurs]),
        ("axum, around the router", BOUND, [Kind::AxumBare, Kind::AxumNothingAround, Kind::AxumAround]),
        ("hyper", BOUND_OF_HYPER, [Kind::HyperBare, Kind::HyperNothing, Kind::HyperOurs]),
    ];
    println!("instructions of a GET: the handler, behind a middleware that does nothing, behind ours");
    let mut over = Vec::new();
    for (name, bound, kinds) in kinds {
        let [bare, nothing, ours] = kinds.map(each);
        let more = |than: f64| (ours / than - 1.0) * 100.0;
        println!(
            "{name:28} {bare:7.0} {nothing:7.0} {ours:7.0}: {:+.2} % of the handler, {:+.2} % of nothing",
            more(bare),
            more(nothing)
        );
        if more(nothing) > bound {
            over.push(name);
        }
    }
    assert!(over.is_empty(), "a request that is not tracked costs too much on {over:?}");
}

/// Between two numbers of requests, so that what comes before them does not count.
fn each(kind: Kind) -> f64 {
    const FEW: u64 = 500;
    const MANY: u64 = 2500;
    (instructions(kind, MANY) - instructions(kind, FEW)) as f64 / (MANY - FEW) as f64
}

/// Of a server that is asked so often, over one connection. What is not its own, as the client, runs elsewhere.
fn instructions(kind: Kind, requests: u64) -> u64 {
    let kind = kind.to_possible_value().expect("none is skipped");
    let mut server = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("its own file"))
        .args(["serve", kind.get_name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind");
    let mut address = String::new();
    let mut stdout = BufReader::new(server.stdout.take().expect("it is piped"));
    stdout.read_line(&mut address).expect("it listens");
    answer_all(TcpStream::connect(address.trim()).expect("it listens"), requests);
    // It ends with its input.
    let output = server.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let counted = said.lines().find_map(|line| line.split("Collected :").nth(1)).expect("a count");
    counted.trim().parse().expect("a number")
}

fn answer_all(mut server: TcpStream, requests: u64) {
    server.set_nodelay(true).expect("a socket");
    let mut answer = [0; 1024];
    for _ in 0..requests {
        server.write_all(b"GET /thing HTTP/1.1\r\nhost: x\r\n\r\n").expect("it listens");
        let len = server.read(&mut answer).expect("it answers");
        assert!(answer[..len].starts_with(b"HTTP/1.1 200") && answer[..len].ends_with(b"done"));
    }
}

/// What `untracked` counts: a server that says where it is, and ends with its input.
pub(crate) fn serve(kind: Kind) {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        process::exit(0);
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    match kind {
        Kind::ActixBare | Kind::ActixNothing | Kind::ActixOurs => {
            actix_web::rt::System::new().block_on(actix(kind, listener));
        }
        _ => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(tower(kind, listener));
        }
    }
}

async fn actix(kind: Kind, listener: TcpListener) {
    let handler = || async { HttpResponse::Ok().body("done") };
    // There in all of them, so that only the middleware differs.
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await.expect("a memory store");
    let policy = idempotency::actix_web::Policy::new(Scope::global());
    let idempotency = Idempotency::new(tracker, policy).expect("a policy");
    let app = move || App::new().route("/thing", web::get().to(handler));
    macro_rules! serve {
        ($app:expr) => {
            HttpServer::new($app).workers(1).listen(listener).expect("a listener").run().await
        };
    }
    let served = match kind {
        Kind::ActixOurs => serve!(move || app().wrap(idempotency.clone())),
        Kind::ActixNothing => serve!(move || app().wrap_fn(|request, service| service.call(request))),
        _ => serve!(app),
    };
    served.expect("it serves until it ends");
}

/// Hands every request on. It has something to carry, as every middleware with a setting: axum puts layers into boxes that it
/// copies for each request, and a box of nothing costs nothing.
#[derive(Debug, Clone)]
struct Nothing<S> {
    inner: S,
    _carried: Arc<()>,
}

impl<S> Nothing<S> {
    fn new(inner: S) -> Self {
        Self { inner, _carried: Arc::default() }
    }
}

impl<S: Service<R>, R> Service<R> for Nothing<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}

async fn tower(kind: Kind, listener: TcpListener) {
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await.expect("a memory store");
    let policy = || for_axum::Policy::new(Scope::global());
    let ours = IdempotencyLayer::new(tracker.clone(), policy()).expect("a policy");
    let ours_on_axum = for_axum::IdempotencyLayer::new(tracker, policy()).expect("a policy");
    let router = Router::new().route("/thing", routing::get(|| async { Body::from("done") }));
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    let (stream, _) = listener.accept().await.expect("a client");
    stream.set_nodelay(true).expect("a socket");
    macro_rules! serve {
        ($service:expr) => {{
            let service = TowerToHyperService::new($service);
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        }};
    }
    macro_rules! handler {
        ($body:ty) => {
            tower::service_fn(async |_: http::Request<$body>| {
                Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::from("done")))
            })
        };
    }
    // As `axum::serve` does it.
    let erase = |request: http::Request<Incoming>| request.map(Body::new);
    macro_rules! serve_axum {
        ($service:expr) => {
            serve!(ServiceBuilder::new().map_request(erase).service($service))
        };
    }
    let served = match kind {
        Kind::AxumNothing => serve_axum!(router.layer(tower::layer::layer_fn({
            let carried = Arc::new(());
            move |inner| Nothing { inner, _carried: carried.clone() }
        }))),
        Kind::AxumOurs => serve_axum!(router.layer(ours_on_axum)),
        Kind::AxumAround => serve_axum!(ours_on_axum.layer(router)),
        Kind::AxumNothingAround => serve_axum!(Nothing::new(router)),
        Kind::HyperBare => serve!(handler!(Incoming)),
        Kind::HyperNothing => serve!(Nothing::new(handler!(Incoming))),
        Kind::HyperOurs => serve!(ours.layer(handler!(RequestBody<Incoming>))),
        _ => serve_axum!(router),
    };
    served.expect("it serves until its client ends");
}
