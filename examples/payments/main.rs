//! The main job: a payment service that charges once, however often it is asked.
//!
//! ```sh
//! cargo run --example payments
//! ```
//!
//! It prints `curl` lines to try. `GET /payments` lists the ledger of the charges really made, so that a double
//! charge would be seen.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod answer;
mod ledger;
mod payment;

use std::{
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, http::header, web};
use clap::{Parser, ValueEnum};
use idempotency::{IdempotencyKey, MemoryStore, OnOrphan, Once, Scope, Tracker, TrackerHandle};

use crate::{
    answer::{Answer, Problem},
    ledger::Ledger,
    payment::Payment,
};

/// A payment service that charges once, however often it is asked.
#[derive(Debug, Parser)]
struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Where the records of requests are kept: `memory`
    #[arg(long, default_value = "memory", value_parser = known_store)]
    store: String,

    /// File that every charge really made is appended to [default: in memory, like the store]
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,

    /// How long a claim stands without a sign of life, in milliseconds
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(3..=86_400_000))]
    lease_ms: u64,

    /// How long an answer is kept for retries, in milliseconds
    #[arg(long, default_value_t = 86_400_000, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    retention_ms: u64,

    /// What a retry gets after its payment died half way: an error, or another run
    #[arg(long, value_enum, default_value_t = Orphans::Halt)]
    on_orphan: Orphans,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Orphans {
    /// At most once: the retry hears that the outcome is unknown
    Halt,
    /// At least once: the retry charges again
    Rerun,
}

fn known_store(store: &str) -> Result<String, String> {
    match store {
        "memory" => Ok(store.to_owned()),
        _ => Err("the only store so far is `memory`".to_owned()),
    }
}

/// How long requests in flight may take to finish at a shutdown, in seconds.
const GRACE: u64 = 30;

/// What every handler shares.
struct Shop {
    tracker: TrackerHandle,
    ledger: Arc<Ledger>,
}

#[actix_web::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn,idempotency_tracker=info".into()))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match serve(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("payments: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args) -> Result<(), Box<dyn Error>> {
    let ledger = match &args.ledger {
        None => Ledger::in_memory(),
        Some(path) => Ledger::in_file(path)
            .map_err(|error| format!("the ledger {} cannot be used: {error}", path.display()))?,
    };
    let lease = Duration::from_millis(args.lease_ms);
    let tracker = Tracker::builder(MemoryStore::new())
        .lease(lease)
        // Two calls of the store must fit into a lease, so a short lease needs quick calls.
        .store_limit((lease / 3).min(Duration::from_secs(2)))
        .retention(Duration::from_millis(args.retention_ms))
        .on_orphan(match args.on_orphan {
            Orphans::Halt => OnOrphan::Halt,
            Orphans::Rerun => OnOrphan::Rerun,
        })
        .spawn()
        .await?;

    let shop = web::Data::new(Shop { tracker: tracker.clone(), ledger: Arc::new(ledger) });
    let server = HttpServer::new(move || {
        App::new()
            .app_data(shop.clone())
            .app_data(web::PayloadConfig::new(64 * 1024))
            .route("/payments", web::post().to(pay))
            .route("/payments", web::get().to(list))
            .route("/payments/{id}", web::get().to(show))
            .route("/health", web::get().to(health))
    })
    .workers(2)
    .shutdown_timeout(GRACE)
    .bind(args.listen)
    .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;

    for address in server.addrs() {
        println!("{}", greeting(address));
    }
    // Ends on SIGTERM and Ctrl-C, once the requests in flight are answered.
    let served = server.run().await;
    // A payment whose client hung up still runs; it is waited for, too.
    let report = tracker.shutdown(Duration::from_secs(GRACE)).await?;
    println!("stopped, {} payments left unsettled", report.unsettled);
    Ok(served?)
}

