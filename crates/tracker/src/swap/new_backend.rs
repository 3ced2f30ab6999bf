use std::{sync::Arc, time::Duration};

use actix::Recipient;
use idempotency_core::{Capabilities, Store};
use tokio::runtime;

use super::policy::{Records, SwapPolicy};
use crate::{
    ActorStore, ReadThrough, StoreBatch,
    backend::{Start, StartBackend},
    host::backends,
    store_actor::Child,
};

/// A backend that a tracker may move to.
pub(crate) struct NewBackend {
    store: Arc<dyn Store>,
    /// One that somebody else started.
    foreign: Option<Recipient<StoreBatch>>,
    pub(crate) capabilities: Capabilities,
}

impl NewBackend {
    pub(crate) fn store(store: impl Store) -> Self {
        Self { capabilities: store.capabilities(), store: Arc::new(store), foreign: None }
    }

    pub(crate) fn actor(recipient: Recipient<StoreBatch>, capabilities: Capabilities) -> Self {
        let store = ActorStore::new(recipient.clone(), capabilities);
        Self { capabilities: store.capabilities(), store: Arc::new(store), foreign: Some(recipient) }
    }

    /// What starts its actor, in front of the old store if it is to be read through. The store's own code runs on the
    /// runtime.
    pub(crate) fn start(
        self,
        policy: &SwapPolicy,
        old: Arc<dyn Store>,
        runtime: runtime::Handle,
        limit: Duration,
    ) -> StartBackend {
        match (policy.records, self.foreign) {
            (Records::ReadThrough, _) => {
                backends(Arc::new(ReadThrough::new(self.store, old)), limit)(runtime)
            }
            (_, Some(recipient)) => Arc::new(Foreign { recipient, store: self.store }),
            (_, None) => backends(Arc::new(self.store), limit)(runtime),
        }
    }
}

/// Started and supervised by somebody else: a restart finds the same one.
struct Foreign {
    recipient: Recipient<StoreBatch>,
    store: Arc<dyn Store>,
}

impl Start for Foreign {
    fn start(&self) -> Child {
        Child { recipient: self.recipient.clone(), at_once: None }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}
