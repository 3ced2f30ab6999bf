//! An order service on axum that takes each order once: the tower layer of the tracker.
//!
//! ```sh
//! cargo run --example axum_orders
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod serve;

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use clap::Parser;
use idempotency::{
    MemoryStore, Scope, Tracker,
    axum::{Disposition, IdempotencyLayer, Policy},
};
use serde::{Deserialize, Serialize};

use crate::serve::serve;

/// An order service that takes each order once.
#[derive(Parser)]
struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    item: String,
    quantity: u32,
}

/// The orders taken, in order.
type Orders = Arc<Mutex<Vec<Order>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
    let idempotency = IdempotencyLayer::new(tracker.clone(), Policy::new(Scope::global()))?;

    let app = Router::new()
        .route("/orders", post(order).get(list))
        .layer(idempotency)
        .with_state(Orders::default());

    serve(args.listen, app, tracker).await?;
    println!("stopped");
    Ok(())
}

/// `POST /orders`: an ordinary handler. That it does not run twice is the layer's business.
async fn order(State(orders): State<Orders>, Json(order): Json<Order>) -> Response {
    if order.quantity == 0 {
        // Nothing was done: the key may be used again.
        return (StatusCode::BAD_REQUEST, Extension(Disposition::Release), "an order of nothing\n")
            .into_response();
    }
    let number = {
        let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.push(order.clone());
        orders.len()
    };
    (StatusCode::CREATED, [(header::LOCATION, format!("/orders/{number}"))], Json(order)).into_response()
}

/// `GET /orders`: the orders taken.
async fn list(State(orders): State<Orders>) -> Json<Vec<Order>> {
    Json(orders.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
