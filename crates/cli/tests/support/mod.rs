//! The vocabulary of the tests of the whole program: a real server on a data directory of its own, sandboxes on it,
//! and the host as it looks from outside.

#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod answer;
mod host;
mod sandbox;
mod server;
mod until;

pub(crate) use answer::{Answer, Done};
pub(crate) use host::{Host, State};
pub(crate) use sandbox::{Execution, Sandbox, Stream};
pub(crate) use server::{Client, Server};
pub(crate) use until::{until, until_within};

pub(crate) use serde_json::{Value, json};

/// Fails with advice where these tests cannot run.
#[track_caller]
pub(crate) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes namespaces, mounts and control groups: run it as root (`sudo make test`)"
    );
}

/// A fresh directory on a disk, for data directories.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("isopod-test-").tempdir_in("/var/tmp").expect("a directory on /var/tmp")
}

/// Sends a signal to a process of ours.
pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    let _ = rustix::process::kill_process(pid, signal);
}
