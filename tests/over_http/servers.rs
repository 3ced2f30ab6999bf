//! The same application behind each adapter, on a real socket.

use std::{
    convert::Infallible,
    fmt, io,
    net::TcpListener,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use idempotency::{
    Builder, Scope, Track, Tracker, TrackerHandle, actix_web::Idempotency, axum, store::Store,
    tower::IdempotencyLayer,
};
use tokio::sync::oneshot;
use tower_layer::Layer;

use super::{
    app::{Answer, App, Body},
    client::{self, Reply},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ActixWeb,
    Axum,
    Hyper,
    /// axum without the middleware: a server that is wrong in every way.
    Bare,
}

impl Kind {
    pub(crate) const ADAPTERS: [Self; 3] = [Self::ActixWeb, Self::Axum, Self::Hyper];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ActixWeb => "actix-web",
            Self::Axum => "axum",
            Self::Hyper => "hyper",
            Self::Bare => "bare",
        })
    }
}

/// A policy in the types of either adapter. The principal of a test is in a header; in an application it would be
/// verified first.
pub(crate) trait Configure: Send + Sync + 'static {
    fn policy<R: 'static>(&self, principal: fn(&R) -> Option<Scope>) -> idempotency_http::Policy<R>;

    /// How the tracker is asked.
    fn track(&self, track: Track) -> Track {
        track
    }
}

/// Everything as it is by default, in the global scope.
pub(crate) struct ByDefault;

impl Configure for ByDefault {
    fn policy<R: 'static>(&self, _: fn(&R) -> Option<Scope>) -> idempotency_http::Policy<R> {
        idempotency_http::Policy::new(Scope::global())
    }
}

/// A running server; stopped when it is dropped.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) app: Arc<App>,
    pub(crate) tracker: TrackerHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(kind: Kind, store: impl Store, configure: impl Configure) -> Self {
        Self::start_with(kind, Tracker::builder(store), configure)
    }

    pub(crate) fn start_with(kind: Kind, tracker: Builder<impl Store>, configure: impl Configure) -> Self {
        let app = App::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let (send, ready) = mpsc::channel();
        let serve = app.clone();
        let configure = Arc::new(configure);
        let thread = thread::spawn(move || match kind {
            Kind::ActixWeb => actix_web::rt::System::new().block_on(async move {
                let tracker = tracker.spawn().await.unwrap();
                let policy = configure.policy(|request: &actix_web::HttpRequest| {
                    principal(request.headers().get("x-principal")?.to_str().ok()?)
                });
                let idempotency = Idempotency::new(tracker.clone(), policy).unwrap();
                let idempotency = idempotency.tracking(move |_, track| configure.track(track));
                let server = serve_actix(listener, serve, idempotency);
                send.send(tracker).unwrap();
                let handle = server.handle();
                let server = actix_web::rt::spawn(server);
                let _ = stopped.await;
                handle.stop(false).await;
                server.await.unwrap().unwrap();
            }),
            Kind::Axum | Kind::Hyper | Kind::Bare => {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                runtime.block_on(async move {
                    let tracker = tracker.spawn().await.unwrap();
                    let policy = configure.policy(|request: &http::request::Parts| {
                        principal(request.headers.get("x-principal")?.to_str().ok()?)
                    });
                    let tracking = move |_: &http::request::Parts, track| configure.track(track);
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    send.send(tracker.clone()).unwrap();
                    let serve = async {
                        match kind {
                            Kind::Axum => {
                                let layer = axum::IdempotencyLayer::new(tracker, policy).unwrap();
                                serve_axum(listener, serve, Some(layer.tracking(tracking))).await;
                            }
                            Kind::Bare => serve_axum(listener, serve, None).await,
                            _ => {
                                let layer = IdempotencyLayer::new(tracker, policy).unwrap();
                                serve_hyper(listener, serve, layer.tracking(tracking)).await;
                            }
                        }
                    };
                    tokio::select! {
                        () = serve => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_timeout(Duration::from_secs(1));
            }
        });
        let tracker = ready.recv_timeout(Duration::from_secs(20)).expect("the server starts");
        Self { address, app, tracker, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        client::send(&self.address, &client::request(method, path, headers, body))
    }

    /// `POST` with a key and a payload.
    pub(crate) fn post(&self, path: &str, key: &str, body: &str) -> Reply {
        self.send("POST", path, &[("idempotency-key", key)], body.as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // What a test is about has been said by its own assertions.
            let _ = thread.join();
        }
    }
}

fn principal(name: &str) -> Option<Scope> {
    Some(Scope::principal([name]))
}

fn serve_actix(listener: TcpListener, app: Arc<App>, idempotency: Idempotency) -> actix_web::dev::Server {
    use actix_web::{HttpMessage, HttpRequest, HttpResponse, body::BodyStream, web};

    async fn handle(request: HttpRequest, payload: Bytes, app: web::Data<Arc<App>>) -> HttpResponse {
        let ours = request.extensions().get().cloned();
        let Answer { status, headers, body, disposition } =
            app.handle(request.path(), payload.to_vec(), ours).await;
        let mut response = HttpResponse::build(actix_web::http::StatusCode::from_u16(status).unwrap());
        for (name, value) in headers {
            let value = actix_web::http::header::HeaderValue::from_bytes(&value).unwrap();
            response.append_header((name, value));
        }
        let mut response = match body {
            Body::Whole(bytes) => response.body(bytes),
            Body::Chunks(chunks) => response.body(BodyStream::new(stream::iter(
                chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk))),
            ))),
            Body::Broken(bytes) => {
                response.body(BodyStream::new(stream::iter([Ok(Bytes::from(bytes)), Err("broken")])))
            }
            Body::Stalled(bytes) => response.body(BodyStream::new(
                stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]).chain(stream::pending()),
            )),
        };
        if let Some(disposition) = disposition {
            response.extensions_mut().insert(disposition);
        }
        response
    }

    actix_web::HttpServer::new(move || {
        actix_web::App::new()
            .app_data(web::Data::new(app.clone()))
            .app_data(web::PayloadConfig::new(16 * 1024 * 1024))
            .wrap(idempotency.clone())
            .default_service(web::to(handle))
    })
    .workers(2)
    .disable_signals()
    .listen_auto_h2c(listener)
    .unwrap()
    .run()
}

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

