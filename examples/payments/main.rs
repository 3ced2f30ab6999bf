//! The main job: a payment service that charges once, however often it is asked.
//!
//! ```sh
//! cargo run --example payments
//! ```
//!
//! It prints `curl` lines to try. `GET /payments` lists the ledger of the charges really made, so that a double
//! charge would be seen. Records and ledger are files in the folder that it is started in: kill it, start it again, and
//! a retry is still recognised.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod ledger;
mod payment;
mod problem;
#[path = "../stop.rs"]
mod stop;
mod users;

use std::{
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use actix_web::{App, HttpResponse, HttpServer, http::header, middleware::Condition, web};
use actix_web_httpauth::middleware::HttpAuthentication;
use clap::{Parser, ValueEnum};
use idempotency::{
    MemoryStore, OnOrphan, PostgresConfig, PostgresStore, RedbStore, RedisConfig, RedisStore, Scope, Tracker,
    TrackerHandle,
    actix_web::{Idempotency, Policy},
    store::{Store, StoreError},
};

use crate::{ledger::Ledger, payment::Payment, users::Users};

/// A payment service that charges once, however often it is asked.
#[derive(Parser)]
struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// Where the records of requests are kept: `redb:FILE`, which survives crashes, `postgres://…` or `redis://…`, which
    /// several processes may share, or `memory`, which is gone with the process
    // Not parsed here: what cannot be parsed would be printed, with its password.
    #[arg(long, default_value = "redb:./payments.redb")]
    store: String,

    /// File that every charge really made is appended to
    #[arg(long, value_name = "FILE", default_value = "./payments.ledger")]
    ledger: PathBuf,

    /// How long a claim stands without a sign of life, in milliseconds
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(3..=86_400_000))]
    lease_ms: u64,

    /// How long an answer is kept for retries, in milliseconds
    #[arg(long, default_value_t = 86_400_000, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    retention_ms: u64,

    /// What a retry gets after its payment died half way: an error, or another run
    #[arg(long, value_enum, default_value_t = Orphans::Halt)]
    on_orphan: Orphans,

    /// Who may pay, as `name:password,name:password`; each has idempotency keys of their own [default: everybody]
    #[arg(long, value_name = "USERS")]
    users: Option<Users>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Orphans {
    /// At most once: the retry hears that the outcome is unknown
    Halt,
    /// At least once: the retry charges again
    Rerun,
}

/// Where the records are kept.
enum StoreAt {
    Memory,
    Redb(PathBuf),
    Postgres(PostgresConfig),
    Redis(RedisConfig),
}

impl FromStr for StoreAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("redb", path)) if !path.is_empty() => Ok(Self::Redb(path.into())),
            Some(("postgres" | "postgresql", _)) => {
                PostgresConfig::from_url(text).map(Self::Postgres).map_err(|error| error.to_string())
            }
            Some(("redis" | "rediss", _)) => {
                RedisConfig::from_url(text).map(Self::Redis).map_err(|error| error.to_string())
            }
            None if text == "memory" => Ok(Self::Memory),
            _ => Err("a store is `redb:FILE`, `postgres://HOST`, `redis://HOST` or `memory`".to_owned()),
        }
    }
}

impl StoreAt {
    fn open(&self) -> Result<Box<dyn Store>, String> {
        match self {
            Self::Memory => Ok(Box::new(MemoryStore::new())),
            Self::Redb(path) => match RedbStore::open(path) {
                Ok(store) => Ok(Box::new(store)),
                Err(error) => Err(format!("the store {} cannot be used: {error}", path.display())),
            },
            Self::Postgres(config) => opened(PostgresStore::open(config.clone())),
            Self::Redis(config) => opened(RedisStore::open(config.clone())),
        }
    }
}

fn opened<S: Store>(store: Result<S, StoreError>) -> Result<Box<dyn Store>, String> {
    match store {
        Ok(store) => Ok(Box::new(store)),
        Err(error) => Err(format!("the store cannot be used: {error}")),
    }
}

