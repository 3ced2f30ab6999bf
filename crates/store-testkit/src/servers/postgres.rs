use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    net::{Ipv4Addr, TcpStream},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use rustix::process::{Signal, geteuid};

use super::{
    guard::{Folder, Guarded, free_port},
    wait::wait_until,
};

/// The user, and the database, which is there from the beginning.
const USER: &str = "payments";
const DATABASE: &str = "postgres";

/// PostgreSQL refuses to run as root; this user may do nothing else.
const NOBODY: u32 = 65_534;

/// A folder with an empty database, which each server gets a copy of.
static EMPTY: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    give_away(folder.path());
    let data = folder.path().join("data");
    let to = ["-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"].map(OsStr::new);
    let args = [OsStr::new("-D"), data.as_os_str(), OsStr::new("-U"), OsStr::new(USER)];
    run(&binary("initdb"), args.into_iter().chain(to));
    folder
});

/// A PostgreSQL server of one's own.
///
/// ```no_run
/// use idempotency_store_testkit::servers::Postgres;
///
/// let postgres = Postgres::start(&["max_connections=50"]);
/// assert_eq!(postgres.sql("SELECT 1 + 1"), "2");
/// ```
#[derive(Debug)]
pub struct Postgres {
    // Ended before its folder is removed.
    server: Option<Guarded>,
    folder: Folder,
    port: u16,
    settings: Vec<String>,
}

impl Postgres {
    /// Starts one with these settings (`name=value`) and waits until it answers. Everything else is as PostgreSQL has it.
    ///
    /// # Panics
    ///
    /// PostgreSQL is not installed, or does not start.
    pub fn start(settings: &[&str]) -> Self {
        let mut postgres = Self::new(settings);
        run(
            "cp".as_ref(),
            [OsStr::new("-a"), EMPTY.path().join("data").as_os_str(), postgres.data().as_os_str()],
        );
        postgres.start_on_a_free_port();
        postgres
    }

    /// A standby of this one, which finds it on this port (its own, or that of a [`Proxy`](super::Proxy)) under the name
    /// `standby`; returns when it follows.
    ///
    /// # Panics
    ///
    /// It does not start, or does not follow.
    pub fn standby(&self, through: u16) -> Self {
        let mut standby = Self::new(&[]);
        let data = standby.data();
        let from = format!("host=127.0.0.1 port={through} user={USER} application_name=standby");
        let args = ["-R", "-c", "fast", "-X", "stream", "--no-sync", "-d", &from, "-D"].map(OsStr::new);
        run(&binary("pg_basebackup"), args.into_iter().chain([data.as_os_str()]));
        standby.start_on_a_free_port();
        wait_until("a standby that follows", || {
            self.sql("SELECT state FROM pg_stat_replication WHERE application_name = 'standby'")
                == "streaming"
        });
        standby
    }

    fn new(settings: &[&str]) -> Self {
        let folder = Folder::new();
        give_away(folder.path());
        let settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=64MB"]
            .iter()
            .chain(settings)
            .map(|setting| (*setting).to_owned())
            .collect();
        Self { server: None, folder, port: 0, settings }
    }

    /// The folder of its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start_on_a_free_port(&mut self) {
        // Somebody else may have taken the port meanwhile.
        for _ in 0..5 {
            self.port = free_port();
            if self.try_start() {
                return;
            }
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    fn try_start(&mut self) -> bool {
        let mut args = vec!["-D".to_owned(), self.data().display().to_string()];
        for setting in self.settings.iter().chain([&format!("port={}", self.port)]) {
            args.extend(["-c".to_owned(), setting.clone()]);
        }
        let log = self.folder.path().join("log");
        let _ = fs::write(&log, "");
        give_away(&log);
        self.server =
            Some(Guarded::start_as(someone(), &binary("postgres"), &args, self.folder.path(), &log));
        let mut is_taken = false;
        wait_until("PostgreSQL", || {
            let log = self.log();
            is_taken = log.contains("could not create any TCP/IP sockets");
            assert!(is_taken || !log.contains("FATAL:  could not"), "PostgreSQL does not start: {log}");
            is_taken
                || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
                    && self.psql("SELECT 1").status.success()
        });
        if is_taken {
            self.server = None;
        }
        !is_taken
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// Where clients find it behind a [`Proxy`](super::Proxy) on this port.
    pub fn url_through(&self, port: u16) -> String {
        format!("postgres://{USER}@127.0.0.1:{port}/{DATABASE}")
    }

    /// The port it listens on, also after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all its processes with `kill -9`; its folder stays.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts it again in the same folder and on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.try_start(), "PostgreSQL does not start again: {}", self.log());
    }

    /// Stops all its processes where they are (`SIGSTOP`).
    pub fn pause(&self) {
        self.server.as_ref().expect("it runs").signal_all(Signal::STOP);
    }

    /// After [`pause`](Self::pause).
    pub fn resume(&self) {
        self.server.as_ref().expect("it runs").signal_all(Signal::CONT);
    }

    /// Gives a file to whoever runs the server, and to nobody else.
    ///
    /// # Panics
    ///
    /// It is not there.
    pub fn give_away(&self, file: &Path) {
        fs::set_permissions(file, Permissions::from_mode(0o600)).expect("a file");
        give_away(file);
    }

    /// A standby becomes a primary.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
    }

    /// What a statement answers, on a connection of its own: a line a row, `|` between columns.
    ///
    /// # Panics
    ///
    /// It fails.
    pub fn sql(&self, statement: &str) -> String {
        let output = self.psql(statement);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {said}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What takes too long fails.
    fn psql(&self, statement: &str) -> Output {
        let port = self.port.to_string();
        let args = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            USER,
            "-d",
            DATABASE,
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
        ];
        Command::new(binary("psql"))
            .env("PGOPTIONS", "-c statement_timeout=20000")
            .env("PGCONNECT_TIMEOUT", "5")
            .args(args)
            .arg(statement)
            .output()
            .expect("psql")
    }
}

/// Whoever runs the server, if it must be somebody else.
fn someone() -> Option<u32> {
    geteuid().is_root().then_some(NOBODY)
}

fn give_away(path: &Path) {
    if let Some(someone) = someone() {
        chown(path, Some(someone), Some(someone)).expect("a folder that can be given away");
    }
}

fn run<'a>(program: &Path, args: impl IntoIterator<Item = &'a OsStr>) {
    let mut command = Command::new(program);
    command.args(args).current_dir("/");
    if let Some(someone) = someone() {
        command.uid(someone).gid(someone);
    }
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
}

/// On the path, or where Debian puts the newest.
fn binary(name: &str) -> PathBuf {
    let find = format!(
        "command -v {name} || ls -1 /usr/lib/postgresql/*/bin/{name} 2>/dev/null | sort -V | tail -1"
    );
    let found = Command::new("sh").args(["-c", &find]).output().expect("a shell").stdout;
    match String::from_utf8(found).expect("a path").trim() {
        "" => panic!("PostgreSQL ({name}) is not installed: `cargo xtask test --install` installs it"),
        path => path.into(),
    }
}
