//! The suite on the store in memory, and on stores that are wrong on purpose.

mod wrong;

use idempotency_store_memory::MemoryStore;
use idempotency_store_testkit::{OnManualClock, conformance};

conformance!(OnManualClock::new(MemoryStore::new));
