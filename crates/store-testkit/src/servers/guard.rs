//! What outlives no test: a shell stands beside each server and each folder, and clears up when its input ends, which it
//! does when the test ends, however it ends.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|port| port.local_addr())
        .expect("a free port")
        .port()
}

/// A process that is not left behind.
#[derive(Debug)]
pub(crate) struct Guarded {
    shell: Child,
    pid: Pid,
}

impl Guarded {
    /// What it prints goes to the file.
    pub(crate) fn start(program: &Path, args: &[impl AsRef<OsStr>], folder: &Path, log: &Path) -> Self {
        Self::start_as(None, program, args, folder, log)
    }

    /// As another user.
    pub(crate) fn start_as(
        user: Option<u32>,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        folder: &Path,
        log: &Path,
    ) -> Self {
        // Its children are ended with it.
        const BESIDE: &str = r#"log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!
            cat >/dev/null; children=$(cat /proc/$!/task/$!/children); kill -9 $! $children 2>/dev/null; wait
            for child in $children; do while kill -0 $child 2>/dev/null; do sleep 0.01; done; done"#;
        let mut command = Command::new("sh");
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut shell = command
            .args(["-c", BESIDE, "sh"])
            .arg(log)
            .arg(program)
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let output = shell.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("the number of the process");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("the number of the process");
        Self { shell, pid }
    }

    /// To the process and its children.
    pub(crate) fn signal_all(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process is there");
        let pid = self.pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // It may have ended meanwhile.
            let _ = kill_process(child, signal);
        }
    }

    /// With `kill -9`. Returns when it is gone.
    fn kill(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder that is not left behind.
#[derive(Debug)]
pub(crate) struct Folder {
    shell: Child,
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("idempotency-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        // The servers are ended at the same moment, and must not write any more.
        let shell = Command::new("sh")
            .args(["-c", r#"cat >/dev/null; sleep 0.3; rm -rf "$1""#, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        Self { shell, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
