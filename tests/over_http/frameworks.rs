//! What only one of the frameworks can do.

use std::{future::ready, net::TcpListener, sync::mpsc, thread};

use idempotency::{MemoryStore, Scope, Tracker, actix_web::Idempotency, axum::IdempotencyLayer};

use super::client;

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
