//! A client that hangs up, at twenty moments: the retry gets the response of the one execution.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use idempotency::MemoryStore;

use crate::support::soak;

use super::{
    app::wait_until,
    client,
    servers::{ByDefault, Kind, Server},
};

/// Where a client is when it hangs up, and whether its handler has certainly run by then (it has certainly not before).
const MOMENTS: [(&str, Option<bool>); 20] = [
    ("connected, nothing sent", Some(false)),
    ("one byte of the head sent", Some(false)),
    ("the first line sent", Some(false)),
    ("in the middle of the head", Some(false)),
    ("in the middle of the key", Some(false)),
    ("all but the last byte of the head sent", Some(false)),
    ("the head sent, no payload", Some(false)),
    ("one byte of the payload sent", Some(false)),
    ("half of the payload sent", Some(false)),
    ("all but the last byte sent", Some(false)),
    ("all sent", None),
    ("all sent, and half closed", None),
    ("the handler has begun", Some(true)),
    ("the handler has begun, half closed", Some(true)),
    ("the handler is in the middle", Some(true)),
    ("the handler is about to end", Some(true)),
    ("the handler has ended, nothing read", Some(true)),
    ("one byte of the answer read", Some(true)),
    ("the head of the answer read", Some(true)),
    ("all of the answer read", Some(true)),
];

/// Clients of each moment.
fn times() -> usize {
    100 * soak(5)
}

const CLIENTS: usize = 8;

#[test]
fn a_client_that_hangs_up_at_any_moment_gets_the_response_of_the_one_execution() {
    for kind in [Kind::ActixWeb, Kind::Axum] {
        let server = Server::start(kind, MemoryStore::new(), ByDefault);
        let (next, replays) = (AtomicUsize::new(0), MOMENTS.map(|_| AtomicUsize::new(0)));
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let moment = number % MOMENTS.len();
                        if number >= MOMENTS.len() * times() {
                            return;
                        }
                        let replayed = hang_up(&server, moment, &format!("/nap/{number}"));
                        replays[moment].fetch_add(usize::from(replayed), Ordering::Relaxed);
                    }
                });
            }
        });
        for ((moment, has_run), replays) in MOMENTS.iter().zip(&replays) {
            let (replays, times) = (replays.load(Ordering::Relaxed), times());
            eprintln!("{kind:>10}, {moment:40} {times} clients, {replays} replays, nothing run twice");
            match has_run {
                Some(true) => assert_eq!(replays, times, "{moment}"),
                Some(false) => assert_eq!(replays, 0, "{moment}"),
                None => {}
            }
        }
    }
}

/// Whether the retry got a replay.
fn hang_up(server: &Server, moment: usize, path: &str) -> bool {
    let body = b"a payload of some bytes";
    let bytes = client::request("POST", path, &[("idempotency-key", "a-key")], body);
    let head = bytes.len() - body.len();
    let find = |part: &[u8]| bytes.windows(part.len()).position(|window| window == part).unwrap();
    let (line, key) = (find(b"\r\n") + 2, find(b"a-key") + 2);
    let sent = [0, 1, line, head / 2, key, head - 1, head, head + 1, head + body.len() / 2, bytes.len() - 1];
    let mut client = client::connect(&server.address);
    client.write_all(&bytes[..*sent.get(moment).unwrap_or(&bytes.len())]).unwrap();
    let has_begun = || wait_until(|| server.app.begun(path) == 1);
    match moment {
        11 => client.shutdown(Shutdown::Write).unwrap(),
        12 => has_begun(),
        13 => {
            has_begun();
            client.shutdown(Shutdown::Write).unwrap();
        }
        // The handler takes four.
        14 | 15 => {
            has_begun();
            thread::sleep(Duration::from_millis(if moment == 14 { 2 } else { 3 }));
        }
        16 => wait_until(|| server.app.ended(path) == 1),
        17 => client.read_exact(&mut [0]).unwrap(),
        18 => client.read_exact(&mut [0; 60]).unwrap(),
        19 => assert_eq!(client::read(&mut client).unwrap().status, 201),
        _ => {}
    }
    drop(client);
    loop {
        let reply = client::send(&server.address, &bytes);
        if reply.code() == "idempotency_in_progress" {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        assert_eq!((reply.status, reply.text().as_str()), (201, "run 1"), "{}", MOMENTS[moment].0);
        assert_eq!((server.app.begun(path), server.app.ended(path)), (1, 1), "{}", MOMENTS[moment].0);
        return reply.is_replay();
    }
}
