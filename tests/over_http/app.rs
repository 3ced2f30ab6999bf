//! What the servers do, in no framework's types: the same handlers behind every adapter.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use idempotency::{
    RequestId,
    tower::{Disposition, IdempotentRequest},
};
use tokio::sync::Semaphore;

/// Counts what was really done.
#[derive(Debug)]
pub(crate) struct App {
    /// By path: how often a handler began, and how often it came to its end.
    runs: Mutex<HashMap<String, (usize, usize)>>,
    /// How often the handler of each tracked request began.
    by_request: Mutex<HashMap<RequestId, usize>>,
    /// What `/slow` waits for.
    pub(crate) gate: Semaphore,
}

/// What a handler answers.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
    pub(crate) body: Body,
    pub(crate) disposition: Option<Disposition>,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Whole(Vec<u8>),
    /// Of unknown length.
    Chunks(Vec<Vec<u8>>),
    /// Breaks off after that.
    Broken(Vec<u8>),
    /// Nothing comes after that, and it does not end.
    Stalled(Vec<u8>),
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(body.into()), disposition: None }
    }

    fn header(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn say(mut self, disposition: Disposition) -> Self {
        self.disposition = Some(disposition);
        self
    }
}

impl App {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { runs: Mutex::default(), by_request: Mutex::default(), gate: Semaphore::new(0) })
    }

    /// Any request with any method, once it came through the middleware.
    pub(crate) async fn handle(
        &self,
        path: &str,
        payload: Vec<u8>,
        ours: Option<IdempotentRequest>,
    ) -> Answer {
        let run = {
            let mut runs = self.runs.lock().unwrap();
            let (begun, _) = runs.entry(path.to_owned()).or_default();
            *begun += 1;
            *begun
        };
        if let Some(ours) = &ours {
            *self.by_request.lock().unwrap().entry(ours.id()).or_default() += 1;
        }
        let answer = self.answer(path, payload, run, ours).await;
        self.runs.lock().unwrap().get_mut(path).unwrap().1 += 1;
        answer
    }

    async fn answer(
        &self,
        path: &str,
        payload: Vec<u8>,
        run: usize,
        ours: Option<IdempotentRequest>,
    ) -> Answer {
        let chunks = |count: usize| Body::Chunks(vec![vec![b'x'; 64 * 1024]; count]);
        match path.split('/').nth(1).unwrap_or_default() {
            "slow" => {
                self.gate.acquire().await.unwrap().forget();
                Answer::new(201, format!("run {run}"))
            }
            "nap" => {
                tokio::time::sleep(Duration::from_millis(4)).await;
                Answer::new(201, format!("run {run}"))
            }
            "status" => Answer::new(path["/status/".len()..].parse().unwrap(), format!("run {run}")),
            "sized" => Answer::new(200, vec![b'x'; path["/sized/".len()..].parse().unwrap()]),
            "echo" => Answer::new(200, payload),
            "empty" => Answer::new(204, ""),
            "panic" => panic!("as planned"),
            "large" => Answer { body: chunks(24), ..Answer::new(200, "") },
            "large_whole" => Answer::new(200, vec![b'x'; 1024 * 1024 + 1]),
            "chunked" => Answer { body: chunks(3), ..Answer::new(200, "") },
            "events" => Answer { body: chunks(2), ..Answer::new(200, "") }
                .header("content-type", "Text/Event-Stream; charset=utf-8"),
            "marked" => Answer::new(200, "a stream").say(Disposition::Stream),
            "broken" => Answer { body: Body::Broken(b"half of it".to_vec()), ..Answer::new(200, "") },
            "stalled" => Answer { body: Body::Stalled(b"some".to_vec()), ..Answer::new(200, "") },
            "replayed" => Answer::new(200, "a lie").header("idempotency-replayed", "true"),
            "release" => Answer::new(500, format!("run {run}")).say(Disposition::Release),
            "keep" => Answer::new(429, format!("run {run}")).say(Disposition::Keep),
            "says" => {
                let ours = ours.expect("a tracked request");
                let answer = Answer::new(500, format!("run {run}"));
                match &path["/says/".len()..] {
                    "release" => ours.release(),
                    "halt" => ours.halt(),
                    "keep" => ours.keep(),
                    "two_things" => {
                        ours.halt();
                        return answer.say(Disposition::Keep);
                    }
                    said => panic!("{said}"),
                }
                answer
            }
            "ours" => match ours {
                None => Answer::new(200, "untracked"),
                Some(ours) => {
                    let (key, charge, mail) = (ours.key().as_str(), ours.child("charge"), ours.child("mail"));
                    Answer::new(200, format!("{key} {charge} {mail} {} {ours:?}", ours.is_held()))
                }
            },
            "halt" => Answer::new(200, format!("run {run}")).say(Disposition::Halt),
            _ => Answer::new(201, format!("run {run} \0\u{ff}"))
                .header("location", format!("/things/{run}"))
                .header("link", "<a>; rel=\"x\"")
                .header("link", "<b>; rel=\"y\"")
                .header("x-binary", b"\xe4\xf6".to_vec())
                .header("expires", "Thu, 01 Jan 1970 00:00:00 GMT")
                .header("cache-control", "no-store")
                .header("set-cookie", format!("session={run}"))
                .header("x-request-id", format!("{run}"))
                .header("x-of-the-connection", "hop")
                .header("connection", "x-of-the-connection"),
        }
    }

    /// How often the handler of a path began.
    pub(crate) fn begun(&self, path: &str) -> usize {
        self.runs.lock().unwrap().get(path).map_or(0, |(begun, _)| *begun)
    }

    /// How often the request whose handler began most often did.
    pub(crate) fn most_begun(&self) -> usize {
        self.by_request.lock().unwrap().values().copied().max().unwrap_or_default()
    }

    pub(crate) fn ended(&self, path: &str) -> usize {
        self.runs.lock().unwrap().get(path).map_or(0, |(_, ended)| *ended)
    }
}

/// Waits for what another thread is about to do.
#[expect(clippy::disallowed_methods, reason = "real servers run on real time")]
pub(crate) fn wait_until(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(20), "it never happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}
