//! The columns: what is asked, in the words of each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use actix::{Actor, Addr, Context, Handler, Message, System};
use bytes::Bytes;
use dashmap::{DashMap, Entry};
use idempotency::{
    MemoryConfig, MemoryStore, Placement, Scope, Tracked, Tracker, TrackerHandle, store::Store,
};
use idempotent::{CachedResponse, IdempotencyStore, Metadata, OwnedClaimOutcome};

use crate::memory::Work;

const DAY: Duration = Duration::from_secs(86_400);

/// Like the default lease of ours.
const LEASE: Duration = Duration::from_millis(13_500);

const PAYLOAD: &[u8] = br#"{"amount":1000,"currency":"EUR"}"#;
const OTHER_PAYLOAD: &[u8] = br#"{"amount":2000,"currency":"EUR"}"#;

#[derive(Clone)]
pub(crate) enum Target {
    Ours(TrackerHandle, Scope),
    Idempotent(idempotent::memory::MemoryStore),
    Valkey(idempotent::valkey::ValkeyStore),
    Sharded(Arc<[Mutex<HashMap<blake3::Hash, Kept>>; 64]>),
    Concurrent(Arc<DashMap<blake3::Hash, Kept>>),
    Actor(Addr<Counter>),
}

/// What a map keeps of a key.
#[derive(Clone)]
pub(crate) struct Kept {
    payload: blake3::Hash,
    owner: u64,
    expires_at: Instant,
    response: Option<Bytes>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Claimed,
    Cached(Bytes),
    Processing,
    Mismatch,
}

/// The default budget would be full before the benchmark is over.
fn roomy() -> MemoryStore {
    MemoryStore::with_config(MemoryConfig::new().budget(8 << 30))
}

impl Target {
    pub(crate) async fn dedicated() -> Self {
        Self::ours(roomy()).await
    }

    /// With all defaults.
    pub(crate) async fn ours(store: impl Store) -> Self {
        Self::Ours(Tracker::builder(store).spawn().await.expect("a tracker"), Scope::global())
    }

    pub(crate) async fn local() -> Self {
        let builder = Tracker::builder(roomy()).placement(Placement::Local);
        Self::Ours(builder.spawn().await.expect("a tracker"), Scope::global())
    }

    pub(crate) fn idempotent() -> Self {
        Self::Idempotent(idempotent::memory::MemoryStore::builder().try_build().expect("a memory store"))
    }

    pub(crate) async fn valkey(url: String) -> Self {
        Self::Valkey(idempotent::valkey::ValkeyStore::with_url(url).try_build().await.expect("a server"))
    }

    pub(crate) fn sharded() -> Self {
        Self::Sharded(Arc::new([(); 64].map(|()| Mutex::default())))
    }

    pub(crate) fn concurrent() -> Self {
        Self::Concurrent(Arc::default())
    }

    pub(crate) fn actor(bare: &Bare) -> Self {
        Self::Actor(bare.0.clone())
    }

    /// What each turn took, in nanoseconds.
    pub(crate) async fn turns(self, work: Work, salt: u64, turns: usize, len: usize) -> Vec<u64> {
        let response = Bytes::from(vec![b'x'; len]);
        let key = |turn: usize| format!("{salt:x}-{turn:x}");
        let held = match work {
            Work::First => None,
            Work::Replay | Work::Mismatch => {
                self.first(&key(0), &response).await;
                None
            }
            Work::Conflict => Some(self.claim(&key(0)).await),
        };
        let mut latencies = Vec::with_capacity(turns);
        for turn in 1..=turns {
            let since = Instant::now();
            match work {
                Work::First => self.first(&key(turn), &response).await,
                Work::Replay => self.again(&key(0), PAYLOAD, Answer::Cached(response.clone())).await,
                Work::Conflict => self.again(&key(0), PAYLOAD, Answer::Processing).await,
                Work::Mismatch => self.again(&key(0), OTHER_PAYLOAD, Answer::Mismatch).await,
            }
            latencies.push(since.elapsed().as_nanos() as u64);
        }
        if let Some(held) = held {
            held.release().await;
        }
        latencies
    }

