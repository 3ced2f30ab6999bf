//! Hints that somebody's claim has ended: one subscription a store, for all who wait on this node.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use idempotency_core::{RequestId, StoreError};
use redis::{Client, RedisError, RedisResult};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::error::store_error;

/// A hint that finds no room is not missed: whoever waits reads the record again sooner or later.
const WAITING: usize = 1024;

/// For so long nothing may be heard of the server before it is asked whether it is there; and so long it has to answer.
const ALIVE: Duration = Duration::from_secs(2);

/// Between two attempts to subscribe.
const REST: Duration = Duration::from_millis(200);

pub(crate) struct Push {
    hints: broadcast::Sender<RequestId>,
    is_subscribed: watch::Receiver<bool>,
    failure: Arc<Mutex<Option<StoreError>>>,
    task: JoinHandle<()>,
}

impl Push {
    /// Subscribes, and again whenever the connection is lost. A cluster tells all its nodes, so any of them will do.
    pub(crate) fn start(clients: Vec<Client>, channel: Arc<[u8]>) -> Self {
        let (hints, _) = broadcast::channel(WAITING);
        let (tell, is_subscribed) = watch::channel(false);
        let (send, failure) = (hints.clone(), Arc::<Mutex<_>>::default());
        let last = failure.clone();
        let task = tokio::spawn(async move {
            for client in clients.iter().cycle() {
                if let Err(error) = listen(client, &channel, &send, &tell).await {
                    tracing::debug!(%error, "the subscription to settled ids is lost");
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(store_error(error));
                }
                tell.send_replace(false);
                sleep(REST).await;
            }
        });
        Self { hints, is_subscribed, failure, task }
    }

    /// Why the last subscription was lost, or did not come to be.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes with each subscription: after a loss it may be another server that is listened to.
    pub(crate) fn is_subscribed(&self) -> watch::Receiver<bool> {
        self.is_subscribed.clone()
    }

    /// Whether it is subscribed within this time.
    pub(crate) async fn is_ready(&self, within: Duration) -> bool {
        let mut is_subscribed = self.is_subscribed.clone();
        timeout(within, is_subscribed.wait_for(|is_subscribed| *is_subscribed))
            .await
            .is_ok_and(|ready| ready.is_ok())
    }

    pub(crate) fn hints(&self) -> BoxStream<'static, RequestId> {
        let hints = stream::unfold(self.hints.subscribe(), async |mut hints| {
            loop {
                match hints.recv().await {
                    Ok(id) => return Some((id, hints)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        hints.boxed()
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn listen(
    client: &Client,
    channel: &[u8],
    hints: &broadcast::Sender<RequestId>,
    tell: &watch::Sender<bool>,
) -> RedisResult<()> {
    let connected = timeout(ALIVE, async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(channel).await?;
        RedisResult::Ok(subscription)
    });
    let (mut sink, mut messages) = connected.await.map_err(|_| silent())??.split();
    tell.send_replace(true);
    loop {
        match timeout(ALIVE, messages.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(message)) => {
                if let Ok(id) = message.get_payload_bytes().try_into() {
                    // Nobody may be listening.
                    let _ = hints.send(RequestId::from_bytes(id));
                }
            }
            // A server that is gone without a word says nothing, either.
            Err(_) => {
                timeout(ALIVE, sink.ping::<redis::Value>()).await.map_err(|_| silent())??;
            }
        }
    }
}

fn silent() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
