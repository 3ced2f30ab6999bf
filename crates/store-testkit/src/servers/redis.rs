use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    guard::{Folder, Guarded, free_port},
    wait::{PATIENCE, now, wait_until},
};

/// A server of Redis or Valkey of one's own.
///
/// ```no_run
/// use idempotency_store_testkit::servers::Redis;
///
/// let redis = Redis::start(&[]);
/// assert_eq!(redis.command(&["PING"]), "PONG");
/// ```
#[derive(Debug)]
pub struct Redis {
    // Ended before its folder is removed.
    server: Option<Guarded>,
    folder: Folder,
    port: u16,
    args: Vec<String>,
}

impl Redis {
    /// Starts one with these arguments, and waits until it answers. It keeps nothing on the disk unless told to.
    ///
    /// # Panics
    ///
    /// `redis-server` is not installed, or does not start.
    pub fn start(args: &[&str]) -> Self {
        let mut redis = Self { server: None, folder: Folder::new(), port: 0, args: Vec::new() };
        redis.args = ["--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"]
            .iter()
            .chain(args)
            .map(|arg| (*arg).to_owned())
            .collect();
        // Somebody else may have taken the port meanwhile.
        for _ in 0..5 {
            redis.port = free_port();
            if redis.try_start() {
                return redis;
            }
        }
        panic!("redis-server does not start: {}", redis.log());
    }

    /// A replica of this one, which finds it on this port (its own, or that of a [`Proxy`](super::Proxy)); returns when it is
    /// in step.
    pub fn replica(&self, through: u16) -> Self {
        let replica = Self::start(&["--replicaof", "127.0.0.1", &through.to_string()]);
        let address = format!("port={},state=online", replica.port);
        wait_until("a replica in step", || {
            replica.command(&["INFO", "replication"]).contains("link_status:up")
                && self.command(&["INFO", "replication"]).contains(&address)
        });
        replica
    }

    fn try_start(&mut self) -> bool {
        let mut args = vec!["--port".to_owned(), self.port.to_string()];
        args.extend(self.args.iter().cloned());
        let log = self.folder.path().join("log");
        self.server = Some(Guarded::start(&binary(), &args, self.folder.path(), &log));
        let since = now();
        while since.elapsed() < PATIENCE {
            match self.ask(&["PING"]) {
                Ok(answer) if answer == "PONG" => return true,
                _ if self.log().contains("Address already in use") => break,
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
        self.server = None;
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, also after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it with `kill -9`; its folder stays.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it again in the same folder and on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.try_start(), "redis-server does not start again: {}", self.log());
        wait_until("what it kept", || !self.command(&["INFO", "persistence"]).contains("\nloading:1"));
    }

    /// Stops it where it is (`SIGSTOP`): it takes connections and answers nobody.
    pub fn pause(&self) {
        self.server.as_ref().expect("it runs").signal_all(Signal::STOP);
    }

    /// After [`pause`](Self::pause).
    pub fn resume(&self) {
        self.server.as_ref().expect("it runs").signal_all(Signal::CONT);
    }

    /// A replica becomes a primary.
    pub fn promote(&self) {
        self.command(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Sends a command on a connection of its own. Of an array each element is a line.
    ///
    /// # Panics
    ///
    /// It does not answer, or with an error.
    pub fn command(&self, command: &[&str]) -> String {
        self.ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Whether it was done.
    pub(crate) fn try_command(&self, command: &[&str]) -> bool {
        self.ask(command).is_ok()
    }

    fn ask(&self, command: &[&str]) -> io::Result<String> {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        server.set_read_timeout(Some(PATIENCE))?;
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            let _ = write!(request, "${}\r\n{word}\r\n", word.len());
        }
        server.write_all(request.as_bytes())?;
        answer(&mut BufReader::new(server))
    }
}

/// An answer in Redis's protocol.
fn answer(server: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    server.read_line(&mut line)?;
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let length = || rest.parse::<i64>().map_err(io::Error::other);
    match kind {
        "-" => Err(io::Error::other(rest.to_owned())),
        "$" => {
            let Ok(length) = usize::try_from(length()?) else { return Ok(String::new()) };
            let mut bytes = vec![0; length + 2];
            server.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
        }
        "*" => {
            let elements: io::Result<Vec<_>> = (0..length()?.max(0)).map(|_| answer(server)).collect();
            Ok(elements?.join("\n"))
        }
        _ => Ok(rest.to_owned()),
    }
}

fn binary() -> PathBuf {
    let find =
        Command::new("sh").args(["-c", "command -v redis-server || command -v valkey-server"]).output();
    let found = String::from_utf8(find.expect("a shell").stdout).expect("a path");
    match found.trim() {
        "" => panic!("redis-server is not installed: `cargo xtask test --install` installs it"),
        path => path.into(),
    }
}