    /// A claim and its result.
    async fn first(&self, key: &str, response: &Bytes) {
        match self {
            Self::Ours(tracker, _) => {
                let Tracked::Init(permit) = self.track(tracker, key, PAYLOAD).await else {
                    panic!("a new key")
                };
                permit.complete(response.clone()).await.expect("a result");
            }
            Self::Idempotent(store) => first_at(store, key, response).await,
            Self::Valkey(store) => first_at(store, key, response).await,
            Self::Sharded(shards) => {
                let (id, payload) = (hash(key.as_bytes()), hash(PAYLOAD));
                assert_eq!(in_map(&mut shard(shards, &id), id, payload, 1), Answer::Claimed);
                let mut shard = shard(shards, &id);
                complete(shard.get_mut(&id).expect("a claim"), 1, response);
            }
            Self::Concurrent(map) => {
                let (id, payload) = (hash(key.as_bytes()), hash(PAYLOAD));
                let Entry::Vacant(vacant) = map.entry(id) else { panic!("a new key") };
                vacant.insert(Kept::new(payload, 1));
                complete(&mut map.get_mut(&id).expect("a claim"), 1, response);
            }
            Self::Actor(addr) => {
                for _ in 0..2 {
                    addr.send(Count).await.expect("an answer");
                }
            }
        }
    }

    async fn again(&self, key: &str, payload: &[u8], expected: Answer) {
        let answer = match self {
            Self::Ours(tracker, _) => match self.track(tracker, key, payload).await {
                Tracked::Cached { response, .. } => Answer::Cached(response.bytes().expect("a body").clone()),
                Tracked::Processing { .. } => Answer::Processing,
                Tracked::Mismatch { .. } => Answer::Mismatch,
                other => panic!("{other:?}"),
            },
            Self::Idempotent(store) => again_at(store, key, payload).await,
            Self::Valkey(store) => again_at(store, key, payload).await,
            Self::Sharded(shards) => {
                let id = hash(key.as_bytes());
                in_map(&mut shard(shards, &id), id, hash(payload), 2)
            }
            Self::Concurrent(map) => {
                let id = hash(key.as_bytes());
                let kept = map.get(&id).expect("a record");
                kept.answer(hash(payload))
            }
            Self::Actor(addr) => {
                addr.send(Count).await.expect("an answer");
                return;
            }
        };
        assert_eq!(answer, expected);
    }

    async fn claim(&self, key: &str) -> Held {
        match self {
            Self::Ours(tracker, _) => match self.track(tracker, key, PAYLOAD).await {
                Tracked::Init(permit) => Held::Ours(permit),
                other => panic!("{other:?}"),
            },
            Self::Idempotent(store) => held_at(store, key).await,
            Self::Valkey(store) => held_at(store, key).await,
            Self::Sharded(shards) => {
                let id = hash(key.as_bytes());
                in_map(&mut shard(shards, &id), id, hash(PAYLOAD), 1);
                Held::Nothing
            }
            Self::Concurrent(map) => {
                map.insert(hash(key.as_bytes()), Kept::new(hash(PAYLOAD), 1));
                Held::Nothing
            }
            Self::Actor(_) => Held::Nothing,
        }
    }

    async fn track(&self, tracker: &TrackerHandle, key: &str, payload: &[u8]) -> Tracked {
        let Self::Ours(_, scope) = self else { unreachable!("a tracker is ours") };
        let id = tracker.request_id(scope, [key.as_bytes()]);
        tracker.track((id, tracker.fingerprint([payload]))).await.expect("an answer")
    }
}

async fn claim_at<S: IdempotencyStore + Clone>(store: &S, key: &str, payload: &[u8]) -> OwnedClaimOutcome<S> {
    let key = idempotent::IdempotencyKey::new(key).expect("a key");
    store
        .claim_owned(key, LEASE)
        .fingerprint("POST /payments", payload)
        .try_insert()
        .await
        .expect("an answer")
}

