//! The tracker where it is hot: a thousand callers that wait on each of three nodes, a store that is away for longer than a
//! lease.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{future::join_all, stream::BoxStream};
use idempotency::{
    ErrorKind, OnConcurrent, Once, Outcome, Record, RequestId, Scope, Track, Tracked, Tracker, TrackerHandle,
    store::{
        Capabilities, Claim, Inserted, Pruned, Setup, Store, StoreCommand, StoreError, StoreReply, Update,
        Updated,
    },
};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{
    nodes::{Kind, Server, on_each_server},
    support::soak,
};

on_each_server!(
    a_thousand_callers_on_each_of_three_nodes_wait_for_one_execution,
    i10_a_store_that_is_away_for_longer_than_a_lease_takes_nothing_from_those_who_were_served,
);

/// Counts the calls of a node.
struct Counted {
    store: Box<dyn Store>,
    calls: Arc<AtomicUsize>,
}

impl Counted {
    fn one(&self) -> &dyn Store {
        self.calls.fetch_add(1, Ordering::SeqCst);
        &*self.store
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

#[async_trait]
impl Store for Counted {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.store.setup(setup).await
    }
    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.one().lookup(id, now).await
    }
    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.one().insert(claim, now).await
    }
    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.one().update(update, now).await
    }
    async fn prune(&self, now: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.store.prune(now, limit).await
    }
    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        self.calls.fetch_add(batch.len(), Ordering::SeqCst);
        self.store.apply(batch, now).await
    }
    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.one().watch(id, now).await
    }
    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        self.store.settled()
    }
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(test);
}

fn id_of(tracker: &TrackerHandle, number: u64) -> RequestId {
    tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]])
}

#[expect(clippy::disallowed_methods, reason = "real servers tell of it in real time")]
fn a_thousand_callers_on_each_of_three_nodes_wait_for_one_execution(kind: Kind) {
    const CALLERS: usize = 1_000;
    let server = Server::start(kind);
    on_a_runtime(async {
        let runs = Arc::new(AtomicUsize::new(0));
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let calls = Arc::<AtomicUsize>::default();
            let store = Counted { store: server.open(None), calls: calls.clone() };
            nodes.push((Tracker::builder(store).spawn().await.unwrap(), calls));
        }
        let since = Instant::now();
        let callers = (0..3 * CALLERS).map(|caller| {
            let (tracker, runs) = (nodes[caller % 3].0.clone(), runs.clone());
            tokio::spawn(async move {
                let wait = OnConcurrent::Wait { at_most: Duration::from_secs(60) };
                let track = Track::new(id_of(&tracker, 1), tracker.fingerprint([])).on_concurrent(wait);
                let work = move |_| async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    sleep(Duration::from_secs(3)).await;
                    Outcome::<()>::done("the one answer")
                };
                tracker.once_with(track, work).await
            })
        });
        let answers = join_all(callers.collect::<Vec<_>>()).await;
        let took = since.elapsed();
        for answer in answers {
            let answer = answer.unwrap();
            let Ok(Once::Done { response, .. }) = answer else { panic!("{answer:?}") };
            assert_eq!(response.bytes().unwrap(), "the one answer");
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let most = 2 + took.as_secs().div_ceil(5) as usize;
        let calls: Vec<usize> = nodes.iter().map(|(_, calls)| calls.load(Ordering::SeqCst)).collect();
        eprintln!("3 nodes, {CALLERS} callers each: one execution, {took:?}, store calls by node {calls:?}");
        assert!(calls.iter().all(|calls| *calls <= most), "{calls:?} calls in {took:?}, at most {most} each");
    });
}

/// An answer, and how long it took.
struct Served {
    response: Bytes,
    took: Duration,
}