/// How long requests in flight may take to finish at a shutdown, in seconds.
const GRACE: u64 = 30;

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
    let ledger = Ledger::open(&args.ledger)
        .map_err(|error| format!("the ledger {} cannot be used: {error}", args.ledger.display()))?;
    let lease = Duration::from_millis(args.lease_ms);
    let tracker = Tracker::builder(args.store.parse::<StoreAt>()?.open()?)
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

    let policy = match args.users {
        Some(_) => Policy::scoped_by(users::scope),
        // Everybody who can reach this service shares one scope; say so, rather than forget it.
        None => Policy::new(Scope::global()),
    };
    let idempotency = Idempotency::new(tracker.clone(), policy)?;

    let authenticated = args.users.is_some();
    let users = web::Data::new(args.users.unwrap_or_default());
    let data = (web::Data::new(tracker.clone()), web::Data::new(ledger), users);
    let server = HttpServer::new(move || {
        let (tracker, ledger, users) = data.clone();
        let authenticate = HttpAuthentication::basic(users::authenticate);
        App::new()
            .app_data(tracker)
            .app_data(ledger)
            .app_data(users)
            // As much as the middleware lets through.
            .app_data(web::PayloadConfig::new(1024 * 1024))
            .service(
                web::scope("/payments")
                    // The last one comes first: who it is, then whether it was sent before.
                    .wrap(idempotency.clone())
                    .wrap(Condition::new(authenticated, authenticate))
                    .route("", web::post().to(pay))
                    .route("", web::get().to(list))
                    .route("/{id}", web::get().to(show)),
            )
            .route("/health", web::get().to(health))
    })
    .workers(2)
    .disable_signals()
    .shutdown_timeout(GRACE)
    .bind(args.listen)
    .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;

    let asked_to_stop = stop::asked_to_stop()?;
    for address in server.addrs() {
        println!("{}", greeting(address));
    }
    let server = server.run();
    let stop = server.handle();
    // The tracker first: it takes no new payments and waits for those that run, also where the client hung up. The
    // workers that run them end with the server.
    let stopping = actix_web::rt::spawn(async move {
        asked_to_stop.await?;
        let report = tracker.shutdown(Duration::from_secs(GRACE)).await;
        stop.stop(true).await;
        io::Result::Ok(report)
    });
    server.await?;
    let report = stopping.await???;
    println!("stopped, {} payments left unsettled", report.unsettled);
    Ok(())
}

/// `POST /payments`: an ordinary handler. That it does not run twice is the middleware's business.
async fn pay(body: web::Bytes, ledger: web::Data<Ledger>) -> HttpResponse {
    let charged = match Payment::from_json(&body) {
        Ok(payment) => payment.charge(ledger.into_inner()).await,
        Err(problem) => Err(problem),
    };
    match charged {
        Ok(charge) => HttpResponse::Created()
            .insert_header((header::LOCATION, format!("/payments/{}", charge.id)))
            .json(charge),
        Err(problem) => problem.into_response(),
    }
}

/// `GET /payments`: the charges really made.
async fn list(ledger: web::Data<Ledger>) -> HttpResponse {
    match ledger.charges() {
        Ok(charges) => HttpResponse::Ok().json(charges),
        Err(error) => {
            tracing::error!(%error, "the ledger cannot be read");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// `GET /payments/{id}`: where `Location` points.
async fn show(id: web::Path<String>, ledger: web::Data<Ledger>) -> HttpResponse {
    let charges = ledger.charges().unwrap_or_default();
    match charges.into_iter().find(|charge| charge.id == *id) {
        Some(charge) => HttpResponse::Ok().json(charge),
        None => HttpResponse::NotFound()
            .insert_header((header::CONTENT_TYPE, "text/plain"))
            .body("no such payment\n"),
    }
}

/// `GET /health`: 200 while payments can be taken.
async fn health(tracker: web::Data<TrackerHandle>) -> HttpResponse {
    match tracker.status().await {
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
