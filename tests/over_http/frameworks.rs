//! What only one of the frameworks can do.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::TcpListener,
    sync::mpsc,
    task::{Context, Poll},
    thread,
};

use bytes::Bytes;

use idempotency::{
    MemoryStore, Scope, Tracker,
    actix_web::{Idempotency, ReplayOf},
    axum::IdempotencyLayer,
};

use super::{client, store::Breakable};

fn post(address: &str, path: &str) -> client::Reply {
    client::send(address, &client::request("POST", path, &[("idempotency-key", "k")], b""))
}

#[test]
fn axum_the_same_key_under_two_nested_routers_is_two_requests() {
    use axum::{Router, extract::OriginalUri, routing};

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
        let layer = IdempotencyLayer::new(tracker, idempotency::axum::Policy::new(Scope::global())).unwrap();
        let pay = async |OriginalUri(uri): OriginalUri| uri.path().to_owned();
        let nested = || Router::new().route("/pay", routing::post(pay)).layer(layer.clone());
        let router = Router::new().nest("/a", nested()).nest("/b", nested());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        address
    });
    for (path, replay) in [("/a/pay", false), ("/b/pay", false), ("/a/pay", true), ("/b/pay", true)] {
        let reply = post(&address, path);
        assert_eq!((reply.text().as_str(), reply.is_replay()), (path, replay));
    }
}

#[test]
fn axum_one_route_of_many_can_be_wrapped() {
    use axum::{Router, routing};

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
        let layer = IdempotencyLayer::new(tracker, idempotency::axum::Policy::new(Scope::global())).unwrap();
        let router = Router::new()
            .route("/wrapped", routing::post(async || "done").layer(layer))
            .route("/bare", routing::post(async || "done"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        address
    });
    for replay in [false, true] {
        assert_eq!(post(&address, "/wrapped").is_replay(), replay);
        assert!(!post(&address, "/bare").is_replay());
    }
}

#[test]
fn axum_trailers_are_replayed() {
    use axum::{Router, body::Body, response::Response, routing};
    use http_body_util::{BodyExt, Full};

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
        let layer = IdempotencyLayer::new(tracker, idempotency::axum::Policy::new(Scope::global())).unwrap();
        let sum = async || {
            let trailers = http::HeaderMap::from_iter([("x-sum".parse().unwrap(), "42".parse().unwrap())]);
            let body = Full::from("body").with_trailers(async { Some(Ok(trailers)) });
            Response::builder().header("trailer", "x-sum").body(Body::new(body)).unwrap()
        };
        let router = Router::new().route("/", routing::post(sum)).layer(layer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        address
    });
    for replay in [false, true] {
        let bytes = client::request("POST", "/", &[("idempotency-key", "k"), ("te", "trailers")], b"");
        let reply = client::send(&address, &bytes);
        assert_eq!((reply.text().as_str(), reply.is_replay(), reply.whole), ("body", replay, true));
        assert_eq!(reply.header("trailer"), Some("x-sum"));
        assert_eq!(reply.trailers, "x-sum: 42\r\n\r\n", "replay: {replay}");
    }
}

/// Must be polled to be ready before each call, as tower says.
#[derive(Debug)]
struct Picky {
    ready: bool,
}

impl Clone for Picky {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl tower::Service<http::Request<idempotency::tower::RequestBody<http_body_util::Full<Bytes>>>> for Picky {
    type Response = http::Response<http_body_util::Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(
        &mut self,
        _: http::Request<idempotency::tower::RequestBody<http_body_util::Full<Bytes>>>,
    ) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled");
        ready(Ok(http::Response::new("done".into())))
    }
}

#[tokio::test]
async fn tower_the_service_that_was_ready_is_the_one_that_is_called() {
    use tower::{Layer, Service, ServiceExt};

    let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
    let policy = idempotency::tower::Policy::new(Scope::global());
    let layer = idempotency::tower::IdempotencyLayer::new(tracker, policy).unwrap();
    let mut service = layer.layer(Picky { ready: false });
    for (number, method) in ["POST", "POST", "GET", "POST", "GET"].into_iter().enumerate() {
        let request = http::Request::builder().method(method).header("idempotency-key", format!("{number}"));
        let request = request.body(http_body_util::Full::from("x")).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), 200, "request {number}");
    }
}

