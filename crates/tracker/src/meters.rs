//! What is counted, for whatever recorder of the `metrics` facade the application has installed before it spawns a tracker.
//! The names are documented in README.md. No id is ever a label.

use std::time::Duration;

use idempotency_engine::{Happened, Load};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// Every outcome of a `Track`: the words of `Tracked::outcome`, and those of errors.
const OUTCOMES: [&str; 9] = [
    "init",
    "processing",
    "cached",
    "halted",
    "mismatch",
    "overloaded",
    "shutting_down",
    "unavailable",
    "invalid",
];

const OPERATIONS: [&str; 12] = [
    "setup", "lookup", "insert", "renew", "complete", "halt", "release", "forget", "prune", "scan",
    "restore", "watch",
];

const HAPPENED: [(&str, &str); 7] = [
    ("orphaned", "Requests whose caller was found to be gone, and of which nobody knows what it did"),
    ("superseded", "Results that were not stored: somebody else had the record"),
    ("gone", "Results that were not stored: the record had expired"),
    ("deferred", "Results that the store did not take in time, and that were tried again"),
    ("not_kept", "Responses of which only the fact was kept: there was no room for more"),
    ("unstored", "Results that were not stored when the tracker ended"),
    ("resumed", "Claims whose reply was lost and that were found to be made"),
];

pub(crate) struct Meters {
    requests: Vec<(&'static str, Counter)>,
    calls: Vec<(&'static str, Histogram)>,
    happened: Vec<(&'static str, Counter)>,
    live: Gauge,
    in_flight: Gauge,
    queued: Gauge,
    waiting: Gauge,
    deferred_bytes: Gauge,
    backend_up: Gauge,
    breaker_open: Gauge,
    pub(crate) leases_lost: Counter,
    pub(crate) pruned: Counter,
    restarts: Counter,
    replaced: Counter,
}

impl Meters {
    pub(crate) fn new() -> Self {
        describe_counter!("idempotency_requests_total", "Requests by what they heard");
        describe_histogram!(
            "idempotency_store_call_seconds",
            Unit::Seconds,
            "Calls of the store from the tracker and back, with the time in a batch"
        );
        describe_counter!(
            "idempotency_leases_lost_total",
            "Leases that could not be kept while their caller worked"
        );
        describe_counter!("idempotency_pruned_total", "Expired records that were deleted");
        describe_counter!("idempotency_backend_restarts_total", "How often the backend actor was restarted");
        describe_counter!(
            "idempotency_tracker_replaced_total",
            "How often the tracker actor was: a bug each"
        );
        describe_gauge!("idempotency_live", "Claims whose permit lives in this process");
        describe_gauge!("idempotency_in_flight", "What counts against `max_in_flight`");
        describe_gauge!("idempotency_queued", "What counts against `max_queued`");
        describe_gauge!("idempotency_waiting", "Callers that wait for what somebody else makes of it");
        describe_gauge!(
            "idempotency_deferred_bytes",
            Unit::Bytes,
            "Results that the store did not take so far"
        );
        describe_gauge!("idempotency_backend_up", "Whether the backend actor takes calls");
        describe_gauge!("idempotency_breaker_open", "Whether the circuit breaker is open");
        let happened = HAPPENED.map(|(what, description)| {
            let name = format!("idempotency_{what}_total");
            describe_counter!(name.clone(), description);
            (what, counter!(name))
        });
        Self {
            requests: OUTCOMES.map(|it| (it, counter!("idempotency_requests_total", "outcome" => it))).into(),
            calls: OPERATIONS
                .map(|it| (it, histogram!("idempotency_store_call_seconds", "operation" => it)))
                .into(),
            happened: happened.into(),
            live: gauge!("idempotency_live"),
            in_flight: gauge!("idempotency_in_flight"),
            queued: gauge!("idempotency_queued"),
            waiting: gauge!("idempotency_waiting"),
            deferred_bytes: gauge!("idempotency_deferred_bytes"),
            backend_up: gauge!("idempotency_backend_up"),
            breaker_open: gauge!("idempotency_breaker_open"),
            leases_lost: counter!("idempotency_leases_lost_total"),
            pruned: counter!("idempotency_pruned_total"),
            restarts: counter!("idempotency_backend_restarts_total"),
            replaced: counter!("idempotency_tracker_replaced_total"),
        }
    }

    pub(crate) fn request(&self, outcome: &str) {
        if let Some((_, counter)) = self.requests.iter().find(|(it, _)| *it == outcome) {
            counter.increment(1);
        }
    }

    pub(crate) fn call(&self, operation: &str, took: Duration) {
        if let Some((_, histogram)) = self.calls.iter().find(|(it, _)| *it == operation) {
            histogram.record(took.as_secs_f64());
        }
    }

    pub(crate) fn happened(&self, what: Happened) {
        let word = match what {
            Happened::Orphaned(_) => "orphaned",
            Happened::Superseded => "superseded",
            Happened::Gone => "gone",
            Happened::Deferred => "deferred",
            Happened::NotKept => "not_kept",
            Happened::Unstored => "unstored",
            Happened::Resumed => "resumed",
            _ => return,
        };
        if let Some((_, counter)) = self.happened.iter().find(|(it, _)| *it == word) {
            counter.increment(1);
        }
    }

    pub(crate) fn load(&self, load: Load, queued: usize) {
        self.live.set(load.live as f64);
        self.in_flight.set(load.in_flight as f64);
        self.queued.set(queued as f64);
        self.waiting.set(load.waiting as f64);
        self.deferred_bytes.set(load.deferred_bytes as f64);
    }

    pub(crate) fn backend(&self, is_up: bool, is_open: bool, restarts: u64) {
        self.backend_up.set(f64::from(u8::from(is_up)));
        self.breaker_open.set(f64::from(u8::from(is_open)));
        self.restarts.absolute(restarts);
    }

    pub(crate) fn replaced(&self, times: u64) {
        self.replaced.absolute(times);
    }
}

/// A request that the tracker never saw.
pub(crate) fn refused_at_the_door() {
    counter!("idempotency_requests_total", "outcome" => "overloaded").increment(1);
}
