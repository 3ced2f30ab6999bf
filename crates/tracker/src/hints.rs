use futures_util::StreamExt;
use idempotency_core::Store;
use tokio::{runtime, task::AbortHandle};

use crate::inbox::{Inbox, Input};

/// Brings the hints of a store that pushes to the tracker. One subscription for a node.
pub(crate) struct Hints {
    inbox: Inbox,
    runtime: runtime::Handle,
    task: Option<AbortHandle>,
}

impl Hints {
    pub(crate) fn new(inbox: Inbox, runtime: runtime::Handle) -> Self {
        Self { inbox, runtime, task: None }
    }

    pub(crate) fn listen_once_to(&mut self, store: &dyn Store) {
        if self.task.is_none() {
            self.listen_to(store);
        }
    }

    /// To this store from now on.
    pub(crate) fn listen_to(&mut self, store: &dyn Store) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        if store.capabilities().push
            && let Some(mut settled) = store.settled()
        {
            let inbox = self.inbox.clone();
            let bring = async move {
                while let Some(id) = settled.next().await {
                    inbox.push(Input::Hinted { id });
                }
            };
            self.task = Some(self.runtime.spawn(bring).abort_handle());
        }
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
