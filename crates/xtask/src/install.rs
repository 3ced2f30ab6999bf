//! The programs that tests need: servers that they start privately, and `curl`. A missing one is installed or is an
//! error: a skipped server is never a green test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A program that tests start; the servers among them on a free port and in a temporary folder.
struct Program {
    binary: &'static str,
    /// Where distributions hide it, beside `PATH`.
    also_below: Option<&'static str>,
    /// Its package: apt, dnf, apk, pacman, brew.
    packages: [&'static str; 5],
}

const PROGRAMS: &[Program] = &[
    Program { binary: "curl", also_below: None, packages: ["curl"; 5] },
    Program {
        binary: "redis-server",
        also_below: None,
        packages: ["redis-server", "redis", "redis", "redis", "redis"],
    },
    Program {
        binary: "initdb",
        also_below: Some("/usr/lib/postgresql"),
        packages: ["postgresql", "postgresql-server", "postgresql", "postgresql", "postgresql"],
    },
];

/// A package manager and how it installs without asking.
const MANAGERS: [(&str, &[&str]); 5] = [
    ("apt-get", &["install", "-y", "--no-install-recommends"]),
    ("dnf", &["install", "-y"]),
    ("apk", &["add"]),
    ("pacman", &["-S", "--noconfirm"]),
    ("brew", &["install"]),
];

pub(crate) fn programs(install: bool) -> Result<(), String> {
    let missing: Vec<&Program> = PROGRAMS.iter().filter(|program| !program.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|program| program.binary).collect::<Vec<_>>().join(", ");
    let manager = MANAGERS.iter().position(|(manager, _)| in_path(manager).is_some());
    let Some(index) = manager else {
        return Err(format!(
            "missing: {names}; install them, for there is no package manager that xtask knows"
        ));
    };
    let (manager, install_args) = MANAGERS[index];
    let packages: Vec<&str> = missing.iter().map(|program| program.packages[index]).collect();
    let line = format!("{manager} {} {}", install_args.join(" "), packages.join(" "));
    if !install {
        return Err(format!("missing: {names}; run `cargo xtask test --install`, or `{line}`"));
    }
    if manager == "apt-get" {
        // A fresh machine knows no packages yet.
        as_root(manager, &["update"])?;
    }
    eprintln!("installing: {line}");
    as_root(manager, &[install_args, &packages].concat())?;
    match missing.iter().find(|program| !program.is_there()) {
        None => Ok(()),
        Some(program) => Err(format!("`{line}` did not bring {}", program.binary)),
    }
}

impl Program {
    fn is_there(&self) -> bool {
        in_path(self.binary).is_some() || self.also_below.is_some_and(|folder| below(folder, self.binary))
    }
}

fn in_path(binary: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(binary)).find(|file| file.is_file())
}

/// Whether `folder/*/bin/binary` exists.
fn below(folder: &str, binary: &str) -> bool {
    let versions = fs::read_dir(folder).into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin").join(binary)).any(|file| file.is_file())
}

fn as_root(program: &str, args: &[&str]) -> Result<(), String> {
    // brew refuses root; the others need it.
    let sudo = program != "brew" && !is_root() && in_path("sudo").is_some();
    let mut command = Command::new(if sudo { "sudo" } else { program });
    if sudo {
        command.arg(program);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let status =
        command.args(args).status().map_err(|error| format!("{program} cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} failed: {status}", args.join(" "))) }
}

/// Whoever owns `/proc/self` is who we are; where there is none, asking for a password is right.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(Path::new("/proc/self")).is_ok_and(|metadata| metadata.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        assert!(in_path("cargo").is_some() || in_path("sh").is_some());
        assert!(in_path("no-such-program").is_none());
        assert!(!below("/nonexistent", "initdb"));
    }
}
