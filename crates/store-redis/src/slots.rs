//! Which primary of a cluster has which slots, for calls that wait on connections of their own.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use idempotency_core::{StoreError, StoreErrorKind};
use redis::{Value, cluster_routing::Slot};
use tokio::time::Instant;

use crate::{RedisConfig, error::unexpected, waits::Waits};

/// Host and port.
pub(crate) type Node = (String, u16);

pub(crate) struct Slots {
    config: RedisConfig,
    known: Mutex<Known>,
    /// One asks for all.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    of_slots: HashMap<Slot, Arc<Node>>,
    read_at: Option<Instant>,
    waits: HashMap<Arc<Node>, Waits>,
}

impl Slots {
    pub(crate) fn new(config: &RedisConfig) -> Self {
        Self { config: config.clone(), known: Mutex::default(), reading: tokio::sync::Mutex::new(()) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster is asked first if what is known of it is older than `since`.
    pub(crate) async fn waits_of(
        &self,
        slot: Slot,
        since: Option<Instant>,
        read: impl Future<Output = Result<Value, StoreError>>,
    ) -> Result<Waits, StoreError> {
        let is_old = || self.known().read_at.is_none_or(|read_at| since.is_some_and(|since| read_at < since));
        if is_old() {
            let _one = self.reading.lock().await;
            if is_old() {
                let read_at = Instant::now();
                let ranges = self.ranges(read.await?)?;
                let mut known = self.known();
                known.waits.retain(|node, _| ranges.iter().any(|(_, _, other)| other == node));
                known.of_slots.clear();
                for (from, to, node) in ranges {
                    known.of_slots.extend((from..=to).filter_map(Slot::new).map(|slot| (slot, node.clone())));
                }
                known.read_at = Some(read_at);
            }
        }
        let node = self.known().of_slots.get(&slot).cloned();
        let nobody = || {
            self.forget();
            StoreError::new(StoreErrorKind::Unavailable, "no node of the cluster has this slot").not_applied()
        };
        self.waits_at(node.ok_or_else(nobody)?)
    }

    pub(crate) fn waits_at(&self, node: Arc<Node>) -> Result<Waits, StoreError> {
        let mut known = self.known();
        if let Some(waits) = known.waits.get(&node) {
            return Ok(waits.clone());
        }
        let waits = Waits::start(self.config.client_of(&node)?, &self.config);
        known.waits.insert(node, waits.clone());
        Ok(waits)
    }

    /// What is known may be wrong by now.
    pub(crate) fn forget(&self) {
        self.known().read_at = None;
    }

    /// Where the node is that had the slot when it was last looked.
    pub(crate) fn host_of(&self, slot: Slot) -> Option<String> {
        self.known().of_slots.get(&slot).map(|node| node.0.clone())
    }

    /// Each once, in an order of their own, and a number that is another one when another has a slot.
    pub(crate) fn primaries(&self, answer: Value) -> Result<(Vec<Node>, u64), StoreError> {
        let mut ranges = self.ranges(answer)?;
        ranges.sort_unstable();
        let mut hasher = DefaultHasher::new();
        ranges.hash(&mut hasher);
        let mut primaries: Vec<Arc<Node>> = ranges.into_iter().map(|(_, _, node)| node).collect();
        primaries.sort_unstable();
        primaries.dedup();
        Ok((primaries.into_iter().map(Arc::unwrap_or_clone).collect(), hasher.finish()))
    }

    /// Whether all of it may be connected to.
    pub(crate) fn check(&self, answer: Value) -> Result<(), StoreError> {
        self.ranges(answer)?.iter().try_for_each(|(_, _, node)| self.config.client_of(node).map(drop))
    }

    /// What `CLUSTER SLOTS` says: for each range from, to, the primary as host, port and more, and its replicas.
    fn ranges(&self, answer: Value) -> Result<Vec<(u16, u16, Arc<Node>)>, StoreError> {
        let Value::Array(ranges) = answer else { return Err(unexpected()) };
        ranges.into_iter().map(|range| self.range(range).ok_or_else(unexpected)).collect()
    }

    fn range(&self, range: Value) -> Option<(u16, u16, Arc<Node>)> {
        let Value::Array(parts) = range else { return None };
        let mut parts = parts.into_iter();
        let (Value::Int(from), Value::Int(to), Value::Array(node)) =
            (parts.next()?, parts.next()?, parts.next()?)
        else {
            return None;
        };
        let mut node = node.into_iter();
        let host: Option<String> = redis::from_redis_value(node.next()?).ok()?;
        let Value::Int(port) = node.next()? else { return None };
        // A node that does not know its own address is where it was asked.
        let host = host.filter(|host| !host.is_empty()).or_else(|| self.config.first_host())?;
        let node = (host, port.try_into().ok()?);
        Some((from.try_into().ok()?, to.try_into().ok()?, node.into()))
    }
}
