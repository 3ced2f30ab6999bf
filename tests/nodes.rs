//! Many nodes on one server, Redis or PostgreSQL: processes that are killed, a server that is killed, clocks that disagree.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use idempotency::{
    HaltReason, Once, Outcome, PostgresStore, RedisStore, Scope, Track, Tracked, Tracker, store::Store,
};
use idempotency_store_testkit::{
    history::{Call, Operation, Summary, check},
    servers::{Postgres, Proxy, Redis},
};

use crate::{
    history::Node,
    support::{Payments, Reply, soak},
};

/// The same for each server.
macro_rules! on_each_server {
    ($($test:ident),+ $(,)?) => {
        mod on_redis {
            $(#[test] fn $test() { super::$test($crate::nodes::Kind::Redis); })+
        }
        mod on_postgres {
            $(#[test] fn $test() { super::$test($crate::nodes::Kind::Postgres); })+
        }
    };
}
pub(crate) use on_each_server;

on_each_server!(
    i1_eight_processes_on_shared_keys_are_given_each_key_once,
    nodes_that_are_killed_under_load_lose_nothing_and_block_nobody,
    i8_no_key_of_a_dead_node_is_stuck,
    i6_a_server_that_is_killed_under_load_loses_nothing_that_it_acknowledged,
    i1_nodes_whose_clocks_are_ten_minutes_off_give_nothing_twice_and_nothing_expires_early,
    lost_replies_block_nobody_run_nothing_twice_and_hang_nothing,
    three_hundred_at_once_spread_over_three_processes_are_one_charge,
    a_store_that_is_gone_is_503_for_new_work_and_all_is_well_soon_after_it_is_back,
);

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Redis,
    Postgres,
}

/// One that keeps what it acknowledges.
pub(crate) enum Server {
    Redis(Redis),
    Postgres(Postgres),
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::Redis(Redis::start(&["--appendonly", "yes", "--appendfsync", "always"])),
            Kind::Postgres => Self::Postgres(Postgres::start(&[])),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::Redis(redis) => format!("{}?durability=power_loss", redis.url()),
            Self::Postgres(postgres) => postgres.url(),
        }
    }

    fn proxy(&self) -> Proxy {
        match self {
            Self::Redis(redis) => Proxy::start(redis.port()),
            Self::Postgres(postgres) => Proxy::start(postgres.port()),
        }
    }

    /// The store behind a proxy, or without one.
    pub(crate) fn open(&self, through: Option<&Proxy>) -> Box<dyn Store> {
        match (self, through) {
            (Self::Redis(redis), None) => Box::new(RedisStore::open(redis.url().as_str()).unwrap()),
            (Self::Redis(_), Some(proxy)) => {
                Box::new(RedisStore::open(format!("redis://127.0.0.1:{}", proxy.port()).as_str()).unwrap())
            }
            (Self::Postgres(postgres), through) => {
                let url = postgres.url_through(through.map_or_else(|| postgres.port(), Proxy::port));
                Box::new(PostgresStore::open(url.as_str()).unwrap())
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Postgres(postgres) => postgres.kill(),
        }
    }

    pub(crate) fn restart(&mut self) {
        match self {
            Self::Redis(redis) => redis.restart(),
            Self::Postgres(postgres) => postgres.restart(),
        }
    }
}

/// What all of them saw is right, and there was enough of it.
#[track_caller]
fn judge(calls: &[Call], claims: usize) -> Summary {
    let summary = check(calls).unwrap_or_else(|violation| {
        let those: Vec<_> = calls.iter().filter(|call| call.id == violation.id).collect();
        panic!("{violation}\n{those:#?}")
    });
    assert!(summary.claims > claims, "there was load: {summary}");
    summary
}

fn i1_eight_processes_on_shared_keys_are_given_each_key_once(kind: Kind) {
    let server = Server::start(kind);
    // 100,000 tracks; in a soak more than a million, over as many keys as that.
    let (keys, callers) = if soak(2) == 1 { (3_125, 4) } else { (100_000, 2) };
    let folder = tempfile::tempdir().unwrap();
    let nodes: Vec<Node> = (0..8)
        .map(|number| {
            let (keys, callers) = (keys.to_string(), callers.to_string());
            let retention = ["--lease-ms", "30000", "--retention-ms", "3600000"];
            let sweep = ["--store", &server.url(), "--sweep", "--callers", &callers, "--keys", &keys];
            Node::start(folder.path(), number, &[&sweep[..], &retention].concat())
        })
        .collect();
    let calls: Vec<Call> = nodes.into_iter().flat_map(Node::finish).collect();
    let mut given: HashMap<_, usize> = HashMap::new();
    for call in &calls {
        if matches!(call.operation, Operation::Work { .. }) {
            *given.entry(call.id).or_default() += 1;
        }
    }
    assert_eq!(given.len(), keys, "each key was given");
    assert!(given.values().all(|count| *count == 1), "and once");
    eprintln!("8 processes, {} tracks: {}", 8 * callers * keys, judge(&calls, keys - 1));
}

