//! `isopod serve` on this machine: start, end, and the clients that live through it. Needs root.

mod common;

use common::{Ended, feed, finish, isopod, signal};
use rustix::process::Signal;
use std::path::Path;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

/// A data directory, or nothing where there are not the rights to run sandboxes.
fn data() -> Option<TempDir> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: running sandboxes needs root");
        return None;
    }
    Some(TempDir::new_in("/var/tmp").expect("a directory"))
}

/// A server process.
struct Server {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    address: String,
}

fn serve(data: &Path, arguments: &[&str]) -> Command {
    let mut command = isopod("", &["serve", "--data-dir", data.to_str().expect("text")]);
    command.args(arguments).env("ISOPOD_LOG", "info").env("ISOPOD_WARM_POOL", "0");
    command
}

impl Server {
    /// Starts a server and waits until it listens.
    async fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut child = serve(data, arguments).spawn().expect("starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        loop {
            let line = log.next_line().await.expect("readable").expect("it listens before it ends");
            let line: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if line["message"] == "listening" {
                let address = line["address"].as_str().expect("an address").to_owned();
                return Self { child, log, address };
            }
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        isopod(&format!("http://{}", self.address), arguments)
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        finish(self.command(arguments).spawn().expect("starts")).await
    }

    /// Asks it to end; its exit code and what it logged meanwhile.
    async fn stop(mut self) -> (Option<i32>, String) {
        signal(&self.child, Signal::TERM);
        let mut rest = String::new();
        while let Some(line) = self.log.next_line().await.expect("readable") {
            rest.push_str(&line);
            rest.push('\n');
        }
        (self.child.wait().await.expect("ends").code(), rest)
    }
}

#[tokio::test]
async fn sandboxes_survive_a_restart_and_end_when_asked() {
    let Some(data) = data() else { return };
    let server = Server::start(data.path(), &["--listen", "127.0.0.1:0"]).await;
    server.run(&["create", "--name", "kept"]).await.fine();
    server.run(&["exec", "kept", "--", "bash", "-c", "echo here > file"]).await.fine();
    let input = vec![0xff; 100_000];
    let ended = feed(server.command(&["exec", "-i", "kept", "--", "cat"]), &input).await.fine();
    assert!(ended.stdout == input);
    assert_eq!(server.stop().await.0, Some(0));

    let server = Server::start(data.path(), &["--listen", "127.0.0.1:0", "--stop-sandboxes"]).await;
    assert_eq!(server.run(&["ls", "--json"]).await.fine().json()[0]["state"], "running");
    assert_eq!(server.run(&["cp", "kept:file", "-"]).await.fine().text(), "here\n");
    let (code, log) = server.stop().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("sandbox.stopped"), "{log}");

    let server = Server::start(data.path(), &["--listen", "127.0.0.1:0"]).await;
    assert_eq!(server.run(&["ls", "--json"]).await.fine().json()[0]["state"], "stopped");
    server.run(&["rm", "kept"]).await.fine();
    assert_eq!(server.stop().await.0, Some(0));
}

#[tokio::test]
async fn a_client_lives_through_the_death_of_the_server() {
    let Some(data) = data() else { return };
    let mut server = Server::start(data.path(), &["--listen", "127.0.0.1:0"]).await;
    let sandbox = server.run(&["create"]).await.fine().text().trim().to_owned();
    // It writes on only when there is a file, so that the server dies in the middle for certain.
    let script = "seq 1 1000; until [ -e go ]; do sleep 0.01; done; seq 1001 2000; exit 9";
    let mut child = server.command(&["exec", &sandbox, "--", "bash", "-c", script]).spawn().expect("starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut output = String::new();
    while !output.ends_with("\n1000\n") {
        assert_ne!(stdout.read_line(&mut output).await.expect("readable"), 0, "{output}");
    }
    signal(&server.child, Signal::KILL);
    server.child.wait().await.expect("dead");
    let server = Server::start(data.path(), &["--listen", &server.address]).await;
    server.run(&["exec", &sandbox, "--", "touch", "go"]).await.fine();
    stdout.read_to_string(&mut output).await.expect("readable");
    let ended = finish(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (9, ""));
    let truth: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert!(output == truth, "{} of {} bytes", output.len(), truth.len());
    server.run(&["rm", &sandbox]).await.fine();
    assert_eq!(server.stop().await.0, Some(0));
}

#[tokio::test]
async fn two_servers_do_not_share() {
    let (Some(data), Some(other)) = (data(), data()) else { return };
    let server = Server::start(data.path(), &["--listen", "127.0.0.1:0"]).await;
    let same_data = serve(data.path(), &["--listen", "127.0.0.1:0"]).spawn().expect("starts");
    finish(same_data).await.failed(&["another isopod server"]);
    let same_port = serve(other.path(), &["--listen", &server.address]).spawn().expect("starts");
    finish(same_port).await.failed(&["cannot listen on", "--listen"]);
    assert_eq!(server.stop().await.0, Some(0));
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let nowhere = Path::new("/nonexistent");
    let listen = serve(nowhere, &["--listen", "0.0.0.0:0"]).spawn().expect("starts");
    finish(listen).await.failed(&["0.0.0.0:0", "AUTH=none"]);
    let auth = serve(nowhere, &[]).env("ISOPOD_AUTH", "required").spawn().expect("starts");
    finish(auth).await.failed(&["not built yet"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "domian = 'x'\n").expect("written");
    let path = file.path().to_str().expect("text");
    let config = serve(nowhere, &["--config", path]).spawn().expect("starts");
    finish(config).await.failed(&["domian", path]);
}