#[test]
fn wrapped_twice_a_request_is_tracked_once() {
    use axum::{Router, routing};

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(async {
        let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
        let layer = IdempotencyLayer::new(tracker, idempotency::axum::Policy::new(Scope::global())).unwrap();
        let inner = routing::post(async || "done").layer(layer.clone());
        let router = Router::new().route("/", inner).layer(layer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        address
    });
    for replay in [false, true] {
        let reply = post(&address, "/");
        assert_eq!((reply.status, reply.text().as_str(), reply.is_replay()), (200, "done", replay));
    }
    let address = actix();
    for replay in [false, true] {
        let reply = post(&address, "/twice/resource");
        assert_eq!((reply.status, reply.is_replay()), (200, replay));
    }
}

/// An application that is wrapped as a whole, by scope and by resource.
fn actix() -> String {
    use actix_web::{App, HttpRequest, HttpServer, dev::ServiceResponse, error::ErrorForbidden, web};

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, ready_to_serve) = mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
            let policy = idempotency::actix_web::Policy::new(Scope::global());
            let idempotency = Idempotency::new(tracker, policy).unwrap();
            let echo = async |request: HttpRequest| request.path().to_owned();
            let server = HttpServer::new(move || {
                App::new()
                    .service(
                        web::scope("/scope")
                            .wrap_fn(|_, _| {
                                let refused = Err::<ServiceResponse, _>(ErrorForbidden("not for you"));
                                ready(refused)
                            })
                            .wrap(idempotency.clone())
                            .route("/refused", web::post().to(echo)),
                    )
                    .service(web::scope("/twice").wrap(idempotency.clone()).service(
                        web::resource("/resource").wrap(idempotency.clone()).route(web::post().to(echo)),
                    ))
                    .service(web::resource("/resource").wrap(idempotency.clone()).route(web::post().to(echo)))
                    .route("/bare", web::post().to(echo))
            });
            let server = server.workers(1).listen(listener).unwrap().run();
            send.send(()).unwrap();
            server.await.unwrap();
        });
    });
    ready_to_serve.recv().unwrap();
    address
}

#[test]
fn actix_web_a_scope_and_a_resource_can_be_wrapped_and_an_inner_error_is_a_response() {
    let address = actix();
    for replay in [false, true] {
        let reply = post(&address, "/resource");
        assert_eq!((reply.text().as_str(), reply.is_replay()), ("/resource", replay));
        // What an inner middleware refuses is answered once, and replayed like any refusal.
        let reply = post(&address, "/scope/refused");
        assert_eq!((reply.status, reply.text().as_str(), reply.is_replay()), (403, "not for you", replay));
        assert!(!post(&address, "/bare").is_replay());
    }
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_at_start() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tracker = runtime.block_on(Tracker::builder(MemoryStore::new()).spawn()).unwrap();
    let wrong = idempotency::actix_web::Policy::new(Scope::global()).methods([http::Method::GET]);
    let error = Idempotency::new(tracker.clone(), wrong).unwrap_err();
    assert_eq!(error.to_string(), "GET is a safe method, which is never tracked");
    let wrong = idempotency::axum::Policy::new(Scope::global()).request_limit(0);
    let error = IdempotencyLayer::new(tracker, wrong).unwrap_err();
    assert_eq!(error.to_string(), "a request limit of 0 bytes takes no payload at all");
}

/// A store that is away for good once the tracker has begun.
#[test]
fn tower_what_runs_untracked_is_counted() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use tower::{Layer, ServiceExt};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let store = Breakable::new();
            let tracker = Tracker::builder(store.clone()).spawn().await.unwrap();
            let policy = idempotency::tower::Policy::new(Scope::global()).fail_open();
            let layer = idempotency::tower::IdempotencyLayer::new(tracker, policy).unwrap();
            let service = layer.layer(tower::service_fn(async |_: http::Request<_>| {
                Ok::<_, Infallible>(http::Response::new(http_body_util::Full::<Bytes>::from("done")))
            }));
            store.down(true);
            for _ in 0..3 {
                let request = http::Request::post("/").header("idempotency-key", "k");
                let request = request.body(http_body_util::Full::<Bytes>::from("x")).unwrap();
                assert_eq!(service.clone().oneshot(request).await.unwrap().status(), 200);
            }
        });
    });
    let counted =
        snapshotter.snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| {
            (key.key().name() == "idempotency_untracked_total").then_some(value)
        });
    assert_eq!(counted, Some(DebugValue::Counter(3)));
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An application around the middleware learns in whose trace the work was done.
#[test]
fn a_replay_names_the_trace_in_which_the_work_was_done() {
    use actix_web::{App, HttpServer, dev::Service, web};

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, ready_to_serve) = mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let tracker = Tracker::builder(MemoryStore::new()).spawn().await.unwrap();
            let policy = idempotency::actix_web::Policy::new(Scope::global());
            let idempotency = Idempotency::new(tracker, policy).unwrap();
            let server = HttpServer::new(move || {
                App::new()
                    .wrap(idempotency.clone())
                    .wrap_fn(|request, service| {
                        let response = service.call(request);
                        async {
                            let mut response = response.await?;
                            let original = response.response().extensions().get::<ReplayOf>().copied();
                            if let Some(ReplayOf(original)) = original {
                                let value = original.to_string().parse().unwrap();
                                response.headers_mut().insert("x-original".parse().unwrap(), value);
                            }
                            Ok(response)
                        }
                    })
                    .route("/", web::post().to(async || "done"))
            });
            let server = server.workers(1).listen(listener).unwrap().run();
            send.send(()).unwrap();
            server.await.unwrap();
        });
    });
    ready_to_serve.recv().unwrap();
    let post = |key: &str, trace: &str| {
        let headers = [("idempotency-key", key), ("traceparent", trace)];
        client::send(&address, &client::request("POST", "/", &headers, b""))
    };
    let another = TRACE.replace("4bf9", "aaaa");
    assert_eq!(post("k", TRACE).header("x-original"), None);
    assert_eq!(post("k", &another).header("x-original"), Some(TRACE));
    // Rubbish is no trace, and stops nothing.
    assert_eq!(post("l", "rubbish").status, 200);
    assert!(post("l", TRACE).is_replay());
    assert_eq!(post("l", TRACE).header("x-original"), None);
}
