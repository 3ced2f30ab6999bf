//! Hints that somebody's claim has ended: one connection a store that listens, for all who wait on this node.

use std::{
    future::poll_fn,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use idempotency_core::{RequestId, StoreError};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client};

use crate::{
    PostgresConfig,
    error::{late, store_error},
};

/// A hint that finds no room is not missed: whoever waits reads the record again sooner or later.
const WAITING: usize = 1024;

/// Between two attempts to listen.
const REST: Duration = Duration::from_millis(200);

/// How often a server that says nothing is asked whether it is there; and so long it has to answer.
const ALIVE: Duration = Duration::from_secs(2);

pub(crate) struct Push {
    hints: broadcast::Sender<RequestId>,
    is_listening: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Push {
    pub(crate) fn new() -> Self {
        Self {
            hints: broadcast::channel(WAITING).0,
            is_listening: watch::channel(false).0,
            task: Mutex::default(),
        }
    }

    /// Listens, and again whenever the connection is lost; returns when it does, or why it cannot.
    pub(crate) async fn start(&self, config: &PostgresConfig, channel: &str) -> Result<(), StoreError> {
        if *self.is_listening.borrow() {
            return Ok(());
        }
        let (config, channel) = (config.clone(), channel.to_owned());
        let limit = config.call_limit;
        let listener = timeout(limit, Listener::connect(&config, &channel, self.hints.clone()));
        let mut listener = Some(listener.await.map_err(|_| late().not_applied())??);
        let (hints, is_listening) = (self.hints.clone(), self.is_listening.clone());
        is_listening.send_replace(true);
        let task = tokio::spawn(async move {
            loop {
                if let Some(listener) = listener.take() {
                    listener.listen().await;
                }
                is_listening.send_replace(false);
                sleep(REST).await;
                match timeout(ALIVE, Listener::connect(&config, &channel, hints.clone())).await {
                    Ok(Ok(connected)) => {
                        listener = Some(connected);
                        is_listening.send_replace(true);
                    }
                    failed => tracing::debug!(?failed, "nobody tells of settled ids"),
                }
            }
        });
        if let Some(earlier) = self.task.lock().unwrap_or_else(PoisonError::into_inner).replace(task) {
            earlier.abort();
        }
        Ok(())
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
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that listens. Its other half is polled by a task that ends with it.
#[derive(Debug)]
struct Listener {
    client: Client,
    reader: JoinHandle<()>,
}

impl Listener {
    async fn connect(
        config: &PostgresConfig,
        channel: &str,
        hints: broadcast::Sender<RequestId>,
    ) -> Result<Self, StoreError> {
        let driver = config.driver()?;
        #[cfg(not(feature = "tls"))]
        let (client, mut connection) = driver.connect(tokio_postgres::NoTls).await.map_err(store_error)?;
        #[cfg(feature = "tls")]
        let (client, mut connection) =
            driver.connect(crate::tls::connector(config)?).await.map_err(store_error)?;
        let reader = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(said) = message
                    && let Some(id) = parsed(said.payload())
                {
                    // Nobody may be listening.
                    let _ = hints.send(id);
                }
            }
        });
        let listener = Self { client, reader };
        listener.client.batch_execute(&format!("LISTEN {channel}")).await.map_err(store_error)?;
        Ok(listener)
    }

    /// As long as the server is there.
    async fn listen(self) {
        loop {
            sleep(ALIVE).await;
            if !matches!(timeout(ALIVE, self.client.batch_execute("")).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// An id in hexadecimal digits, as the statement puts it.
fn parsed(payload: &str) -> Option<RequestId> {
    let mut id = [0; 32];
    let digits = payload.as_bytes();
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (byte, digits) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(RequestId::from_bytes(id))
}