fn nodes_that_are_killed_under_load_lose_nothing_and_block_nobody(kind: Kind) {
    let server = Server::start(kind);
    let folder = tempfile::tempdir().unwrap();
    let rounds = 20 * soak(10);
    let start = |number| Node::start(folder.path(), number, &["--store", &server.url()]);
    let mut nodes: Vec<Node> = (0..3).map(start).collect();
    let mut calls = Vec::new();
    for round in 0..rounds {
        nodes[0].wait_for_notes(10_000 + 3_001 * (round as u64 % 20));
        calls.extend(nodes.remove(0).kill());
        nodes.push(start(3 + round));
    }
    for node in nodes {
        calls.extend(node.kill());
    }
    calls.extend(Node::start(folder.path(), 1000, &["--store", &server.url(), "--tracks", "300"]).finish());
    eprintln!("{rounds} nodes killed: {}", judge(&calls, 5 * rounds));
}

/// All keys of a node that died are answered within its lease and two seconds.
#[expect(clippy::disallowed_methods, reason = "a node dies in real time")]
fn i8_no_key_of_a_dead_node_is_stuck(kind: Kind) {
    let server = Server::start(kind);
    let folder = tempfile::tempdir().unwrap();
    let lease = Duration::from_millis(900);
    // Those that are looked at below.
    let mut node = Node::start(folder.path(), 0, &["--store", &server.url(), "--keys", "200"]);
    node.wait_for_notes(50_000);
    let died = Instant::now();
    drop(node.kill());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = server.open(None);
        let tracker = Tracker::builder(store).spawn().await.unwrap();
        let (mut waiting, mut orphaned): (Vec<u64>, usize) = ((0..200).collect(), 0);
        while !waiting.is_empty() {
            assert!(died.elapsed() < lease + Duration::from_secs(2), "still at work: {waiting:?}");
            let mut still = Vec::new();
            for number in waiting {
                let id = tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]]);
                let track = Track::new(id, tracker.fingerprint([&[0][..]]));
                match tracker.track(track).await {
                    Ok(Tracked::Processing { .. }) => still.push(number),
                    Err(error) if error.is_retryable() => still.push(number),
                    Ok(Tracked::Halted { reason: HaltReason::OwnerLost, .. }) => orphaned += 1,
                    Ok(Tracked::Init(permit)) => drop(permit.release().await.unwrap()),
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            waiting = still;
        }
        assert!(orphaned > 0, "it had something to do when it died");
    });
}

fn i6_a_server_that_is_killed_under_load_loses_nothing_that_it_acknowledged(kind: Kind) {
    let mut server = Server::start(kind);
    let folder = tempfile::tempdir().unwrap();
    let rounds = 10 * soak(10);
    let store = server.url();
    let nodes: Vec<Node> =
        (0..3).map(|number| Node::start(folder.path(), number, &["--store", &store])).collect();
    for round in 0..rounds {
        thread::sleep(Duration::from_millis(300 + 17 * (round as u64 % 20)));
        server.kill();
        thread::sleep(Duration::from_millis(50));
        server.restart();
    }
    thread::sleep(Duration::from_secs(1));
    let calls: Vec<Call> = nodes.into_iter().flat_map(Node::kill).collect();
    eprintln!("the server killed {rounds} times: {}", judge(&calls, 5 * rounds));
}

fn i1_nodes_whose_clocks_are_ten_minutes_off_give_nothing_twice_and_nothing_expires_early(kind: Kind) {
    let server = Server::start(kind);
    let folder = tempfile::tempdir().unwrap();
    let nodes: Vec<Node> = [0, 600, -600]
        .iter()
        .enumerate()
        .map(|(number, off)| {
            let off = off.to_string();
            let args = ["--store", &server.url(), "--keys", "100", "--tracks", "400", "--clock-off-s", &off];
            Node::start(folder.path(), number, &args)
        })
        .collect();
    let calls: Vec<Call> = nodes.into_iter().flat_map(Node::finish).collect();
    eprintln!("clocks ten minutes off: {}", judge(&calls, 100));
}

