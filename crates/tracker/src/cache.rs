//! Completed records that this node has read lately: handles answer replays from them on the caller's thread.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use idempotency_core::{Clock, Fingerprint, Meta, RequestId, StoredResponse};
use metrics::{Counter, counter};
use quick_cache::{Weighter, sync::Cache};
use time::OffsetDateTime;

use crate::{Tracked, track::Defaults};

/// What an entry costs beside its meta and body.
const OVERHEAD: usize = 320;

/// What expires sooner is not kept. Callers that waited for a result here hear an expiry that was reckoned here, which is later than
/// the store's by as long as the put took.
const LEAST_LIFE: time::Duration = time::Duration::MINUTE;

/// Shared by handles, which only read it, and the tracker actor, which alone puts records in and empties it: so none that was
/// forgotten or left behind by a swap comes in after that.
#[derive(Clone)]
pub(crate) struct ReadCache(Option<Arc<Shared>>);

struct Shared {
    records: Cache<RequestId, Arc<Completed>, Bytes>,
    ttl: Duration,
    clock: Arc<dyn Clock>,
    defaults: Defaults,
    /// A shutdown has begun.
    is_closed: AtomicBool,
    replays: Counter,
}

struct Completed {
    fingerprint: Fingerprint,
    response: StoredResponse,
    meta: Meta,
    expires_at: OffsetDateTime,
    /// Not served later than this.
    until: OffsetDateTime,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<RequestId, Arc<Completed>> for Bytes {
    fn weight(&self, _: &RequestId, completed: &Arc<Completed>) -> u64 {
        (OVERHEAD + completed.meta.as_bytes().len() + completed.response.kept_len()) as u64
    }
}

impl ReadCache {
    /// Nothing is kept if it may have no bytes, or no time.
    pub(crate) fn new(max_bytes: usize, ttl: Duration, clock: Arc<dyn Clock>, defaults: Defaults) -> Self {
        if max_bytes == 0 || ttl.is_zero() {
            return Self(None);
        }
        let shared = Shared {
            records: Cache::with_weighter(max_bytes / 1024, max_bytes as u64, Bytes),
            ttl,
            clock,
            defaults,
            is_closed: AtomicBool::new(false),
            replays: counter!("idempotency_requests_total", "outcome" => "cached"),
        };
        Self(Some(Arc::new(shared)))
    }

    /// The answer to a `Track`, if it is a replay of what is here. Whatever else it may be says the tracker.
    pub(crate) fn get(&self, track: &crate::Track) -> Option<Tracked> {
        let shared = self.0.as_ref()?;
        let completed = shared.records.get(&track.id)?;
        let is_replay = completed.fingerprint == track.fingerprint
            && !track.is_of_operator()
            && completed.until > shared.clock.now()
            && track.check(&shared.defaults).is_ok()
            && !shared.is_closed.load(Ordering::Acquire);
        is_replay.then(|| {
            shared.replays.increment(1);
            let Completed { response, meta, expires_at, .. } = &*completed;
            Tracked::Cached { response: response.clone(), expires_at: *expires_at, meta: meta.clone() }
        })
    }

    /// What a `Track` was just answered with. Whatever is no replay says that what is here may be so no longer.
    pub(crate) fn heard(
        &self,
        id: RequestId,
        fingerprint: Fingerprint,
        tracked: &Tracked,
        now: OffsetDateTime,
    ) {
        let (Some(shared), Tracked::Cached { response, expires_at, meta }) = (&self.0, tracked) else {
            return self.remove(&id);
        };
        if *expires_at - now < LEAST_LIFE {
            // What is here may be of a record before this one.
            return self.remove(&id);
        }
        let ttl = shared.ttl.try_into().unwrap_or(time::Duration::MAX);
        let completed = Completed {
            fingerprint,
            // Its bytes are those that the store read, or in memory keeps: a copy would take up room for nothing.
            response: response.clone(),
            meta: meta.clone(),
            expires_at: *expires_at,
            until: now.saturating_add(ttl).min(*expires_at),
        };
        shared.records.insert(id, Arc::new(completed));
    }

    /// It is not there, or about to be another one.
    pub(crate) fn remove(&self, id: &RequestId) {
        if let Some(shared) = &self.0 {
            shared.records.remove(id);
        }
    }

    /// Something was forgotten, or the records are elsewhere.
    pub(crate) fn clear(&self) {
        if let Some(shared) = &self.0 {
            shared.records.clear();
        }
    }

    /// From now on nobody is served.
    pub(crate) fn close(&self) {
        if let Some(shared) = &self.0 {
            shared.is_closed.store(true, Ordering::Release);
            shared.records.clear();
        }
    }
}

impl fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadCache").field(&self.0.as_ref().map(|shared| shared.records.len())).finish()
    }
}
