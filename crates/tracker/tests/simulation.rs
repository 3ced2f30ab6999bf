//! Three nodes on one store, in simulated time: requests and replies are lost, come late, nodes are cut off, their clocks
//! disagree and jump. All of it follows from a seed, and what the callers of the store saw is judged by the checker.
//!
//! `IDEMPOTENCY_SEED=17 cargo test -p idempotency-tracker --test tracker simulation -- --nocapture` runs one seed.

use std::{
    collections::HashSet,
    env, fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    future::join_all,
    stream::{self, BoxStream},
};
use idempotency_core::*;
use idempotency_store_memory::MemoryStore;
use idempotency_store_testkit::history::{RecordedStore, Recorder, Summary, check};
use idempotency_tracker::{
    OnConcurrent, OnOrphan, Placement, Resolution, Track, Tracked, Tracker, TrackerHandle,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use time::OffsetDateTime;
use tokio::{
    sync::broadcast,
    task::spawn_local,
    time::{Instant, sleep},
};

use crate::support::{id, payload, virtual_time};

/// How far off the clock of each node is, in seconds.
const OFF: [i64; 3] = [0, 600, -600];
const CALLERS: u64 = 3;
const KEYS: u64 = 6;
const LEASE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(1);
/// How long there is load.
const LOAD: Duration = Duration::from_secs(60);

/// Simulated time, and how far off a node thinks it is.
#[derive(Debug, Clone)]
struct SimClock {
    start: Instant,
    off: Arc<AtomicI64>,
}

impl SimClock {
    fn new(off_seconds: i64) -> Self {
        Self { start: Instant::now(), off: Arc::new(AtomicI64::new(off_seconds * 1000)) }
    }
}

impl Clock for SimClock {
    fn now(&self) -> OffsetDateTime {
        let off = time::Duration::milliseconds(self.off.load(Ordering::SeqCst));
        OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000) + self.start.elapsed() + off
    }
}

/// The one store, which goes by its own clock.
struct Shared {
    store: MemoryStore,
    clock: SimClock,
    wanted: Mutex<HashSet<RequestId>>,
    /// Who has had a claim. A copy of an insert that lands after its end would be a second claim of the same owner, of which the
    /// checker knows nothing; what the tracker makes of that is explored by the engine's models.
    lived: Mutex<HashSet<Owner>>,
    hints: broadcast::Sender<RequestId>,
    /// A wrong store: it says that it has renewed a lease, and has not.
    is_forgetful: bool,
    /// Nothing goes wrong, before the load and after it.
    calm: AtomicBool,
}

/// A node's way to it.
struct Link {
    shared: Arc<Shared>,
    clock: SimClock,
    random: Mutex<StdRng>,
    /// When this node is cut off, in seconds since the start.
    cuts: Vec<(f64, f64)>,
}

/// What becomes of a call.
struct Fate {
    there: Duration,
    back: Duration,
    request_lost: bool,
    /// A lost request comes all the same, so much later.
    late: Option<Duration>,
    reply_lost: bool,
}

impl Link {
    fn fate(&self) -> Fate {
        let mut random = self.random.lock().unwrap();
        let millis = |random: &mut StdRng, most| Duration::from_millis(random.random_range(0..most));
        Fate {
            there: millis(&mut random, 30),
            back: millis(&mut random, 30),
            request_lost: random.random_bool(0.03),
            late: random.random_bool(0.5).then(|| millis(&mut random, 1_500)),
            reply_lost: random.random_bool(0.03),
        }
    }

    fn is_cut(&self) -> bool {
        let now = self.clock.start.elapsed().as_secs_f64();
        self.cuts.iter().any(|(from, to)| (*from..*to).contains(&now))
    }

    async fn call(&self, command: StoreCommand) -> Result<StoreReply, StoreError> {
        let (fate, calm) = (self.fate(), || self.shared.calm.load(Ordering::SeqCst));
        let lost = async || {
            // Its caller has given it up by then.
            sleep(LIMIT * 2).await;
            Err(StoreError::new(StoreErrorKind::TimedOut, "nothing came back"))
        };
        sleep(fate.there).await;
        if !calm() && (fate.request_lost || self.is_cut()) {
            if let Some(late) = fate.late {
                let shared = self.shared.clone();
                drop(tokio::spawn(async move {
                    sleep(late).await;
                    shared.carry_out_late(&command).await;
                }));
            }
            return lost().await;
        }
        let reply = self.shared.carry_out(&command).await;
        sleep(fate.back).await;
        if !calm() && (fate.reply_lost || self.is_cut()) {
            return lost().await;
        }
        reply.map(|reply| self.in_own_time(reply))
    }

