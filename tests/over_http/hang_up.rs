//! A client that hangs up, at ten moments: the retry gets the response of the one execution.

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use idempotency::MemoryStore;

use super::{
    app::wait_until,
    client,
    servers::{ByDefault, Kind, Server},
};

const MOMENTS: [&str; 10] = [
    "connected, nothing sent",
    "in the middle of the head",
    "the head sent, no payload",
    "half of the payload sent",
    "all but the last byte sent",
    "all sent",
    "the handler has begun",
    "the handler is about to end",
    "the handler has ended, nothing read",
    "one byte of the answer read",
];
const TIMES: usize = 200;
const CLIENTS: usize = 8;

#[test]
fn a_client_that_hangs_up_at_any_moment_gets_the_response_of_the_one_execution() {
    for kind in [Kind::ActixWeb, Kind::Axum] {
        let server = Server::start(kind, MemoryStore::new(), ByDefault);
        let (next, replays) = (AtomicUsize::new(0), [(); MOMENTS.len()].map(|()| AtomicUsize::new(0)));
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let moment = number % MOMENTS.len();
                        if number >= MOMENTS.len() * TIMES {
                            return;
                        }
                        let replayed = hang_up(&server, moment, &format!("/nap/{number}"));
                        replays[moment].fetch_add(usize::from(replayed), Ordering::Relaxed);
                    }
                });
            }
        });
        for (moment, replays) in MOMENTS.iter().zip(&replays) {
            let replays = replays.load(Ordering::Relaxed);
            eprintln!("{kind:>10}, {moment:35} {TIMES} clients, {replays} replays, nothing run twice");
        }
        // Nothing can have run before the payload was there; everything has once the handler began.
        let replays = replays.map(|replays| replays.load(Ordering::Relaxed));
        assert_eq!(replays[..5], [0; 5]);
        assert_eq!(replays[6..], [TIMES; 4]);
    }
}

/// Whether the retry got a replay.
fn hang_up(server: &Server, moment: usize, path: &str) -> bool {
    let body = b"a payload of some bytes";
    let bytes = client::request("POST", path, &[("idempotency-key", "k")], body);
    let head = bytes.len() - body.len();
    let sent = [0, head / 2, head, head + body.len() / 2, bytes.len() - 1];
    let mut client = client::connect(&server.address);
    client.write_all(&bytes[..*sent.get(moment).unwrap_or(&bytes.len())]).unwrap();
    match moment {
        6 => wait_until(|| server.app.begun(path) == 1),
        7 => {
            wait_until(|| server.app.begun(path) == 1);
            // The handler takes four.
            thread::sleep(Duration::from_millis(3));
        }
        8 => wait_until(|| server.app.ended(path) == 1),
        9 => client.read_exact(&mut [0]).unwrap(),
        _ => {}
    }
    drop(client);
    loop {
        let reply = client::send(&server.address, &bytes);
        if reply.code() == "idempotency_in_progress" {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        assert_eq!((reply.status, reply.text().as_str()), (201, "run 1"), "{}", MOMENTS[moment]);
        assert_eq!((server.app.begun(path), server.app.ended(path)), (1, 1), "{}", MOMENTS[moment]);
        return reply.is_replay();
    }
}
