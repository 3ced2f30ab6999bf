//! Bare statements, also for the benchmarks beside peers, which include this file.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use idempotency_core::{Change, Claim, Fingerprint, Owner, RequestId, Scope, Update};
use idempotency_store_postgres::tokio_postgres::{self, Client, NoTls, Statement};
use idempotency_store_testkit::servers::Postgres;
use tokio::sync::{Mutex, mpsc, oneshot};

/// How large batches of bare statements are, and how many are under way.
pub(crate) const BARE: [(usize, usize); 4] = [(1, 8), (64, 2), (512, 2), (512, 4)];

/// A claim or a put of a number.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    Claim(u64),
    Put(u64),
}

pub(crate) type Batch = Arc<dyn Fn(Vec<Call>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Gathers what waits, up to a size, and has so many batches under way, as the tracker's child does.
#[derive(Clone)]
pub(crate) struct Gathered(mpsc::Sender<(Call, oneshot::Sender<()>)>);

impl Gathered {
    pub(crate) fn start(size: usize, at_once: usize, batch: Batch) -> Self {
        let (calls, waiting) = mpsc::channel(4096);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..at_once {
            let (waiting, batch) = (waiting.clone(), batch.clone());
            tokio::spawn(async move {
                let mut group = Vec::with_capacity(size);
                while waiting.lock().await.recv_many(&mut group, size).await > 0 {
                    let (calls, answers): (Vec<_>, Vec<oneshot::Sender<()>>) = group.drain(..).unzip();
                    batch(calls).await;
                    for answer in answers {
                        let _ = answer.send(());
                    }
                }
            });
        }
        Self(calls)
    }

    async fn call(&self, call: Call) {
        let (answer, answered) = oneshot::channel();
        assert!(self.0.send((call, answer)).await.is_ok(), "it runs");
        answered.await.expect("an answer");
    }
}

pub(crate) static NEXT: AtomicU64 = AtomicU64::new(1);

pub(crate) async fn slice(callers: u64, cycles: u64, way: &Gathered) -> Duration {
    let since = Instant::now();
    let callers = (0..callers).map(|_| {
        let way = way.clone();
        tokio::spawn(async move {
            for _ in 0..cycles {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                way.call(Call::Claim(number)).await;
                way.call(Call::Put(number)).await;
            }
        })
    });
    join_all(callers.collect::<Vec<_>>()).await.into_iter().for_each(|caller| caller.expect("a caller"));
    since.elapsed()
}

pub(crate) fn id(number: u64) -> RequestId {
    // Spread as those of real requests are.
    RequestId::derive(None, &Scope::global(), [&number.to_le_bytes()[..]])
}

pub(crate) fn claim(number: u64) -> Claim {
    Claim::new(id(number), Owner::from_u128(number.into()), Fingerprint::derive(None, []))
}

pub(crate) fn put(number: u64, len: usize) -> Update {
    let claim = claim(number);
    let change = Change::Complete { response: vec![7; len].into(), retention: claim.retention };
    Update::new(claim.id, claim.owner, change)
}

/// The statements by themselves, with nothing but the columns, on connections of their own.
pub(crate) struct Bare {
    connections: Vec<(Client, Statement, Statement)>,
    next: AtomicU64,
    /// How many bytes a response has.
    len: usize,
}

impl Bare {
    pub(crate) async fn open(postgres: &Postgres, connections: usize, len: usize) -> Self {
        postgres.sql("CREATE TABLE IF NOT EXISTS bare (LIKE idempotency.records INCLUDING ALL)");
        let insert = "INSERT INTO bare (id, owner, state, claimed_at, lease_until, expires_at, fingerprint, meta) \
            SELECT id, owner, 'processing', now(), now() + '15 s', now() + '1 day', fingerprint, '' \
            FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) AS c (id, owner, fingerprint) ORDER BY id \
            ON CONFLICT DO NOTHING RETURNING id";
        let update = "UPDATE bare b SET state = 'completed', lease_until = NULL, expires_at = now() + '1 day', \
            digest = u.digest, body = u.body \
            FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[]) AS u (id, owner, digest, body) \
            WHERE b.id = u.id AND b.owner = u.owner RETURNING b.id";
        let opened = (0..connections).map(async |_| {
            let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.unwrap();
            tokio::spawn(connection);
            // The plan that scales, as the store has it.
            client
                .batch_execute(
                    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
                )
                .await
                .unwrap();
            let statements = (client.prepare(insert).await.unwrap(), client.prepare(update).await.unwrap());
            (client, statements.0, statements.1)
        });
        Self { connections: join_all(opened).await, next: AtomicU64::new(0), len }
    }

    pub(crate) async fn run(&self, calls: Vec<Call>) {
        let of = |wanted: fn(&Call) -> Option<u64>| calls.iter().filter_map(wanted).collect::<Vec<_>>();
        let claims = of(|call| if let Call::Claim(number) = call { Some(*number) } else { None });
        let puts = of(|call| if let Call::Put(number) = call { Some(*number) } else { None });
        let of_claims = async {
            if !claims.is_empty() {
                let (client, insert, _) = self.connection();
                let all: Vec<_> = claims.iter().map(|number| claim(*number)).collect();
                let ids: Vec<_> = all.iter().map(|claim| &claim.id.as_bytes()[..]).collect();
                let owners: Vec<_> = all.iter().map(|claim| &claim.owner.as_bytes()[..]).collect();
                let fingerprints = vec![&[0_u8; 33][..]; ids.len()];
                let rows = client.query(insert, &[&ids, &owners, &fingerprints]).await.expect("claims");
                assert_eq!(rows.len(), ids.len());
            }
        };
        let of_puts = async {
            if !puts.is_empty() {
                let (client, _, update) = self.connection();
                let all: Vec<_> = puts.iter().map(|number| put(*number, self.len)).collect();
                let ids: Vec<_> = all.iter().map(|put| &put.id.as_bytes()[..]).collect();
                let owners: Vec<_> = all.iter().map(|put| &put.owner.as_bytes()[..]).collect();
                let body = vec![7_u8; self.len];
                let digests = vec![&[0_u8; 32][..]; ids.len()];
                let bodies = vec![&body[..]; ids.len()];
                let rows = client.query(update, &[&ids, &owners, &digests, &bodies]).await.expect("puts");
                assert_eq!(rows.len(), ids.len());
            }
        };
        futures_util::future::join(of_claims, of_puts).await;
    }

    fn connection(&self) -> &(Client, Statement, Statement) {
        let next = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        &self.connections[next % self.connections.len()]
    }
}
