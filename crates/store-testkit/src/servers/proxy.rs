use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Stands between a client and a server, and does what networks do.
///
/// ```no_run
/// use idempotency_store_testkit::servers::{Proxy, Redis};
///
/// let redis = Redis::start(&[]);
/// let proxy = Proxy::start(redis.port());
/// // The next reply to a script is read from the server and then lost, with the connection.
/// proxy.lose_replies(1, "EVAL");
/// ```
#[derive(Debug)]
pub struct Proxy {
    state: Arc<State>,
    port: u16,
}

#[derive(Debug, Default)]
struct State {
    /// How many replies are read from the server and not handed on; each takes its connection with it.
    lose: AtomicUsize,
    /// The same with requests.
    lose_requests: AtomicUsize,
    to: Mutex<Vec<u8>>,
    delay: AtomicU64,
    upstream: AtomicU16,
    /// Connections of an earlier count hand nothing on any more, and stay.
    silenced: AtomicUsize,
    /// Connections of an earlier count are cut.
    cut: AtomicUsize,
    /// Nobody gets through.
    is_down: AtomicBool,
    lost: AtomicUsize,
    over: AtomicBool,
}

/// How often a connection looks whether it is to be cut.
const LOOK: Duration = Duration::from_millis(5);

impl Proxy {
    /// In front of a port of this machine.
    ///
    /// # Panics
    ///
    /// There is no port for it.
    pub fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::<State>::default();
        state.upstream.store(upstream, Ordering::SeqCst);
        let of_thread = state.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if of_thread.over.load(Ordering::SeqCst) {
                    return;
                }
                if of_thread.is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let since = Since::now(&of_thread);
                let upstream = of_thread.upstream.load(Ordering::SeqCst);
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream));
                let (Ok(client), Ok(server)) = (client, server) else { continue };
                let state = of_thread.clone();
                let (Ok(to_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else {
                    continue;
                };
                let (of_requests, is_asked) = (state.clone(), Arc::new(AtomicBool::new(false)));
                let asked = is_asked.clone();
                thread::spawn(move || {
                    carry(&of_requests, since, client, to_server, |request| {
                        let to = of_requests.to.lock().unwrap_or_else(PoisonError::into_inner).clone();
                        let is_meant = request.windows(to.len().max(1)).any(|bytes| bytes == to);
                        if is_meant && takes_one(&of_requests.lose_requests) {
                            of_requests.lost.fetch_add(1, Ordering::SeqCst);
                            return false;
                        }
                        asked.fetch_or(is_meant, Ordering::SeqCst);
                        true
                    });
                });
                thread::spawn(move || {
                    carry(&state, since, server, to_client, |_| {
                        let loses = is_asked.swap(false, Ordering::SeqCst) && state.loses_one();
                        let delay = state.delay.load(Ordering::SeqCst);
                        if delay > 0 && !loses {
                            thread::sleep(Duration::from_millis(delay));
                        }
                        !loses
                    });
                });
            }
        });
        Self { state, port }
    }

    /// Where clients find the server behind it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of the next so many replies to requests in which this stands, each is read from the server, and lost together with
    /// its connection.
    pub fn lose_replies(&self, count: usize, to: impl AsRef<[u8]>) {
        *self.state.to.lock().unwrap_or_else(PoisonError::into_inner) = to.as_ref().to_vec();
        self.state.lose.store(count, Ordering::SeqCst);
    }

    /// Each of the next so many requests in which this stands is not handed on to the server, and is lost together with its
    /// connection.
    pub fn lose_requests(&self, count: usize, to: impl AsRef<[u8]>) {
        *self.state.to.lock().unwrap_or_else(PoisonError::into_inner) = to.as_ref().to_vec();
        self.state.lose_requests.store(count, Ordering::SeqCst);
    }

    /// How many replies and requests were lost so far.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }

    /// Hands on what comes from the server only after this time.
    pub fn delay(&self, by: Duration) {
        self.state.delay.store(by.as_millis() as u64, Ordering::SeqCst);
    }

    /// New connections go to this port from now on.
    pub fn lead_to(&self, upstream: u16) {
        self.state.upstream.store(upstream, Ordering::SeqCst);
    }

    /// Of the connections that there are nothing is handed on any more, in neither direction, and none ends.
    pub fn silence(&self) {
        self.state.silenced.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.state.cut.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts all connections and takes no new ones, until told otherwise.
    pub fn down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::SeqCst);
        self.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that listens.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn loses_one(&self) -> bool {
        let loses = takes_one(&self.lose);
        self.lost.fetch_add(usize::from(loses), Ordering::SeqCst);
        loses
    }
}

/// Whether there was one left.
fn takes_one(of: &AtomicUsize) -> bool {
    of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// How often connections had been cut and silenced when this one was made.
#[derive(Debug, Clone, Copy)]
struct Since {
    cut: usize,
    silenced: usize,
}

impl Since {
    fn now(state: &State) -> Self {
        Self { cut: state.cut.load(Ordering::SeqCst), silenced: state.silenced.load(Ordering::SeqCst) }
    }
}

/// Until one side ends, the connection is cut, or something is not to be handed on.
fn carry(
    state: &State,
    since: Since,
    mut from: TcpStream,
    mut to: TcpStream,
    hands_on: impl Fn(&[u8]) -> bool,
) {
    let _ = from.set_read_timeout(Some(LOOK));
    let mut bytes = vec![0; 64 * 1024];
    while state.cut.load(Ordering::SeqCst) == since.cut {
        let count = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if state.silenced.load(Ordering::SeqCst) != since.silenced {
            continue;
        }
        if !hands_on(&bytes[..count]) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
