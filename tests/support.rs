//! The examples as programs: built once, started on a free port, spoken to over real HTTP, and ended.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use cargo_metadata::Message;
use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

/// Where each example of the workspace was built to.
static EXAMPLES: LazyLock<HashMap<String, PathBuf>> = LazyLock::new(|| {
    let mut build = Command::new(env!("CARGO"))
        .args(["build", "--workspace", "--examples", "--message-format=json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo build");
    let messages = Message::parse_stream(BufReader::new(build.stdout.take().unwrap()));
    let built = messages
        .filter_map(|message| match message.expect("a message of cargo") {
            Message::CompilerArtifact(artifact) if artifact.target.is_example() => {
                Some((artifact.target.name, artifact.executable?.into_std_path_buf()))
            }
            _ => None,
        })
        .collect();
    assert!(build.wait().unwrap().success(), "the examples do not build");
    built
});

/// How many times as much is done in a soak as otherwise: `factor` if this is one.
pub(crate) fn soak(factor: usize) -> usize {
    if std::env::var_os("IDEMPOTENCY_SOAK").is_some() { factor } else { 1 }
}

pub(crate) fn example(name: &str) -> Command {
    let mut command = Command::new(&EXAMPLES[name]);
    command.env_remove("RUST_LOG").env("RUST_BACKTRACE", "0");
    command
}

/// A running example that is a server; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: String,
    /// All that it prints until it ends.
    output: Option<JoinHandle<Vec<String>>>,
    /// Where it keeps its files, unless the test brought a folder of its own.
    _folder: Option<TempDir>,
}

impl Running {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut running = Self::start_in(folder.path(), name, args);
        running._folder = Some(folder);
        running
    }

    pub(crate) fn start_in(folder: &Path, name: &str, args: &[&str]) -> Self {
        let mut command = example(name);
        command.current_dir(folder).args(args).stderr(Stdio::null());
        Self::start_as(command)
    }

    /// However it is started.
    pub(crate) fn start_as(mut command: Command) -> Self {
        let command = command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let output = thread::spawn(move || {
            let tell = |line: &String| drop(sender.send(line.clone()));
            stdout.lines().map_while(Result::ok).inspect(tell).collect()
        });
        let first = lines.recv_timeout(Duration::from_secs(30)).expect("it says where it listens");
        let address = first.strip_prefix("listening on http://").expect("its first line").to_owned();
        Self { child, address, output: Some(output), _folder: None }
    }

    /// Asks it to stop, as an init system does.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let status = self.child.wait().unwrap();
        (status, self.output.take().unwrap().join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `payments`, and a client of it.
pub(crate) struct Payments {
    running: Running,
    agent: Agent,
}

impl Deref for Payments {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) replayed: bool,
    pub(crate) location: Option<String>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Speaks to one address.
pub(crate) struct Client {
    agent: Agent,
    address: String,
}

impl Client {
    /// `None` if there was no whole answer.
    pub(crate) fn try_post(&self, key: &str, body: &str) -> Option<Reply> {
        self.try_post_with(&[("idempotency-key", key)], body)
    }

    fn try_post_with(&self, headers: &[(&str, &str)], body: &str) -> Option<Reply> {
        let url = format!("http://{}/payments", self.address);
        let mut request = self.agent.post(url).content_type("application/json");
        for (name, value) in headers {
            request.headers_mut().unwrap().append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let mut response = request.send(body).ok()?;
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Some(Reply {
            status: response.status().as_u16(),
            replayed: header("idempotency-replayed").as_deref() == Some("true"),
            location: header("location"),
            retry_after: header("retry-after").map(|seconds| seconds.parse().unwrap()),
            body: response.body_mut().read_to_string().ok()?,
        })
    }
}

impl Payments {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::client_of(Running::start("payments", args))
    }

    /// With its files in this folder, where they are found again after it was killed.
    pub(crate) fn start_in(folder: &Path, args: &[&str]) -> Self {
        Self::client_of(Running::start_in(folder, "payments", args))
    }

    fn client_of(running: Running) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .max_idle_connections(0)
            .build()
            .into();
        Self { running, agent }
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }

    pub(crate) fn post(&self, key: &str, body: &str) -> Reply {
        self.post_with(&[("idempotency-key", key)], body)
    }

    pub(crate) fn post_with(&self, headers: &[(&str, &str)], body: &str) -> Reply {
        self.client().try_post_with(headers, body).expect("an answer")
    }

    /// A client that lives on when the server is gone.
    pub(crate) fn client(&self) -> Client {
        Client { agent: self.agent.clone(), address: self.address.clone() }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut response =
            self.agent.get(format!("http://{}{path}", self.address)).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    /// The charges really made.
    pub(crate) fn ledger(&self) -> Vec<Value> {
        let (status, body) = self.get("/payments");
        assert_eq!(status, 200);
        serde_json::from_str(&body).expect("a JSON array")
    }

    pub(crate) fn in_flight(&self) -> u64 {
        let health: Value = serde_json::from_str(&self.get("/health").1).unwrap();
        health["in_flight"].as_u64().unwrap()
    }

    /// Waits until so many payments are being worked on.
    #[expect(clippy::disallowed_methods, reason = "a real program runs on real time")]
    pub(crate) fn wait_for_in_flight(&self, count: u64) {
        let since = Instant::now();
        while self.in_flight() != count {
            assert!(since.elapsed() < Duration::from_secs(20), "still {} in flight", self.in_flight());
            thread::yield_now();
        }
    }

    pub(crate) fn wait(self) -> (ExitStatus, Vec<String>) {
        self.running.wait()
    }
}
