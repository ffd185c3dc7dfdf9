//! `isopod run`: somebody else's program in a sandbox by one command, and nothing of it left afterwards.

mod support;

use rustix::process::Signal;
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};
use support::{Host, Value, kill, require_root, scratch, until};
use tempfile::TempDir;

/// A place for the directories of runs.
struct Runs(TempDir);

impl Runs {
    fn new() -> Self {
        require_root();
        Self(scratch())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isopod"));
        command.arg("run").args(arguments).env("TMPDIR", self.0.path()).env("ISOPOD_SECRET", "of the host");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it starts")
    }

    /// Directories of runs that are there.
    fn directories(&self) -> Vec<PathBuf> {
        fs::read_dir(self.0.path()).expect("there").map(|entry| entry.expect("readable").path()).collect()
    }

    /// A run that waits for its input, with the host as it sees it.
    async fn waiting(&self) -> (Child, Host) {
        let script = "(setsid sleep 1000 &); echo up; cat; echo over";
        let mut child =
            self.command(&["--", "sh", "-c", script]).stdin(Stdio::piped()).spawn().expect("it starts");
        let mut up = [0; 3];
        let mut stdout = child.stdout.take().expect("piped");
        let read = tokio::task::spawn_blocking(move || stdout.read_exact(&mut up).map(|()| (stdout, up)));
        let (stdout, up) = read.await.expect("no panic").expect("it says that it is up");
        assert_eq!(&up, b"up\n");
        child.stdout = Some(stdout);
        let host = Host::of(&self.directories()[0]);
        // What the other tests wait to be gone is really seen while it is there.
        let state = until("process in the sandbox that the harness sees", async || {
            let state = host.state();
            state.processes.iter().any(|name| name == "sleep").then_some(state)
        })
        .await;
        assert!(state.loops == 1 && state.groups.values().any(|count| *count > 0), "{state:?}");
        (child, host)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        self.directories().iter().for_each(|directory| Host::of(directory).end_everything());
    }
}

async fn end_of(child: &mut Child) -> ExitStatus {
    until("end of the run", async || child.try_wait().expect("our child")).await
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn one_command_prints_42_and_leaves_nothing() {
    let runs = Runs::new();
    let output = runs.run(&["--", "python3", "-c", "print(6*7)"]).await;
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("42\n", ""));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(runs.directories(), Vec::<PathBuf>::new());

    let (mut child, host) = runs.waiting().await;
    child.stdin.take().expect("piped").write_all(b"hello").expect("it reads");
    assert_eq!(end_of(&mut child).await.code(), Some(0));
    host.assert_gone().await;
    assert_eq!(runs.directories(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn exit_codes_and_streams_pass_through() {
    let runs = Runs::new();
    for code in [0, 1, 42, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let output = runs.run(&["--", "sh", "-c", &script]).await;
        assert_eq!(output.status.code(), Some(code));
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n", "err\n"));
    }
    let output = runs.run(&["--", "sh", "-c", "kill -TERM $$"]).await;
    assert_eq!(output.status.code(), Some(128 + 15));
    let output = runs.run(&["--", "no-such-program"]).await;
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).contains("no-such-program: command not found"), "{output:?}");
    let output = runs.run(&["--timeout", "0.3", "--", "sleep", "1000"]).await;
    assert_eq!(output.status.code(), Some(137));
    assert!(text(&output.stderr).contains("300 ms"), "{output:?}");
    let output = runs.run(&["--tier", "microvm", "--", "true"]).await;
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("microvm"), "{output:?}");
}

#[tokio::test]
async fn input_passes_through_byte_for_byte() {
    let runs = Runs::new();
    let input: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut child = runs.command(&["--", "cat"]).stdin(Stdio::piped()).spawn().expect("it starts");
    let (mut stdin, sent) = (child.stdin.take().expect("piped"), input.clone());
    let feeding = tokio::task::spawn_blocking(move || stdin.write_all(&sent));
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.expect("no panic");
    feeding.await.expect("no panic").expect("all of it is taken");
    assert!(output.expect("it ends").stdout == input);
}

#[tokio::test]
async fn json_holds_the_record_and_the_sandbox_nothing_of_the_host() {
    let runs = Runs::new();
    let output = runs.run(&["--json", "--env", "MINE=1", "--", "sh", "-c", "env; exit 3"]).await;
    assert_eq!(output.status.code(), Some(3));
    let record: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&record["exit_code"], &record["reason"], &record["success"]),
        (&3.into(), &"exited".into(), &false.into())
    );
    let env = record["stdout"].as_str().expect("text");
    assert!(env.contains("MINE=1") && !env.contains("ISOPOD") && !env.contains("TMPDIR"), "{env}");
}

#[tokio::test]
async fn an_interrupt_ends_everything() {
    let runs = Runs::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (mut child, host) = runs.waiting().await;
        kill(child.id(), signal);
        assert_eq!(end_of(&mut child).await.code(), Some(code));
        host.assert_gone().await;
        assert_eq!(runs.directories(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_killed_run_leaves_files_at_most_and_the_next_one_removes_them() {
    let runs = Runs::new();
    let (mut child, host) = runs.waiting().await;
    child.kill().expect("it can be killed");
    end_of(&mut child).await;
    host.assert_gone().await;
    let left = runs.directories();
    assert_eq!(left.len(), 1, "{left:?}");

    // Only what is old enough not to be just beginning is taken for abandoned.
    for lock in ["server.lock", "launcher.lock"] {
        let lock = fs::File::options().write(true).open(left[0].join(lock)).expect("it was locked once");
        let hour_ago =
            lock.metadata().expect("facts").modified().expect("a time") - Duration::from_secs(3600);
        lock.set_modified(hour_ago).expect("it is ours");
    }
    // A run that is alive keeps its directory.
    let (mut alive, alive_host) = runs.waiting_beside(&left).await;
    assert_eq!(runs.run(&["--", "true"]).await.status.code(), Some(0));
    let remaining = runs.directories();
    assert_eq!(remaining.len(), 1, "{remaining:?}");
    drop(alive.stdin.take());
    assert_eq!(end_of(&mut alive).await.code(), Some(0));
    alive_host.assert_gone().await;
}

impl Runs {
    /// As `waiting`, where other directories are there already.
    async fn waiting_beside(&self, others: &[PathBuf]) -> (Child, Host) {
        let mut child = self
            .command(&["--", "sh", "-c", "echo up; cat"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = child.stdout.take().expect("piped");
        let mut up = [0; 3];
        let read = tokio::task::spawn_blocking(move || stdout.read_exact(&mut up).map(|()| stdout));
        child.stdout = Some(read.await.expect("no panic").expect("it says that it is up"));
        let fresh = self.directories().into_iter().find(|path: &PathBuf| !others.contains(path));
        let host = Host::of(Path::new(&fresh.expect("a directory of its own")));
        (child, host)
    }
}