/// `POST /payments`: charges, or answers what the first request with this key was answered.
async fn pay(request: HttpRequest, body: web::Bytes, shop: web::Data<Shop>) -> HttpResponse {
    let (key, payment) = match (idempotency_key(&request), Payment::from_json(&body)) {
        (Ok(key), Ok(payment)) => (key, payment),
        (Err(problem), _) | (_, Err(problem)) => return problem.into_response(),
    };
    // Everybody who can reach this service shares one scope; say so, rather than forget it.
    let id = shop.tracker.request_id(&Scope::global(), [&b"POST"[..], b"/payments", key.as_bytes()]);
    let fingerprint = shop.tracker.fingerprint([&body[..]]);

    let ledger = shop.ledger.clone();
    let charge = move || payment.charge(ledger);

    match shop.tracker.once(id, fingerprint, charge).await {
        Ok(Once::Done { response, replayed }) => match response.bytes().map(Answer::from_bytes) {
            Some(Ok(answer)) => answer.into_response(replayed),
            Some(Err(error)) => {
                tracing::error!(%error, "a stored answer cannot be read");
                Problem::internal().into_response()
            }
            None => Problem::response_unavailable().into_response(),
        },
        Ok(Once::Processing { retry_after, .. }) => Problem::in_progress(retry_after).into_response(),
        Ok(Once::Halted { .. }) => Problem::outcome_unknown().into_response(),
        Ok(Once::Mismatch { .. }) => Problem::key_reused().into_response(),
        Ok(Once::Unknown(error)) => {
            tracing::error!(%error, "a payment may or may not have been charged");
            Problem::internal().into_response()
        }
        Ok(_) => Problem::internal().into_response(),
        Err(error) => {
            tracing::warn!(%error, source = ?error.source(), "a payment was not started");
            Problem::unavailable(error.retry_after()).into_response()
        }
    }
}

/// The one `Idempotency-Key` of a request, bare or as a quoted string.
fn idempotency_key(request: &HttpRequest) -> Result<IdempotencyKey, Problem> {
    let mut headers = request.headers().get_all("idempotency-key");
    let Some(header) = headers.next() else { return Err(Problem::key_missing()) };
    if headers.next().is_some() {
        return Err(Problem::key_invalid("there is more than one Idempotency-Key header"));
    }
    let text = header.to_str().map_err(|_| Problem::key_invalid("it is not visible ASCII"))?;
    let unquoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    if unquoted.contains(['"', '\\']) {
        return Err(Problem::key_invalid("it is neither a bare value nor a plain quoted string"));
    }
    unquoted.parse().map_err(|error| Problem::key_invalid(format!("{error}")))
}

/// `GET /payments`: the charges really made.
async fn list(shop: web::Data<Shop>) -> HttpResponse {
    match shop.ledger.charges() {
        Ok(charges) => HttpResponse::Ok().json(charges),
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be read");
            Problem::internal().into_response()
        }
    }
}

/// `GET /payments/{id}`: where `Location` points.
async fn show(id: web::Path<String>, shop: web::Data<Shop>) -> HttpResponse {
    let charges = shop.ledger.charges().unwrap_or_default();
    match charges.into_iter().find(|charge| charge.id == *id) {
        Some(charge) => HttpResponse::Ok().json(charge),
        None => HttpResponse::NotFound()
            .insert_header((header::CONTENT_TYPE, "text/plain"))
            .body("no such payment\n"),
    }
}

/// `GET /health`: 200 while payments can be taken.
async fn health(shop: web::Data<Shop>) -> HttpResponse {
    match shop.tracker.status().await {
        Ok(status) if status.backend_up && !status.draining => {
            HttpResponse::Ok().json(serde_json::json!({ "status": "ok", "in_flight": status.live }))
        }
        _ => HttpResponse::ServiceUnavailable().json(serde_json::json!({ "status": "unavailable" })),
    }
}

fn greeting(address: SocketAddr) -> String {
    let pay = format!("curl -i http://{address}/payments -H 'Content-Type: application/json'");
    let ten = r#"-d '{"amount":1000,"currency":"EUR"}'"#;
    let ninety = r#"-d '{"amount":9000,"currency":"EUR"}'"#;
    let slow = r#"-d '{"amount":500,"currency":"EUR","simulate":{"delay_ms":2000}}'"#;
    format!(
        "listening on http://{address}

pay:                  {pay} -H 'Idempotency-Key: order-1' {ten}
retry:                {pay} -H 'Idempotency-Key: order-1' {ten}
change the payload:   {pay} -H 'Idempotency-Key: order-1' {ninety}
two at once:          {pay} -H 'Idempotency-Key: order-2' {slow} & {pay} -H 'Idempotency-Key: order-2' {slow}; wait
what was charged:     curl http://{address}/payments

Ctrl-C stops it.
"
    )
}