    /// The times of records as this node's clock has them.
    fn in_own_time(&self, reply: StoreReply) -> StoreReply {
        let off = self.clock.now() - self.shared.clock.now();
        let turned = |mut record: Box<Record>| {
            record.claimed_at += off;
            record.expires_at += off;
            if let State::Processing { lease_until } = &mut record.state {
                *lease_until += off;
            }
            record
        };
        match reply {
            StoreReply::Found(found) => StoreReply::Found(found.map(turned)),
            StoreReply::Inserted(Inserted::Exists(record)) => {
                StoreReply::Inserted(Inserted::Exists(turned(record)))
            }
            other => other,
        }
    }
}

impl Shared {
    async fn carry_out_late(&self, command: &StoreCommand) {
        if let StoreCommand::Insert(claim) = command {
            let record = self.store.lookup(&claim.id, self.clock.now()).await.unwrap();
            let is_its = record.is_some_and(|record| record.owner == claim.owner);
            if self.lived.lock().unwrap().contains(&claim.owner) && !is_its {
                return;
            }
        }
        let _ = self.carry_out(command).await;
    }

    async fn carry_out(&self, command: &StoreCommand) -> Result<StoreReply, StoreError> {
        let now = self.clock.now();
        if self.is_forgetful
            && let StoreCommand::Update(update) = command
            && matches!(update.change, Change::Renew { .. })
        {
            return Ok(StoreReply::Updated(Updated::Applied));
        }
        if let StoreCommand::Watch(id) = command {
            self.wanted.lock().unwrap().insert(*id);
            return Ok(StoreReply::Found(self.store.lookup(id, now).await?.map(Box::new)));
        }
        let reply = command.call(&self.store, now).await;
        if let (StoreCommand::Insert(claim), Ok(StoreReply::Inserted(Inserted::Claimed))) = (command, &reply)
        {
            self.lived.lock().unwrap().insert(claim.owner);
        }
        if let (StoreCommand::Update(update), Ok(StoreReply::Updated(Updated::Applied))) = (command, &reply)
            && !matches!(update.change, Change::Renew { .. })
            && self.wanted.lock().unwrap().remove(&update.id)
        {
            let _ = self.hints.send(update.id);
        }
        reply
    }
}

#[async_trait]
impl Store for Link {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.call(StoreCommand::Setup(setup.clone())).await.map(drop)
    }
    async fn lookup(&self, id: &RequestId, _: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.call(StoreCommand::Lookup(*id)).await?.found()
    }
    async fn insert(&self, claim: &Claim, _: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.call(StoreCommand::Insert(claim.clone().into())).await?.inserted()
    }
    async fn update(&self, update: &Update, _: OffsetDateTime) -> Result<Updated, StoreError> {
        self.call(StoreCommand::Update(update.clone().into())).await?.updated()
    }
    async fn prune(&self, _: OffsetDateTime, limit: usize) -> Result<Pruned, StoreError> {
        self.call(StoreCommand::Prune { limit }).await?.pruned()
    }
    async fn watch(&self, id: &RequestId, _: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.call(StoreCommand::Watch(*id)).await?.found()
    }
    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        let hints = self.shared.hints.subscribe();
        Some(stream::unfold(hints, async |mut hints| Some((hints.recv().await.ok()?, hints))).boxed())
    }
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.shared = true;
        capabilities.push = true;
        capabilities
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

async fn caller(tracker: TrackerHandle, recorder: Recorder, over: Arc<AtomicBool>, mut random: StdRng) {
    while !over.load(Ordering::SeqCst) {
        let number = random.random_range(0..KEYS);
        let on_orphan = match random.random_range(0..4) {
            0 => OnOrphan::Halt,
            1 | 2 => OnOrphan::Rerun,
            _ => {
                let said = [Resolution::completed("found"), Resolution::Released, Resolution::Unknown];
                let (said, takes) = (said[random.random_range(0..3)].clone(), random.random_range(0..2_000));
                OnOrphan::resolve(move |_| {
                    let said = said.clone();
                    async move {
                        sleep(Duration::from_millis(takes)).await;
                        said
                    }
                })
            }
        };
        let mut track = Track::new(id(number), payload()).on_orphan(on_orphan);
        track = track.retention(Duration::from_secs(if number % 2 == 0 { 4 } else { 12 }));
        if random.random_bool(0.5) {
            let at_most = Duration::from_millis(random.random_range(0..6_000));
            track = track.on_concurrent(OnConcurrent::Wait { at_most });
        }
        if let Ok(Tracked::Init(permit)) = tracker.track(track).await {
            recorder.works(id(number), permit.owner());
            sleep(Duration::from_millis(random.random_range(0..2_500))).await;
            let response = permit.owner().as_bytes().to_vec();
            match random.random_range(0..10) {
                0 => drop(permit),
                1 => drop(permit.halt(HaltReason::Unknown).await),
                2 => drop(permit.release().await),
                _ => drop(permit.complete(response).await),
            }
        }
        sleep(Duration::from_millis(random.random_range(0..800))).await;
    }
}

