//! `kill -9` under load: nothing that was acknowledged is lost, and nothing is charged twice.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{Payments, Reply, soak};

const CLIENTS: usize = 8;

/// What a client knows of a key.
#[derive(Debug, Clone, Default)]
struct Known {
    amount: u64,
    /// The answer that it was given, if it was given one.
    answer: Option<Reply>,
}

const ROUNDS: usize = 20;

#[test]
fn kill_9_under_load_loses_nothing_that_was_acknowledged() {
    // Every key there ever was is asked for after each kill, so a soak begins anew now and then.
    for _ in 0..soak(10) {
        let folder = tempfile::tempdir().unwrap();
        let known = Mutex::new(BTreeMap::<String, Known>::new());
        let next = AtomicUsize::new(0);
        for round in 0..ROUNDS {
            let payments = start(folder.path());
            load_until_killed(payments, &known, &next, round);
            settle(folder.path(), &known);
        }
        let known = known.into_inner().unwrap();
        let answered = known.values().filter(|known| known.answer.is_some()).count();
        let unknown = known.len() - answered;
        eprintln!(
            "{ROUNDS} kills, {} keys, {answered} answered and replayed, {unknown} unknown for good",
            known.len()
        );
        assert!(answered > ROUNDS * CLIENTS, "there was load: {answered}");
    }
}

fn start(folder: &Path) -> Payments {
    Payments::start_in(folder, &["--lease-ms", "1500"])
}

/// Clients pay, each with keys of its own and again with keys that were answered, until the server is gone.
fn load_until_killed(
    payments: Payments,
    known: &Mutex<BTreeMap<String, Known>>,
    next: &AtomicUsize,
    round: usize,
) {
    let (over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = payments.client();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let (key, amount) = (format!("key-{number}"), number as u64 + 1);
                    known.lock().unwrap().insert(key.clone(), Known { amount, answer: None });
                    // Without an answer nothing is known.
                    let Some(reply) = client.try_post(&key, &body(amount)) else { return };
                    assert_eq!((reply.status, reply.replayed), (201, false), "{key}: {reply:?}");
                    known.lock().unwrap().get_mut(&key).unwrap().answer = Some(reply);
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // At another moment in each round.
        while answers.load(Ordering::SeqCst) < CLIENTS + 3 * round {
            thread::sleep(Duration::from_millis(1));
        }
        payments.kill();
        over.store(true, Ordering::SeqCst);
    });
}

fn body(amount: u64) -> String {
    format!(r#"{{"amount":{amount},"currency":"EUR","simulate":{{"delay_ms":2}}}}"#)
}

/// Starts it again and asks for every key there ever was.
fn settle(folder: &Path, known: &Mutex<BTreeMap<String, Known>>) {
    let payments = start(folder);
    let mut known = known.lock().unwrap();
    for (key, known) in known.iter_mut() {
        let reply = loop {
            let reply = payments.post(key, &body(known.amount));
            if reply.code() != "idempotency_in_progress" {
                break reply;
            }
            thread::sleep(Duration::from_millis(20));
        };
        match &known.answer {
            Some(answer) => {
                assert_eq!(reply, Reply { replayed: true, ..answer.clone() }, "{key} was acknowledged")
            }
            None if reply.code() == "idempotency_outcome_unknown" => {}
            None => known.answer = Some(Reply { replayed: false, ..reply }),
        }
    }
    let mut charges: HashMap<u64, usize> = HashMap::new();
    for charge in payments.ledger() {
        *charges.entry(charge["amount"].as_u64().unwrap()).or_default() += 1;
    }
    for (key, known) in known.iter() {
        let count = charges.get(&known.amount).copied().unwrap_or(0);
        match &known.answer {
            Some(answer) => {
                assert_eq!(count, 1, "{key} was answered");
                let charged: Value = answer.json();
                assert_eq!(charged["amount"], known.amount, "{key}");
            }
            None => assert!(count <= 1, "{key} was charged {count} times"),
        }
    }
}
