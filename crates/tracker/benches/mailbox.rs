//! How the tracker is best reached, and what it costs beside bare actix: claim + put and replay at 1, 8, 64 and 512
//! callers, every column in the same run, interleaved, medians of five.
//!
//! ```sh
//! cargo bench -p idempotency-tracker --bench mailbox
//! ```
//!
//! The bare actors answer from a counter: two round trips for a cycle of claim + put, one for a replay. `send` is
//! `Addr::send` with actix's own mailbox, `oneshot` is `do_send` with an answer through a channel, `drained` is a
//! queue that the actor drains in one future of its own, which is how the tracker does it.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark measures and prints")]

use std::{
    pin::Pin,
    task::{self, Poll},
    time::{Duration, Instant},
};

use actix::{Actor, ActorFuture, Addr, AsyncContext, Context, Handler, Message, System};
use idempotency_core::{Fingerprint, RequestId, Scheme};
use idempotency_store_memory::{MemoryConfig, MemoryStore};
use idempotency_tracker::{Tracked, Tracker, TrackerHandle};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

const CALLERS: [usize; 4] = [1, 8, 64, 512];
const RUNS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bare = Bare::start();
    // The default budget would be full before the benchmark is over.
    let roomy = MemoryStore::with_config(MemoryConfig::new().budget(4 << 30));
    let tracker = runtime.block_on(Tracker::builder(roomy).spawn()).unwrap();
    let ways: [(&str, Way); 6] = [
        ("send: 2 trips", Way::Send(bare.addr.clone(), 2)),
        ("oneshot: 2 trips", Way::Oneshot(bare.addr.clone(), 2)),
        ("drained: 2 trips", Way::Drained(bare.queue.clone(), 2)),
        ("tracker: claim + put", Way::ClaimAndPut(tracker.clone())),
        ("drained: 1 trip", Way::Drained(bare.queue.clone(), 1)),
        ("tracker: replay", Way::Replay(tracker.clone())),
    ];
    let replayed = id(u64::MAX);
    runtime.block_on(async {
        let Ok(Tracked::Init(permit)) = tracker.track((replayed, payload())).await else { panic!() };
        permit.complete("201 Created").await.unwrap();
    });

    println!(
        "thousands a second, medians of {RUNS} interleaved runs; in brackets the ratio to `drained` with as many trips"
    );
    print!("{:>22}", "callers");
    CALLERS.iter().for_each(|callers| print!("{callers:>16}"));
    println!();
    let mut rates = vec![vec![Vec::new(); CALLERS.len()]; ways.len()];
    for _ in 0..RUNS {
        for (column, callers) in CALLERS.into_iter().enumerate() {
            for (row, (_, way)) in ways.iter().enumerate() {
                rates[row][column].push(run(&runtime, way, callers));
            }
        }
    }
    let medians: Vec<Vec<f64>> = rates.into_iter().map(|row| row.into_iter().map(median).collect()).collect();
    for (row, (name, _)) in ways.iter().enumerate() {
        print!("{name:>22}");
        let base = if row < 4 { 2 } else { 4 };
        for (rate, base) in medians[row].iter().zip(&medians[base]) {
            print!("{:>9.0} ({:.2})", rate / 1000.0, rate / base);
        }
        println!();
    }
    runtime.block_on(tracker.shutdown(Duration::from_secs(5))).unwrap();
}

#[derive(Clone)]
enum Way {
    Send(Addr<Counter>, usize),
    Oneshot(Addr<Counter>, usize),
    Drained(mpsc::UnboundedSender<Ask>, usize),
    ClaimAndPut(TrackerHandle),
    Replay(TrackerHandle),
}

/// Cycles a second.
fn run(runtime: &Runtime, way: &Way, callers: usize) -> f64 {
    // About as long for each number of callers.
    let cycles = if callers == 1 { 10_000 } else { 60_000 / callers };
    let since = Instant::now();
    runtime.block_on(async {
        let callers: Vec<_> = (0..callers).map(|_| tokio::spawn(caller(way.clone(), cycles))).collect();
        for caller in callers {
            caller.await.unwrap();
        }
    });
    (callers * cycles) as f64 / since.elapsed().as_secs_f64()
}

async fn caller(way: Way, cycles: usize) {
    for _ in 0..cycles {
        match &way {
            Way::Send(addr, trips) => {
                for _ in 0..*trips {
                    addr.send(Count).await.unwrap();
                }
            }
            Way::Oneshot(addr, trips) => {
                for _ in 0..*trips {
                    let (reply, answer) = oneshot::channel();
                    addr.do_send(Ask(reply));
                    answer.await.unwrap();
                }
            }
            Way::Drained(queue, trips) => {
                for _ in 0..*trips {
                    let (reply, answer) = oneshot::channel();
                    queue.send(Ask(reply)).unwrap();
                    answer.await.unwrap();
                }
            }
            Way::ClaimAndPut(tracker) => {
                let id = id(rand::random::<u64>() >> 1);
                let Ok(Tracked::Init(permit)) = tracker.track((id, payload())).await else { panic!() };
                permit.complete("201 Created").await.unwrap();
            }
            Way::Replay(tracker) => {
                let Ok(Tracked::Cached { .. }) = tracker.track((id(u64::MAX), payload())).await else {
                    panic!()
                };
            }
        }
    }
}

fn id(number: u64) -> RequestId {
    // A hash of its own for each: what is measured is the tracker, not BLAKE3.
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    RequestId::from_bytes(bytes)
}

fn payload() -> Fingerprint {
    Fingerprint::from_parts(Scheme::RAW, [7; 32])
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// A bare actor on a thread of its own, as the tracker is.
struct Bare {
    addr: Addr<Counter>,
    queue: mpsc::UnboundedSender<Ask>,
}

struct Counter {
    count: u64,
    queue: Option<mpsc::UnboundedReceiver<Ask>>,
}

#[derive(Message)]
#[rtype(result = "u64")]
struct Count;

#[derive(Message)]
#[rtype(result = "()")]
struct Ask(oneshot::Sender<u64>);

impl Bare {
    fn start() -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (queue, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let system = System::new();
            system.block_on(async move {
                tell.send(Counter { count: 0, queue: Some(receiver) }.start()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        Self { addr: told.recv().unwrap(), queue }
    }
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let receiver = self.queue.take().unwrap();
        ctx.spawn(Drain { receiver, asks: Vec::new() });
    }
}

impl Handler<Count> for Counter {
    type Result = u64;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u64 {
        self.count += 1;
        self.count
    }
}

impl Handler<Ask> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask, _: &mut Self::Context) {
        self.count += 1;
        let _ = ask.0.send(self.count);
    }
}

struct Drain {
    receiver: mpsc::UnboundedReceiver<Ask>,
    asks: Vec<Ask>,
}

impl ActorFuture<Counter> for Drain {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut Counter,
        _: &mut Context<Counter>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        let this = &mut *self;
        while let Poll::Ready(count) = this.receiver.poll_recv_many(task, &mut this.asks, 256) {
            if count == 0 {
                return Poll::Ready(());
            }
            for ask in this.asks.drain(..) {
                actor.count += 1;
                let _ = ask.0.send(actor.count);
            }
        }
        Poll::Pending
    }
}
