//! A node for tests: callers that track, work and settle as fast as they can, while every call of the store is noted down
//! on the standard output. It may be killed at any time; what it had noted tells what it had begun and what it was told.

#[path = "monotonic.rs"]
mod monotonic;

use std::{error::Error, io, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use clap::Parser;
use idempotency::{
    Clock, HaltReason, MemoryStore, OnOrphan, PostgresConfig, PostgresStore, RedbStore, RedisConfig,
    RedisStore, Scope, Track, Tracked, Tracker, TrackerHandle, store::Store,
};
use idempotency_store_testkit::history::{RecordedStore, Recorder};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use time::OffsetDateTime;

use crate::monotonic::Monotonic;

/// A node that is to be killed
#[derive(Debug, Parser)]
struct Args {
    /// `memory`, `redb:FILE`, `postgres://HOST` or `redis://HOST`
    #[arg(long)]
    store: StoreAt,

    /// How many requests there are
    #[arg(long, default_value_t = 200, overrides_with = "keys")]
    keys: u64,

    /// How many callers share them
    #[arg(long, default_value_t = 8)]
    callers: u64,

    /// Of the random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// How often each caller tracks before it ends [default: until it is killed]
    #[arg(long)]
    tracks: Option<u64>,

    #[arg(long, default_value_t = 900)]
    lease_ms: u64,

    #[arg(long, default_value_t = 2000)]
    retention_ms: u64,

    /// Each caller takes every key once, in an order of its own, and completes at once what it is given
    #[arg(long)]
    sweep: bool,

    /// How far the clock of this node is off
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    clock_off_s: i64,
}

/// A node whose clock is off. What is noted down is noted by the one clock of all.
#[derive(Debug)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> OffsetDateTime {
        Monotonic.now() + time::Duration::seconds(self.0)
    }
}

#[derive(Debug, Clone)]
enum StoreAt {
    Memory,
    Redb(PathBuf),
    Postgres(PostgresConfig),
    Redis(RedisConfig),
}

impl FromStr for StoreAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("redb", path)) => Ok(Self::Redb(path.into())),
            Some(("postgres", _)) => {
                PostgresConfig::from_url(text).map(Self::Postgres).map_err(|error| error.to_string())
            }
            Some(("redis", _)) => {
                RedisConfig::from_url(text).map(Self::Redis).map_err(|error| error.to_string())
            }
            None if text == "memory" => Ok(Self::Memory),
            _ => Err("`memory`, `redb:FILE`, `postgres://HOST` or `redis://HOST`".to_owned()),
        }
    }
}

impl StoreAt {
    fn open(&self) -> Result<Box<dyn Store>, Box<dyn Error>> {
        Ok(match self {
            Self::Memory => Box::new(MemoryStore::new()),
            Self::Redb(path) => Box::new(RedbStore::open(path)?),
            Self::Postgres(config) => Box::new(PostgresStore::open(config.clone())?),
            Self::Redis(config) => Box::new(RedisStore::open(config.clone())?),
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Arc::new(Args::parse());
    let recorder = Recorder::to(io::stdout(), Monotonic);
    // A disk that stalls makes a short limit of time a matter of luck.
    let mut spawned = spawn(&args, &recorder).await;
    for _ in 0..10 {
        if spawned.is_err() {
            spawned = spawn(&args, &recorder).await;
        }
    }
    let tracker = spawned?;
    let callers: Vec<_> = (0..args.callers)
        .map(|caller| {
            let (tracker, recorder, args) = (tracker.clone(), recorder.clone(), args.clone());
            tokio::spawn(async move {
                match args.sweep {
                    true => sweep(tracker, recorder, args, caller).await,
                    false => call(tracker, recorder, args, caller).await,
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await?;
    }
    tracker.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

async fn spawn(args: &Args, recorder: &Recorder) -> Result<TrackerHandle, Box<dyn Error>> {
    let lease = Duration::from_millis(args.lease_ms);
    let tracker = Tracker::builder(RecordedStore::new(args.store.open()?, recorder.clone()))
        .clock(Off(args.clock_off_s))
        .lease(lease)
        .store_limit(lease / 3)
        .retention(Duration::from_millis(args.retention_ms))
        .prune_every(Duration::from_millis(500));
    Ok(tracker.spawn().await?)
}

async fn sweep(tracker: TrackerHandle, recorder: Recorder, args: Arc<Args>, caller: u64) {
    let mut random = StdRng::seed_from_u64(args.seed * 1000 + caller);
    let mut keys: Vec<u64> = (0..args.keys).collect();
    keys.shuffle(&mut random);
    for number in keys {
        let id = tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]]);
        let track = || Track::new(id, tracker.fingerprint([]));
        // A store that is overloaded by all of them may be late.
        let answer = loop {
            match tracker.track(track()).await {
                Ok(answer) => break answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        if let Tracked::Init(permit) = answer {
            recorder.works(id, permit.owner());
            let response = permit.owner().as_bytes().to_vec();
            drop(permit.complete(response).await);
        }
    }
}

async fn call(tracker: TrackerHandle, recorder: Recorder, args: Arc<Args>, caller: u64) {
    let mut random = StdRng::seed_from_u64(args.seed * 1000 + caller);
    let mut tracks = 0;
    while args.tracks.is_none_or(|most| tracks < most) {
        tracks += 1;
        let number = random.random_range(0..args.keys);
        let id = tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]]);
        // Now and then the key comes with another payload.
        let payload = tracker.fingerprint([&[u8::from(random.random_bool(0.02))][..]]);
        let on_orphan = if random.random_bool(0.5) { OnOrphan::Rerun } else { OnOrphan::Halt };
        // What expires soon is pruned under the callers. Of most keys it would only mean that a machine that stands still
        // for seconds makes claims expire whose callers live.
        let retention = if number % 8 == 0 { args.retention_ms } else { 15 * args.retention_ms };
        let track = Track::new(id, payload).on_orphan(on_orphan).retention(Duration::from_millis(retention));
        let permit = match tracker.track(track).await {
            Ok(Tracked::Init(permit)) => permit,
            Ok(_) => {
                tokio::task::yield_now().await;
                continue;
            }
            // Refused at once, as long as the store is away. A client would come back in a second; this one is impatient.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        recorder.works(id, permit.owner());
        let response = permit.owner().as_bytes().repeat(20);
        let (kind, time) = (random.random_range(0..100), random.random_range(0..5));
        tokio::time::sleep(Duration::from_millis(time)).await;
        // An error is the store's, and noted there.
        match kind {
            0..6 => drop(permit),
            6..12 => drop(permit.halt(HaltReason::Unknown).await),
            12..20 => drop(permit.release().await),
            _ => drop(permit.complete(response).await),
        }
    }
}
