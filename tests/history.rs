//! Nodes are killed under load, and the checker of histories judges what they had noted.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use idempotency_store_testkit::history::{self, Call, Operation, Violation};

use crate::support::soak;

/// A node that notes its calls into a file, which is there when the node is gone.
pub(crate) struct Node {
    child: Child,
    notes: PathBuf,
}

impl Node {
    pub(crate) fn start(folder: &Path, number: usize, args: &[&str]) -> Self {
        let notes = folder.join(format!("node-{number}.history"));
        let child = Command::new(env!("CARGO_BIN_EXE_hammer"))
            // First, for a test may want other ones. More kills need more keys, or all of them are settled before.
            .args(["--keys", &(200 * soak(10)).to_string()])
            .args(args)
            .args(["--seed", &number.to_string()])
            .stdout(Stdio::from(File::create(&notes).unwrap()))
            .spawn()
            .expect("a node");
        Self { child, notes }
    }

    /// Until it has noted so many bytes.
    #[expect(clippy::disallowed_methods, reason = "a real program runs on real time")]
    pub(crate) fn wait_for_notes(&mut self, bytes: u64) {
        let since = Instant::now();
        while self.notes.metadata().unwrap().len() < bytes {
            assert!(since.elapsed() < Duration::from_secs(60), "a node that does nothing");
            assert!(self.child.try_wait().unwrap().is_none(), "the node ended by itself");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn kill(mut self) -> Vec<Call> {
        self.end();
        history::read(File::open(&self.notes).unwrap()).unwrap()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Until it has ended.
    pub(crate) fn finish(mut self) -> Vec<Call> {
        assert!(self.child.wait().unwrap().success());
        history::read(File::open(&self.notes).unwrap()).unwrap()
    }
}

/// A test that fails leaves no node behind.
impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// The file may lose the last second of renewals, which is why the tracker that had them must be gone, too. They are noted
/// like those of which nobody heard whether they came.
fn may_be_lost(calls: &mut [Call]) {
    for call in calls {
        if matches!(call.operation, Operation::Renew { .. }) {
            call.ended = None;
        }
    }
}

/// Kills a node so often, under load, and lets the last one go on to the end.
fn kill_again_and_again(store: &str, rounds: usize) -> (Vec<Call>, Result<history::Summary, Violation>) {
    let folder = tempfile::tempdir().unwrap();
    let store = store.replace("FOLDER", folder.path().to_str().unwrap());
    let mut calls = Vec::new();
    for round in 0..rounds {
        let mut node = Node::start(folder.path(), round, &["--store", &store]);
        // At another moment in each round.
        node.wait_for_notes(20_000 + 3_001 * (round as u64 % 20));
        calls.extend(node.kill());
    }
    let last = Node::start(folder.path(), rounds, &["--store", &store, "--tracks", "300"]);
    calls.extend(last.finish());
    may_be_lost(&mut calls);
    let judged = history::check(&calls);
    (calls, judged)
}

#[test]
fn i6_no_acknowledged_call_is_lost_by_a_killed_node_on_redb() {
    let rounds = 20 * soak(10);
    let (calls, judged) = kill_again_and_again("redb:FOLDER/records.redb", rounds);
    let summary = judged.unwrap_or_else(|violation| {
        let those: Vec<_> = calls.iter().filter(|call| call.id == violation.id).collect();
        panic!("{violation}\n{those:#?}")
    });
    eprintln!("{rounds} kills: {summary}");
    assert!(summary.claims > 5 * rounds && summary.unanswered > 0, "there was load: {summary}");
}

#[test]
fn a_store_that_forgets_when_its_node_is_killed_is_caught() {
    let (_, judged) = kill_again_and_again("memory", 3);
    let violation = judged.expect_err("nothing of the memory survives");
    eprintln!("memory, killed: {violation}");
    assert!(["I1", "I3", "I6"].contains(&violation.promise), "{violation}");
}
