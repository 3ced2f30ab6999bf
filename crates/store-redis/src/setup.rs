//! What a server must be like, asked of each primary.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use idempotency_core::{Durability, StoreError, StoreErrorKind, Survives};
use redis::Value;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    error::{misconfigured, unexpected},
    link::Link,
};

/// How often it is looked whether the servers still are what they were; and whether they are again.
const EVERY: Duration = Duration::from_secs(10);
const EVERY_WHILE_WRONG: Duration = Duration::from_millis(500);

/// The oldest that lets a script say that it may run when the memory is full.
const LOWEST_VERSION: u32 = 7;

/// What is wrong with the servers, or that they could not be asked.
pub(crate) async fn verify(
    link: &Link,
    durability: Durability,
) -> Result<Result<(), StoreError>, StoreError> {
    for info in link.of_all(redis::cmd("INFO")).await? {
        let info = redis::from_redis_value::<String>(info).map_err(|_| unexpected())?;
        if let Err(wrong) = verify_info(&info, durability) {
            return Ok(Err(wrong));
        }
    }
    if durability.local > Survives::Memory {
        // The second one lets the server put off its syncs while it writes the file anew.
        for (setting, needed) in [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")] {
            if let Err(wrong) = verify_setting(setting, needed, ask(link, setting).await?) {
                return Ok(Err(wrong));
            }
        }
    }
    Ok(Ok(()))
}

async fn ask(link: &Link, setting: &str) -> Result<Vec<Value>, StoreError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(setting);
    link.of_all(command).await.map_err(|error| match error.kind() {
        StoreErrorKind::Misconfigured => misconfigured(format!(
            "the server does not let this user read `{setting}`, so its durability cannot be verified"
        ))
        .with_source(error),
        _ => error,
    })
}

fn verify_setting(setting: &str, needed: &str, answers: Vec<Value>) -> Result<(), StoreError> {
    for answer in answers {
        let (_, is): (String, String) = redis::from_redis_value(answer).map_err(|_| unexpected())?;
        if is != needed {
            return Err(misconfigured(format!(
                "the store declares that it survives a crash; `{setting}` must be `{needed}`, and is `{is}`"
            )));
        }
    }
    Ok(())
}

fn verify_info(info: &str, durability: Durability) -> Result<(), StoreError> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
            .ok_or_else(unexpected)
    };
    let version = field("redis_version")?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < LOWEST_VERSION) {
        return Err(misconfigured(format!("the server has version {version}; {LOWEST_VERSION} is needed")));
    }
    let unavailable = |message| Err(StoreError::new(StoreErrorKind::Unavailable, message).not_applied());
    let role = field("role")?;
    if role != "master" {
        return unavailable(format!("the server is a {role}, and not the primary"));
    }
    let policy = field("maxmemory_policy")?;
    if policy != "noeviction" {
        return Err(misconfigured(format!(
            "`maxmemory-policy` is `{policy}`: it would evict claims and responses; it must be `noeviction`"
        )));
    }
    if durability.local > Survives::Memory {
        if field("aof_enabled")? != "1" {
            return Err(misconfigured(
                "the store declares that it survives a crash; `appendonly` must be `yes`",
            ));
        }
        if field("aof_last_write_status")? != "ok" {
            return unavailable("the server cannot write to its append-only file".to_owned());
        }
        // Switched on while it ran: until the first file is whole, a restart would read none of it.
        let is_first = field("aof_base_size")? == "0";
        if is_first && (field("aof_rewrite_in_progress")? != "0" || field("aof_rewrite_scheduled")? != "0") {
            return unavailable("the server still writes its first append-only file".to_owned());
        }
    }
    let replicas: u8 = field("connected_slaves")?.parse().unwrap_or(u8::MAX);
    if replicas < durability.replicas {
        let needed = durability.replicas;
        return unavailable(format!("the store declares {needed} replicas, and the server has {replicas}"));
    }
    Ok(())
}

/// Looks again whether the servers are as they must be: whenever the subscription was lost, since behind the address there may
/// be another server by then, and from time to time. As long as they are not, nothing is written.
#[derive(Default)]
pub(crate) struct Inspection {
    wrong: Arc<RwLock<Option<StoreError>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Inspection {
    /// Anew if it was begun before.
    pub(crate) fn begin(
        &self,
        link: Arc<Link>,
        durability: Durability,
        is_subscribed: watch::Receiver<bool>,
    ) {
        let task = tokio::spawn(keep(link, durability, is_subscribed, self.wrong.clone()));
        if let Some(earlier) = self.task().replace(task) {
            earlier.abort();
        }
    }

    /// What the last look has shown.
    pub(crate) fn verdict(&self) -> Result<(), StoreError> {
        let wrong = self.wrong.read().unwrap_or_else(PoisonError::into_inner).clone();
        wrong.map_or(Ok(()), |wrong| Err(wrong.retryable(true)))
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop(&self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }
}

impl Drop for Inspection {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn keep(
    link: Arc<Link>,
    durability: Durability,
    mut is_subscribed: watch::Receiver<bool>,
    wrong: Arc<RwLock<Option<StoreError>>>,
) {
    let mut every = EVERY;
    loop {
        if let Ok(Err(_)) = timeout(every, is_subscribed.changed()).await {
            return;
        }
        // That they cannot be asked says nothing of what they are like.
        let Ok(verdict) = verify(&link, durability).await else { continue };
        let verdict = verdict.err();
        every = if verdict.is_some() { EVERY_WHILE_WRONG } else { EVERY };
        if verdict.is_some() {
            // Perhaps the way leads to a former primary.
            link.renew();
        }
        let mut wrong = wrong.write().unwrap_or_else(PoisonError::into_inner);
        if verdict.is_some() != wrong.is_some() {
            match &verdict {
                Some(error) => tracing::error!(%error, "nothing is written to the store any more"),
                None => tracing::info!("the store is written to again"),
            }
        }
        *wrong = verdict;
    }
}
