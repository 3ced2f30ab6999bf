//! The suite on the store in memory, and on stores that are wrong on purpose.

mod history;
mod timed;
mod wrong;

use idempotency_store_memory::MemoryStore;
use idempotency_store_testkit::{OnManualClock, conformance};

/// Twenty runs of the soak make ten thousand.
fn sequences() -> u32 {
    if std::env::var_os("IDEMPOTENCY_SOAK").is_some() { 500 } else { 100 }
}

conformance!(OnManualClock::new(MemoryStore::new).sequences(sequences()));
