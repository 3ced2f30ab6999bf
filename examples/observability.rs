//! A service that shows what its tracker does: metrics for Prometheus at `/metrics`, and OpenTelemetry spans, here printed,
//! that lead from a request to the calls of the store, and from a replay to the request that did the work.
//!
//! ```sh
//! cargo run --example observability
//! curl -i http://127.0.0.1:8082/charges -H 'Idempotency-Key: order-1' -d 'amount=10'     # twice
//! curl http://127.0.0.1:8082/metrics
//! ```

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

mod serve;

use std::{error::Error, net::SocketAddr};

use axum::{Router, extract::Request, middleware, middleware::Next, response::Response, routing};
use clap::Parser;
use idempotency::{
    MemoryStore, Scope, Tracker,
    axum::{IdempotencyLayer, Policy, ReplayOf, TraceParent},
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_stdout::SpanExporter;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::serve::serve;

/// A service that shows what its tracker does.
#[derive(Parser)]
struct Args {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8082")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();

    // Spans. A real service exports them with `opentelemetry-otlp`; nothing else changes.
    let spans = SdkTracerProvider::builder().with_simple_exporter(SpanExporter::default()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer("observability"));
    let layer = layer.with_location(false).with_threads(false).with_target(false);
    // The tracker's own spans are at DEBUG: `track`, `settle`, and `store` for each call. RUST_LOG says otherwise.
    let filter = EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info,idempotency_tracker=debug"));
    tracing_subscriber::registry().with(filter).with(layer).init();

    // Metrics. The recorder must be there before the tracker is.
    let buckets = [0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0];
    let store_calls = Matcher::Full("idempotency_store_call_seconds".to_owned());
    let metrics =
        PrometheusBuilder::new().set_buckets_for_metric(store_calls, &buckets)?.install_recorder()?;

    let tracker = Tracker::builder(MemoryStore::new()).spawn().await?;
    let policy = Policy::new(Scope::global()).trace(|_| here());
    let app = Router::new()
        .route("/charges", routing::post(charge))
        .layer(IdempotencyLayer::new(tracker.clone(), policy)?)
        .layer(middleware::from_fn(traced))
        .route("/metrics", routing::get(async move || metrics.render()));

    serve(args.listen, app, tracker).await?;
    spans.shutdown()?;
    println!("stopped");
    Ok(())
}

/// `POST /charges`: the work, in a span of its own.
async fn charge() -> String {
    tracing::info_span!("charge").in_scope(|| "charged\n".to_owned())
}

/// A span for each request; that of a replay is linked to where the work was done.
async fn traced(request: Request, next: Next) -> Response {
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        method = %request.method(),
        path = request.uri().path(),
    );
    let response = next.run(request).instrument(span.clone()).await;
    if let Some(ReplayOf(original)) = response.extensions().get() {
        span.add_link(SpanContext::new(
            TraceId::from_bytes(original.trace_id()),
            SpanId::from_bytes(original.span_id()),
            TraceFlags::new(original.flags()),
            true,
            TraceState::NONE,
        ));
    }
    response
}

/// Where we are, to be kept with the record of a request.
fn here() -> Option<TraceParent> {
    let context = Span::current().context();
    let span = context.span();
    let at = span.span_context();
    TraceParent::new(at.trace_id().to_bytes(), at.span_id().to_bytes(), at.trace_flags().to_u8())
}