#[expect(clippy::disallowed_methods, reason = "a real server is away in real time")]
fn i10_a_store_that_is_away_for_longer_than_a_lease_takes_nothing_from_those_who_were_served(kind: Kind) {
    // The defaults in a soak; a fifth of the time otherwise.
    let (lease, store_limit, away) = match soak(2) {
        1 => (Duration::from_secs(3), Duration::from_secs(1), Duration::from_secs(6)),
        _ => (Duration::from_secs(15), Duration::from_secs(2), Duration::from_secs(30)),
    };
    let mut server = Server::start(kind);
    on_a_runtime(async {
        let tracker = Tracker::builder(server.open(None)).lease(lease).store_limit(store_limit);
        let tracker = tracker.spawn().await.unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let served = Arc::new(Mutex::new(HashMap::<u64, Served>::new()));
        let runs = Arc::new(Mutex::new(HashMap::<u64, usize>::new()));
        let refused = Arc::<AtomicUsize>::default();
        let callers: Vec<_> = (0..16_u64)
            .map(|caller| {
                let (tracker, is_over, served) = (tracker.clone(), is_over.clone(), served.clone());
                let (runs, refused) = (runs.clone(), refused.clone());
                tokio::spawn(async move {
                    for number in (0..).map(|round| round * 16 + caller) {
                        if is_over.load(Ordering::SeqCst) {
                            return;
                        }
                        let counted = runs.clone();
                        let work = move || async move {
                            *counted.lock().unwrap().entry(number).or_default() += 1;
                            sleep(Duration::from_millis(50)).await;
                            Outcome::<()>::done(format!("answer {number}"))
                        };
                        let since = Instant::now();
                        match tracker.once(id_of(&tracker, number), tracker.fingerprint([]), work).await {
                            Ok(Once::Done { response, .. }) => {
                                let response = response.bytes().unwrap().clone();
                                let it = Served { response, took: since.elapsed() };
                                served.lock().unwrap().insert(number, it);
                            }
                            Err(error) => {
                                let ErrorKind::Unavailable { retry_after } = *error.kind() else {
                                    panic!("{error:?}")
                                };
                                assert!(retry_after >= Duration::from_secs(1), "{retry_after:?}");
                                refused.fetch_add(1, Ordering::SeqCst);
                                sleep(Duration::from_millis(20)).await;
                            }
                            other => panic!("{number}: {other:?}"),
                        }
                    }
                })
            })
            .collect();
        let has_served = async |count: usize| {
            let since = Instant::now();
            while served.lock().unwrap().len() < count {
                assert!(since.elapsed() < Duration::from_secs(30), "nobody is served");
                sleep(Duration::from_millis(10)).await;
            }
        };
        has_served(50).await;
        tokio::task::block_in_place(|| server.kill());
        sleep(away).await;
        let deferred = tracker.status().await.unwrap().live;
        // The node that has them answers, after its leases have lapsed.
        let held: Vec<u64> = served.lock().unwrap().keys().copied().collect();
        let mut from_here = 0;
        for number in &held {
            match tracker.track((id_of(&tracker, *number), tracker.fingerprint([]))).await {
                Ok(Tracked::Cached { .. }) => from_here += 1,
                Err(error) => assert!(error.is_retryable()),
                other => panic!("{number}: {other:?}"),
            }
        }
        assert!(from_here >= deferred, "{from_here} of {deferred}");
        tokio::task::block_in_place(|| server.restart());
        let so_far = served.lock().unwrap().len();
        has_served(so_far + 50).await;
        is_over.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        let served = std::mem::take(&mut *served.lock().unwrap());
        for (number, it) in &served {
            match tracker.track((id_of(&tracker, *number), tracker.fingerprint([]))).await {
                Ok(Tracked::Cached { response, .. }) => assert_eq!(response.bytes(), Some(&it.response)),
                other => panic!("{number} was served, and now {other:?}"),
            }
        }
        let longest = served.values().map(|it| it.took).max().unwrap();
        let (refused, twice) =
            (refused.load(Ordering::SeqCst), runs.lock().unwrap().values().filter(|runs| **runs > 1).count());
        eprintln!(
            "away for {away:?}: {} served, the longest within {longest:?}; {deferred} deferred, {from_here} answered \
             from here; {refused} refused; {twice} twice",
            served.len()
        );
        // `put_patience` is a second; before it the claim and the work.
        assert!(longest < Duration::from_secs(3), "{longest:?}");
        assert!(refused > 0 && twice == 0);
    });
}