/// What the callers of the store saw, as a number, and how much it was.
fn simulate(seed: u64, is_forgetful: bool) -> Result<(u64, Summary), String> {
    virtual_time(async {
        let mut random = StdRng::seed_from_u64(seed);
        let clock = SimClock::new(0);
        let shared = Arc::new(Shared {
            store: MemoryStore::new(),
            clock: clock.clone(),
            wanted: Mutex::default(),
            lived: Mutex::default(),
            hints: broadcast::channel(1024).0,
            is_forgetful,
            calm: AtomicBool::new(true),
        });
        let recorder = Recorder::on(clock);
        let over = Arc::new(AtomicBool::new(false));
        let (mut nodes, mut callers) = (Vec::new(), Vec::new());
        for off in OFF {
            let clock = SimClock::new(off);
            let cuts = (0..2).map(|_| {
                let from = random.random_range(5.0..LOAD.as_secs_f64());
                (from, from + random.random_range(0.2..12.0))
            });
            let link = Link {
                shared: shared.clone(),
                clock: clock.clone(),
                cuts: cuts.collect(),
                random: Mutex::new(StdRng::seed_from_u64(random.random())),
            };
            let builder = Tracker::builder(RecordedStore::new(link, recorder.clone()));
            let builder = builder.placement(Placement::Local).clock(clock.clone()).seed(random.random());
            let builder = builder.lease(LEASE).store_limit(LIMIT).work_limit(Duration::from_secs(20));
            let tracker = builder.spawn().await.unwrap();
            for _ in 0..CALLERS {
                let random = StdRng::seed_from_u64(random.random());
                callers.push(spawn_local(caller(tracker.clone(), recorder.clone(), over.clone(), random)));
            }
            // As after a suspended machine: its clock goes on by more than the time that passed.
            let (at, by) = (random.random_range(5..60), random.random_range(0..20_000));
            spawn_local(async move {
                sleep(Duration::from_secs(at)).await;
                clock.off.fetch_add(by, Ordering::SeqCst);
            });
            nodes.push(tracker);
        }
        shared.calm.store(false, Ordering::SeqCst);
        sleep(LOAD).await;
        over.store(true, Ordering::SeqCst);
        shared.calm.store(true, Ordering::SeqCst);
        for ended in join_all(callers).await {
            ended.unwrap();
        }
        // I8: what is left belongs to nobody by now.
        sleep(Duration::from_secs(25)).await;
        for number in 0..KEYS {
            let stuck = nodes[0].track((id(number), payload())).await;
            assert!(!matches!(stuck, Ok(Tracked::Processing { .. }) | Err(_)), "{number}: {stuck:?}");
        }
        let mut calls = recorder.calls();
        calls.sort_by_key(|call| (call.began, format!("{call:?}")));
        let mut hash = DefaultHasher::new();
        format!("{calls:?}").hash(&mut hash);
        let summary = check(&calls).map_err(|violation| {
            let those: Vec<_> = calls.iter().filter(|call| call.id == violation.id).collect();
            format!("seed {seed}: {violation}\n{those:#?}")
        })?;
        Ok((hash.finish(), summary))
    })
}

#[test]
fn three_nodes_in_simulated_time_keep_every_promise_whatever_the_seed() {
    let one = env::var("IDEMPOTENCY_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = if env::var_os("IDEMPOTENCY_SOAK").is_some() { 0..10_000 } else { 0..200 };
    let seeds: Vec<u64> = one.map_or_else(|| seeds.collect(), |seed| vec![seed]);
    let (mut calls, mut claims, mut unanswered) = (0, 0, 0);
    for seed in &seeds {
        let (hash, summary) = simulate(*seed, false).unwrap_or_else(|violation| panic!("{violation}"));
        if seed % 20 == 0 {
            let (again, _) = simulate(*seed, false).unwrap();
            assert_eq!(again, hash, "seed {seed} is another history each time");
        }
        (calls, claims) = (calls + summary.calls, claims + summary.claims);
        unanswered += summary.unanswered;
    }
    eprintln!("{} seeds: {calls} calls, {claims} claims, {unanswered} unanswered, 0 violations", seeds.len());
    assert!(
        claims > 50 * seeds.len() && unanswered > seeds.len(),
        "{claims} claims, {unanswered} unanswered"
    );
}

/// Or the test above shows nothing.
#[test]
fn a_store_that_loses_renewals_is_found_out() {
    let wrong = (0..20).filter_map(|seed| simulate(seed, true).err()).collect::<Vec<_>>();
    let twice = wrong.iter().filter(|violation| violation.contains(": I1 of ")).count();
    assert!(twice >= 5, "{twice} of 20");
}
