//! The real executable against a real API over a real store, with a pretended node below.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod cutting_proxy;

use isopod_api::{ApiSettings, ApiState};
use isopod_control::{Caller, Control, ControlSettings};
use isopod_model::ExecId;
use isopod_store::SqliteStore;
use isopod_testkit::{FakeNode, ManualClock, SeededEntropy};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::{net::SocketAddr, process::Stdio, sync::Arc};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

/// A server on a loopback port.
pub(crate) struct TestServer {
    pub(crate) node: Arc<FakeNode>,
    pub(crate) control: Arc<Control>,
    pub(crate) address: SocketAddr,
    directory: TempDir,
}

/// How a run of the executable ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// What it wrote, which must be text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// What it wrote, which must be JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it succeeded without a word on standard error.
    #[track_caller]
    pub(crate) fn fine(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{self:?}");
        self
    }

    /// Checks that it failed as Isopod itself, in at most two lines that hold `words`.
    #[track_caller]
    pub(crate) fn failed(self, words: &[&str]) -> Self {
        assert_eq!(self.code, 125, "{self:?}");
        assert!(self.stderr.starts_with("isopod: ") && self.stderr.lines().count() <= 2, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:?}");
        }
        self
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        let clock = ManualClock::new();
        let node = FakeNode::new(clock.clone());
        let directory = TempDir::new().expect("a directory");
        let store = Arc::new(SqliteStore::open(directory.path()).await.expect("a store"));
        let entropy = SeededEntropy::new(7);
        let control = Control::open(store, node.clone(), clock, entropy, ControlSettings::default())
            .await
            .expect("control opens");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let settings = ApiSettings::new(format!("http://{address}"));
        let router = isopod_api::router(ApiState::new(control.clone(), metrics, settings));
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { node, control, address, directory }
    }

    /// The executable with these arguments, aimed at this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        isopod(&format!("http://{}", self.address), arguments)
    }

    /// Runs the executable to its end, without input.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments).spawn().expect("starts")).await
    }

    /// Runs the executable to its end with this input.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        feed(self.command(arguments), input).await
    }

    /// A fresh sandbox's id.
    pub(crate) async fn sandbox(&self) -> String {
        self.run(&["create"]).await.fine().text().trim().to_owned()
    }

    /// Waits until something runs in the sandbox; its id.
    pub(crate) async fn first_exec(&self, sandbox: &str) -> ExecId {
        let data = self.control.data(&Caller::local(), sandbox).await.expect("it is there");
        let mut changed = data.log_changed().await.expect("it has a log");
        loop {
            changed.borrow_and_update();
            if let Some(exec) = data.exec_list(None, 1).await.expect("lists").first() {
                return exec.id.clone();
            }
            changed.changed().await.expect("the log goes on");
        }
    }

    /// How many execs the sandbox has seen.
    pub(crate) async fn execs(&self, sandbox: &str) -> usize {
        let data = self.control.data(&Caller::local(), sandbox).await.expect("it is there");
        data.exec_list(None, 100).await.expect("lists").len()
    }
}

/// The executable, aimed at an address, with nothing else of the environment that it looks at.
pub(crate) fn isopod(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isopod"));
    command
        .args(arguments)
        .env("ISOPOD_URL", url)
        .env_remove("ISOPOD_API_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits for the end.
pub(crate) async fn finish(child: Child) -> Ended {
    let output = child.wait_with_output().await.expect("ends");
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Starts it, writes all input, and waits for the end.
pub(crate) async fn feed(mut command: Command, input: &[u8]) -> Ended {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // Who does not read its input is free to end before it is written.
    tokio::spawn(async move { stdin.write_all(&input).await });
    finish(child).await
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = i32::try_from(child.id().expect("it runs")).expect("in range");
    let id = rustix::process::Pid::from_raw(id).expect("not zero");
    rustix::process::kill_process(id, signal).expect("it can be signalled");
}
