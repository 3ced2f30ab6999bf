//! A flood of distinct keys from another process.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufReader, BufWriter, Read, Write},
    ops::RangeBounds,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use crate::support::soak;

/// Who floods, and who only wants to be served; all others count from 100.
const FLOODING: u64 = 1;
const OTHER: u64 = 2;

/// What the store takes for a record with its response, at least. See `store-memory`.
const A_RECORD: u64 = 512 + 256;

#[test]
fn i12_a_flood_of_distinct_keys_evicts_nothing_and_the_memory_stays_within_its_budget() {
    let (budget, keys) = (soak(10) as u64 * (256 << 20) / 10, soak(100) as u64 * 100_000);
    // 512 count for a record against the limit of a tenant, 768 against the budget: he may have nine sixteenths of it.
    let mut node = Node::start(budget, budget * 3 / 8);
    for key in 0..100 {
        node.ask(OTHER, key);
    }
    let before = node.answers();
    assert_eq!(before.of(..), [('d', 100)].into());
    let at_rest = node.memory("VmRSS");

    // One tenant floods. The other needs a tenth of the budget, and asks as long as the flood lasts.
    let of_other = budget / 10 / A_RECORD;
    for key in 0..keys {
        node.ask(FLOODING, key);
        if key % (keys / of_other) == 0 {
            node.ask(OTHER, 100 + key);
        }
    }
    let flooded = node.answers();
    let of_flood = flooded.of(FLOODING..=FLOODING);
    assert!(of_flood.keys().all(|letter| "dou".contains(*letter)), "{of_flood:?}");
    assert!(of_flood[&'o'] > 0 && of_flood[&'d'] * A_RECORD > budget / 2, "{of_flood:?}");
    let served = flooded.of(OTHER..=OTHER);
    assert!(
        served.keys().eq([&'d']) && served[&'d'] >= of_other,
        "the other is served throughout: {served:?}"
    );

    // Then all the world does.
    for key in 0..keys / 4 {
        node.ask(100 + key, key);
    }
    let filled = node.answers();
    let of_all = filled.of(100..);
    assert!(of_all.keys().all(|letter| "dou".contains(*letter)) && of_all[&'o'] > 0, "{of_all:?}");

    // Whatever was stored is there.
    let done: Vec<(u64, u64)> = [before, flooded, filled].iter().flat_map(Answers::done).collect();
    for (tenant, key) in &done {
        node.ask(*tenant, *key);
    }
    assert_eq!(node.answers().of(..), [('r', done.len() as u64)].into());

    let most = node.memory("VmHWM");
    let grown = most - at_rest;
    eprintln!(
        "{keys} keys of one tenant and {} of as many into {} MiB: {} stored and all replayed, {} refused; \
         memory grew by {:.2} times the budget",
        keys / 4,
        budget >> 20,
        done.len(),
        of_flood[&'o'] + of_all[&'o'],
        grown as f64 / budget as f64
    );
    assert!(grown * 10 <= budget * 12, "{grown} of {budget} bytes");
}

struct Node {
    child: Child,
    input: BufWriter<ChildStdin>,
    asked: usize,
    answered: Receiver<(u64, u64, u8)>,
}

impl Node {
    fn start(budget: u64, tenant_bytes: u64) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_flooded"))
            .args(["--budget", &budget.to_string(), "--tenant-bytes", &tenant_bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = BufWriter::new(child.stdin.take().unwrap());
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, answered) = mpsc::channel();
        thread::spawn(move || {
            let mut answer = [0; 17];
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            while output.read_exact(&mut answer).is_ok() {
                let _ = sender.send((number(&answer[..8]), number(&answer[8..16]), answer[16]));
            }
        });
        Self { child, input, asked: 0, answered }
    }

    fn ask(&mut self, tenant: u64, key: u64) {
        self.input.write_all(&tenant.to_le_bytes()).unwrap();
        self.input.write_all(&key.to_le_bytes()).unwrap();
        self.asked += 1;
    }

    /// To all that was asked since the last time.
    fn answers(&mut self) -> Answers {
        self.input.flush().unwrap();
        let next = || self.answered.recv_timeout(Duration::from_secs(60)).expect("an answer in time");
        let answers = (0..self.asked).map(|_| next()).collect();
        self.asked = 0;
        Answers(answers)
    }

    /// In bytes.
    fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).expect(what);
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tenant, key and letter of each.
struct Answers(Vec<(u64, u64, u8)>);

impl Answers {
    /// How many of each letter those of these tenants heard.
    fn of(&self, tenants: impl RangeBounds<u64>) -> BTreeMap<char, u64> {
        let mut letters = BTreeMap::new();
        for (_, _, letter) in self.0.iter().filter(|(tenant, ..)| tenants.contains(tenant)) {
            *letters.entry(char::from(*letter)).or_default() += 1;
        }
        letters
    }

    fn done(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().filter(|(.., letter)| *letter == b'd').map(|(tenant, key, _)| (*tenant, *key))
    }
}