async fn answer(app: Arc<App>, parts: http::request::Parts, payload: Bytes) -> http::Response<AnyBody> {
    let (path, ours) = (parts.uri.path(), parts.extensions.get().cloned());
    let Answer { status, headers, body, disposition } = app.handle(path, payload.to_vec(), ours).await;
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    if let Some(disposition) = disposition {
        response = response.extension(disposition);
    }
    let frame = |bytes: Vec<u8>| http_body::Frame::data(Bytes::from(bytes));
    let body = match body {
        Body::Whole(bytes) => {
            http_body_util::Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
        }
        Body::Chunks(chunks) => {
            StreamBody::new(stream::iter(chunks).map(move |chunk| Ok(frame(chunk)))).boxed_unsync()
        }
        Body::Broken(bytes) => {
            StreamBody::new(stream::iter([Ok(frame(bytes)), Err(io::Error::other("broken"))])).boxed_unsync()
        }
        Body::Stalled(bytes) => {
            StreamBody::new(stream::iter([Ok(frame(bytes))]).chain(stream::pending())).boxed_unsync()
        }
    };
    response.body(body).unwrap()
}

async fn serve_axum(listener: tokio::net::TcpListener, app: Arc<App>, layer: Option<axum::IdempotencyLayer>) {
    use ::axum::{
        Router,
        body::Body,
        extract::{DefaultBodyLimit, State},
        response::Response,
    };

    async fn handle(State(app): State<Arc<App>>, parts: http::request::Parts, payload: Bytes) -> Response {
        answer(app, parts, payload).await.map(Body::new)
    }

    let router = Router::new().fallback(handle).layer(DefaultBodyLimit::disable()).with_state(app);
    let router = match layer {
        Some(layer) => router.layer(layer),
        None => router,
    };
    ::axum::serve(listener, router).await.unwrap();
}

/// The layer around a service of hyper's own, with no framework.
async fn serve_hyper(listener: tokio::net::TcpListener, app: Arc<App>, layer: IdempotencyLayer) {
    use hyper::body::Incoming;
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
        service::TowerToHyperService,
    };
    use idempotency::tower::RequestBody;

    let service = layer.layer(tower::service_fn(move |request: http::Request<RequestBody<Incoming>>| {
        let app = app.clone();
        async move {
            let (parts, body) = request.into_parts();
            let payload = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(answer(app, parts, payload).await)
        }
    }));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(service.clone());
        // Spawned as it is, and not awaited in a block of its own, which the compiler cannot see to be `Send`. A client
        // that hangs up is an error of its connection.
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}