async fn first_at<S: IdempotencyStore + Clone>(store: &S, key: &str, response: &Bytes) {
    let OwnedClaimOutcome::Claimed(guard) = claim_at(store, key, PAYLOAD).await else { panic!("a new key") };
    let response = CachedResponse::new(201, Metadata::default(), response.clone());
    guard.complete(response, DAY).await.expect("a result");
}

enum Held {
    Ours(idempotency::Permit),
    Nothing,
}

impl Held {
    async fn release(self) {
        if let Self::Ours(permit) = self {
            permit.release().await.expect("a release");
        }
    }
}

async fn again_at<S: IdempotencyStore + Clone>(store: &S, key: &str, payload: &[u8]) -> Answer {
    match claim_at(store, key, payload).await {
        OwnedClaimOutcome::Exists { existing, fingerprint } => of_idempotent(existing, fingerprint),
        OwnedClaimOutcome::Claimed(_) => Answer::Claimed,
    }
}

async fn held_at<S: IdempotencyStore + Clone>(store: &S, key: &str) -> Held {
    let OwnedClaimOutcome::Claimed(guard) = claim_at(store, key, PAYLOAD).await else { panic!("a new key") };
    guard.leave();
    Held::Nothing
}

fn of_idempotent(existing: idempotent::entry::ExistingEntry, fingerprint: idempotent::Fingerprint) -> Answer {
    match existing.replay(fingerprint) {
        idempotent::ReplayOutcome::Replayed(response) => Answer::Cached(response.body),
        idempotent::ReplayOutcome::InFlight => Answer::Processing,
        _ => Answer::Mismatch,
    }
}

fn hash(bytes: &[u8]) -> blake3::Hash {
    blake3::hash(bytes)
}

fn shard<'a>(
    shards: &'a [Mutex<HashMap<blake3::Hash, Kept>>; 64],
    id: &blake3::Hash,
) -> std::sync::MutexGuard<'a, HashMap<blake3::Hash, Kept>> {
    shards[usize::from(id.as_bytes()[0]) % 64].lock().expect("nobody panics")
}

fn in_map(
    map: &mut HashMap<blake3::Hash, Kept>,
    id: blake3::Hash,
    payload: blake3::Hash,
    owner: u64,
) -> Answer {
    match map.entry(id) {
        std::collections::hash_map::Entry::Occupied(kept) => kept.get().answer(payload),
        std::collections::hash_map::Entry::Vacant(vacant) => {
            vacant.insert(Kept::new(payload, owner));
            Answer::Claimed
        }
    }
}

fn complete(kept: &mut Kept, owner: u64, response: &Bytes) {
    assert!(kept.owner == owner && kept.response.is_none());
    kept.expires_at = Instant::now() + DAY;
    kept.response = Some(Bytes::copy_from_slice(response));
}

impl Kept {
    fn new(payload: blake3::Hash, owner: u64) -> Self {
        Self { payload, owner, expires_at: Instant::now() + LEASE, response: None }
    }

    fn answer(&self, payload: blake3::Hash) -> Answer {
        if self.payload != payload {
            return Answer::Mismatch;
        }
        match &self.response {
            Some(response) if self.expires_at > Instant::now() => Answer::Cached(response.clone()),
            _ => Answer::Processing,
        }
    }
}

/// An actor on a thread of its own, which only counts.
pub(crate) struct Bare(Addr<Counter>);

impl Bare {
    pub(crate) fn start() -> Self {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            System::new().block_on(async move {
                tell.send(Counter(0).start()).expect("somebody waits");
                std::future::pending::<()>().await;
            });
        });
        Self(told.recv().expect("it starts"))
    }
}

pub(crate) struct Counter(u64);

#[derive(Message)]
#[rtype(result = "u64")]
struct Count;

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<Count> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u64 {
        self.0 += 1;
        self.0
    }
}