/// Of every claim and every result the first reply is lost after the server has applied it.
fn lost_replies_block_nobody_run_nothing_twice_and_hang_nothing(kind: Kind) {
    const KEYS: u64 = 200;
    let server = Server::start(kind);
    let proxy = server.proxy();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = server.open(Some(&proxy));
        let tracker = Tracker::builder(store).spawn().await.unwrap();
        let (proxy, runs) = (Arc::new(proxy), Arc::new(AtomicUsize::new(0)));
        for number in 0..KEYS {
            let id = tracker.request_id(&Scope::global(), [&number.to_le_bytes()[..]]);
            let of_work = (proxy.clone(), runs.clone());
            let work = move || {
                let (proxy, runs) = of_work.clone();
                async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    proxy.lose_replies(1, id.as_bytes());
                    Outcome::<()>::done(format!("{number}"))
                }
            };
            proxy.lose_replies(1, id.as_bytes());
            let first = tracker.once(id, tracker.fingerprint([]), work.clone()).await.unwrap();
            let Once::Done { response, replayed: false, .. } = first else { panic!("{number}: {first:?}") };
            assert_eq!(response.bytes().unwrap(), &format!("{number}"));
            let retry = tracker.once(id, tracker.fingerprint([]), work).await.unwrap();
            assert!(matches!(retry, Once::Done { replayed: true, .. }), "{number}: {retry:?}");
        }
        assert_eq!(runs.load(Ordering::SeqCst) as u64, KEYS);
        assert!(proxy.lost() as u64 > KEYS, "{} replies were lost", proxy.lost());
    });
}

const QUICK_PAYMENT: &str = r#"{"amount":500,"currency":"EUR"}"#;
const PAYMENT: &str = r#"{"amount":500,"currency":"EUR","simulate":{"delay_ms":300}}"#;

fn three_hundred_at_once_spread_over_three_processes_are_one_charge(kind: Kind) {
    let server = Server::start(kind);
    let folder = tempfile::tempdir().unwrap();
    let services: Vec<Payments> =
        (0..3).map(|_| Payments::start_in(folder.path(), &["--store", &server.url()])).collect();
    let replies: Vec<Reply> = thread::scope(|scope| {
        let callers: Vec<_> = (0..300)
            .map(|caller| {
                scope.spawn({
                    let service = &services[caller % 3];
                    move || service.post("order-1", PAYMENT)
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(replies.iter().filter(|reply| reply.status == 201 && !reply.replayed).count(), 1);
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!((reply.status, reply.code().as_str()), (409, "idempotency_in_progress"));
    }
    assert_eq!(services[0].ledger().len(), 1);
    // And a retry at another process gets the answer of that one.
    for service in &services {
        let retry = service.post("order-1", PAYMENT);
        assert!(retry.replayed && retry.status == 201, "{retry:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a real server comes back in real time")]
fn a_store_that_is_gone_is_503_for_new_work_and_all_is_well_soon_after_it_is_back(kind: Kind) {
    let mut server = Server::start(kind);
    let store = server.url();
    let service = Payments::start(&["--store", &store]);
    let first = service.post("order-1", PAYMENT);
    assert_eq!(first.status, 201);
    let is_over = AtomicBool::new(false);
    let paid = Mutex::new(Vec::new());
    let (refused, after_return) = thread::scope(|scope| {
        // The load: each caller pays again and again, and tries each payment until it is paid.
        for caller in 0..8 {
            let (service, is_over, paid) = (&service, &is_over, &paid);
            scope.spawn(move || {
                for number in 0..10_000 {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let key = format!("order-{caller}-{number}");
                    for attempt in 0.. {
                        let reply = service.post(&key, QUICK_PAYMENT);
                        match reply.status {
                            201 => {
                                paid.lock().unwrap().push((key, reply));
                                break;
                            }
                            // Its own earlier attempt, whose fate is not known yet.
                            409 | 503 => {}
                            other => panic!("{other} {reply:?}"),
                        }
                        assert!(attempt < 3_000, "{key} is never paid");
                        thread::sleep(Duration::from_millis(10));
                    }
                }
            });
        }
        let until_paid = |count| {
            let since = Instant::now();
            while paid.lock().unwrap().len() < count {
                assert!(since.elapsed() < Duration::from_secs(60), "there is no load");
                thread::sleep(Duration::from_millis(5));
            }
        };
        until_paid(50);
        server.kill();
        let refused = service.post("order-2", PAYMENT);
        server.restart();
        let since = Instant::now();
        while service.post("order-2", PAYMENT).status != 201 && since.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(20));
        }
        let after_return = since.elapsed();
        let so_far = paid.lock().unwrap().len();
        until_paid(so_far + 50);
        is_over.store(true, Ordering::SeqCst);
        (refused, after_return)
    });
    assert_eq!((refused.status, refused.code().as_str()), (503, "idempotency_unavailable"));
    assert!(refused.retry_after.is_some_and(|seconds| seconds > 0), "{refused:?}");
    assert!(after_return < Duration::from_secs(2), "still refused {after_return:?} after its return");
    assert_eq!(service.post("order-1", PAYMENT), Reply { replayed: true, ..first });
    let paid = paid.into_inner().unwrap();
    assert!(paid.len() >= 100, "there was load: {}", paid.len());
    // What was answered while the store was away replays, too: until it is stored the node that has it answers.
    for (key, reply) in &paid {
        assert_eq!(service.post(key, QUICK_PAYMENT), Reply { replayed: true, ..reply.clone() }, "{key}");
    }
    assert_eq!(service.ledger().len(), 2 + paid.len(), "each is charged once");
}
