//! A server of this test alone, on a data directory and a port of its own.

use super::{Answer, Host, Sandbox, State, kill, require_root, scratch, until};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// No single call of a test takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(150);

/// Whom to call.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
}

/// The server.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    place: TempDir,
}

impl Client {
    fn new(port: u16) -> Self {
        let http = reqwest::Client::builder().timeout(CALL_LIMIT).no_proxy().build().expect("a client");
        Self { base: format!("http://127.0.0.1:{port}"), http }
    }

    /// One with connections of its own: the server closes one on which it refused a body before it was read.
    pub(crate) fn fresh(&self) -> Self {
        let http = reqwest::Client::builder().timeout(CALL_LIMIT).no_proxy().build().expect("a client");
        Self { base: self.base.clone(), http }
    }

    /// A request that is still to be sent.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request and reads the answer.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        Answer::read(request.send().await.unwrap_or_else(|error| panic!("no answer: {error:?}"))).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    /// Makes a sandbox.
    pub(crate) async fn sandbox(&self, body: Value) -> Sandbox {
        let made = self.post("/v1/sandboxes", body).await.expect(201).json();
        self.known(made["id"].as_str().expect("an id"))
    }

    /// A sandbox that exists.
    pub(crate) fn known(&self, id: &str) -> Sandbox {
        Sandbox { client: self.clone(), id: id.to_owned() }
    }
}

impl std::ops::Deref for Server {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A port outside the range that outgoing connections use, so that it is still free after a restart.
fn free_port() -> u16 {
    (0..1000)
        .map(|_| 10_000 + fastrand() % 20_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

fn fastrand() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) >> 48) as u16
}

impl Server {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with further settings.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        require_root();
        let place = scratch();
        let data = place.path().join("data");
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let port = free_port();
        let mut server = Self { client: Client::new(port), data, port, settings, child: None, place };
        server.launch(&[]).await;
        server
    }

    /// The command that serves this data directory.
    pub(crate) fn command(&self, port: u16) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isopod"));
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(&self.data)
            .env("ISOPOD_DISK_MIB", "4096")
            .env("ISOPOD_WARM_POOL", "4")
            .env("ISOPOD_LOG", "warn")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    async fn launch(&mut self, arguments: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let mut command = self.command(self.port);
        command.args(arguments).stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = Some(command.spawn().expect("the server starts"));
        until("server that is ready", async || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("our child"));
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
            let answer = self.client.request(Method::GET, "/health/ready").send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    fn log_path(&self) -> PathBuf {
        self.place.path().join("server.log")
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The host as far as this server touches it.
    pub(crate) fn host(&self) -> Host {
        Host::of(&self.data)
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("our child");
    }

    /// Starts a server on the same data directory and port.
    pub(crate) async fn restart(&mut self) {
        self.launch(&[]).await;
    }

    /// Starts it with further arguments.
    pub(crate) async fn restart_with(&mut self, arguments: &[&str]) {
        self.launch(arguments).await;
    }

    /// Ends the server as an operator does, and waits for it.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        kill(child.id(), Signal::TERM);
        until("end of the server after SIGTERM", async || child.try_wait().expect("our child")).await
    }

    /// Resident memory of the server in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// The host when one sandbox has lived and gone: what is made once and then kept is there.
    pub(crate) async fn after_one_life(&self) -> State {
        let sandbox = self.sandbox(serde_json::json!({})).await;
        sandbox.sh("echo out; echo err >&2").await.fine();
        sandbox.delete().await;
        self.host().settled().await
    }

    /// Deletes every sandbox.
    pub(crate) async fn delete_all(&self) {
        loop {
            let page = self.get("/v1/sandboxes?limit=1000").await.expect(200).json();
            let items = page["items"].as_array().expect("a page").clone();
            if items.is_empty() {
                return;
            }
            for item in items {
                let id = item["id"].as_str().expect("an id");
                self.delete(&format!("/v1/sandboxes/{id}")).await.expect(204);
            }
        }
    }
}

impl Drop for Server {
    /// Ends everything that the test made, whatever became of it.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.host().end_everything();
        if std::thread::panicking() {
            eprintln!("-- the server's log\n{}", self.log());
        }
    }
}
