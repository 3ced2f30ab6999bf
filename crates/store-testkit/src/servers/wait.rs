use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a server may take until it answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a condition rests before it is asked again.
const REST: Duration = Duration::from_millis(10);

/// Waits until something that a real server does has come to be. It asks again and again, since a server tells nobody.
///
/// ```no_run
/// use idempotency_store_testkit::servers::{Redis, until};
///
/// # async fn test(redis: Redis) {
/// until("a client", async || redis.command(&["INFO", "clients"]).contains("connected_clients:2")).await;
/// # }
/// ```
///
/// # Panics
///
/// It does not come to be within twenty seconds.
pub async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let since = now();
    while !is_true().await {
        assert!(since.elapsed() < PATIENCE, "waiting for {what}");
        tokio::time::sleep(REST).await;
    }
}

/// The same, which blocks.
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let since = now();
    while !is_true() {
        assert!(since.elapsed() < PATIENCE, "waiting for {what}");
        thread::sleep(REST);
    }
}

#[expect(clippy::disallowed_methods, reason = "a real server takes real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
