//! Receives the events of a payment provider, who delivers each at least once, and handles each once. The provider signs them
//! as Standard Webhooks has it (<https://www.standardwebhooks.com>): the id of the event is the key.
//!
//! ```sh
//! cargo run --example webhook_receiver
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod serve;

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Parser;
use hmac::{Hmac, KeyInit, Mac};
use idempotency::{
    Clock, MemoryStore, OnConcurrent, OnOrphan, Scope, SystemClock, Tracker,
    axum::{IdempotencyLayer, IdempotentRequest, Policy},
};
use serde::Deserialize;
use sha2::Sha256;

use crate::serve::serve;

/// Receives signed events, and handles each once.
#[derive(Parser)]
struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8083")]
    listen: SocketAddr,

    /// What the provider signs with: `whsec_` and the key in base 64
    #[arg(long, default_value = "whsec_ZXhhbXBsZQ==")]
    secret: String,
}

#[derive(Debug, Deserialize)]
struct Event {
    r#type: String,
    #[serde(default)]
    data: serde_json::Value,
}

/// Whom the middleware found to have signed.
#[derive(Debug, Clone, Copy)]
struct Provider;

/// What was handled, in order.
type Handled = Arc<Mutex<Vec<String>>>;

/// Older signatures are not taken.
const TOLERANCE_SECONDS: u64 = 300;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let secret: Arc<[u8]> = BASE64_STANDARD.decode(args.secret.trim_start_matches("whsec_"))?.into();
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
    let verified = |request: &axum::http::request::Parts| {
        request.extensions.get::<Provider>().map(|_| Scope::principal(["provider"]))
    };
    let policy = Policy::scoped_by(verified)
        .header(HeaderName::from_static("webhook-id"))
        // The same event, whatever its delivery says of itself.
        .excluding(["/attempt"]);
    let idempotency = IdempotencyLayer::new(tracker.clone(), policy)?.tracking(|_, track| {
        track
            // Longer than the provider goes on delivering.
            .retention(Duration::from_secs(7 * 24 * 60 * 60))
            .on_concurrent(OnConcurrent::Wait { at_most: Duration::from_secs(10) })
            // It delivers until somebody says that it was handled: a delivery whose handler died is handled again.
            .on_orphan(OnOrphan::Rerun)
    });

    let app = Router::new()
        .route("/webhooks", post(handle).layer(idempotency))
        .layer(middleware::from_fn_with_state(secret, verify))
        .route("/handled", get(list))
        .with_state(Handled::default());

    serve(args.listen, app, tracker).await?;
    println!("stopped");
    Ok(())
}

/// `POST /webhooks`: an ordinary handler.
async fn handle(
    State(handled): State<Handled>,
    Extension(request): Extension<IdempotentRequest>,
    Json(event): Json<Event>,
) -> Response {
    if event.data["account"] == "unknown" {
        // Nothing was done: the next delivery is handled anew.
        request.release();
        return (StatusCode::SERVICE_UNAVAILABLE, "the account is not there yet\n").into_response();
    }
    handled.lock().unwrap_or_else(PoisonError::into_inner).push(event.r#type);
    StatusCode::NO_CONTENT.into_response()
}

/// `GET /handled`: what was handled.
async fn list(State(handled): State<Handled>) -> Json<Vec<String>> {
    Json(handled.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Lets only those pass who have signed what they send. It comes first: nobody else is told what came of an event.
async fn verify(State(secret): State<Arc<[u8]>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, 1024 * 1024).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    if !is_signed(&secret, &parts.headers, &body).unwrap_or(false) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    parts.extensions.insert(Provider);
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn is_signed(secret: &[u8], headers: &HeaderMap, body: &[u8]) -> Option<bool> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let (id, at) = (header("webhook-id")?, header("webhook-timestamp")?);
    let age = SystemClock::new().now().unix_timestamp().abs_diff(at.parse().ok()?);
    let signed = [id.as_bytes(), at.as_bytes(), body].join(&b'.');
    let is_ours = |signature: &str| {
        let signature = BASE64_STANDARD.decode(signature.strip_prefix("v1,")?).ok()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        mac.update(&signed);
        // Compared in constant time.
        mac.verify_slice(&signature).ok()
    };
    Some(age < TOLERANCE_SECONDS && header("webhook-signature")?.split(' ').any(|one| is_ours(one).is_some()))
}
