//! Execs of one sandbox, whichever shell they ran in: starting, finding, waiting, signalling.

use crate::{
    log::{ExecRecord, Idempotency},
    output,
    sandbox::Sandbox,
    tiers::container::{
        exec::{Order, RunningExec},
        shell::Shell,
    },
};
use isopod_model::{
    EndReason, Error, ExecId, Result,
    exec::{Exec, ExecRequest, ExecState},
    sandbox::Tier,
};
use isopod_node_api::WaitFor;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A user inside, as a caller named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// `user`, `root`, a number below 65536, or two of them as `uid:gid`.
    pub(crate) fn parse(name: Option<&str>) -> Result<Self> {
        let (uid, gid) = match name.unwrap_or("user") {
            "user" => return Ok(Self { uid: 1000, gid: 1000 }),
            "root" => return Ok(Self { uid: 0, gid: 0 }),
            numbers => numbers.split_once(':').unwrap_or((numbers, numbers)),
        };
        match (uid.parse::<u16>(), gid.parse::<u16>()) {
            (Ok(uid), Ok(gid)) => Ok(Self { uid: uid.into(), gid: gid.into() }),
            _ => Err(Error::invalid(
                "user",
                "must be user, root, or a number below 65536 with an optional :group",
            )),
        }
    }

    fn name_and_home(self) -> (String, &'static str) {
        match self.uid {
            0 => ("root".into(), "/root"),
            1000 => ("user".into(), "/home/user"),
            other => (other.to_string(), "/"),
        }
    }
}

/// Environment of a command: platform < create < exec; nothing of the host's.
fn environment(
    user: User,
    create: &BTreeMap<String, String>,
    exec: &BTreeMap<String, String>,
) -> Vec<String> {
    let (name, home) = user.name_and_home();
    let mut all: BTreeMap<&str, &str> = BTreeMap::from([
        ("PATH", PATH),
        ("HOME", home),
        ("USER", &name),
        ("LOGNAME", &name),
        ("SHELL", "/bin/bash"),
        ("LANG", "C.UTF-8"),
    ]);
    all.extend(create.iter().chain(exec).map(|(key, value)| (key.as_str(), value.as_str())));
    all.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

fn working_directory(cwd: Option<&str>) -> String {
    match cwd {
        None | Some("") => "/workspace".into(),
        Some(path) if path.starts_with('/') => path.into(),
        Some(path) => format!("/workspace/{path}"),
    }
}

fn hash(request: &ExecRequest) -> String {
    let text = serde_json::to_vec(request).unwrap_or_default();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sandbox {
    /// Starts a command, or gives the one that an idempotency key started before.
    pub(crate) async fn exec(&self, id: ExecId, request: ExecRequest, key: Option<String>) -> Result<Exec> {
        let Some(key) = key else { return self.start_exec(id, request, None).await };
        let _one = self.keyed.lock().await;
        let hash = hash(&request);
        match self.log().find_key(&key).await? {
            None => self.start_exec(id, request, Some(Idempotency { key, request_hash: hash })).await,
            Some(earlier) if earlier.idempotency.as_ref().is_some_and(|known| known.request_hash == hash) => {
                self.exec_record(&earlier.exec.id).await
            }
            Some(earlier) => Err(Error::IdempotencyMismatch { id: earlier.exec.id.to_string() }),
        }
    }

    async fn start_exec(
        &self,
        id: ExecId,
        request: ExecRequest,
        idempotency: Option<Idempotency>,
    ) -> Result<Exec> {
        let argv = request.command()?;
        let user = User::parse(request.user.as_deref())?;
        let shell = self.running()?;
        self.touch();
        let record = Exec {
            id,
            sandbox_id: self.id().clone(),
            argv,
            cwd: working_directory(request.cwd.as_deref()),
            user: request.user.unwrap_or_else(|| "user".into()),
            background: request.background,
            state: ExecState::Running,
            tier: Tier::Container,
            started_at: self.place.clock.now(),
            ended_at: None,
            duration_ms: 0.0,
            timeout_ms: request.timeout_ms,
            reason: None,
            exit_code: None,
            signal: None,
            success: false,
            detail: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
        };
        let order = Order {
            env: environment(user, &self.record.spec.env, &request.env),
            uid: user.uid,
            gid: user.gid,
            stdin: request.stdin.map(String::into_bytes).or(request.stdin_open.then(Vec::new)),
            stdin_open: request.stdin_open,
        };
        // On disk before the command is started: after a crash nothing can have run that nobody knows of.
        self.log().start(ExecRecord { exec: record.clone(), idempotency, stdin_open: request.stdin_open })?;
        let started = shell.start_exec(record.clone(), order).await;
        if started.is_err() && shell.exec(&record.id).is_none() {
            let mut record = record.clone();
            record.state = ExecState::Ended;
            record.reason = Some(EndReason::Interrupted);
            record.ended_at = Some(self.place.clock.now());
            record.detail = Some("it could not be started".into());
            self.log().end(record)?;
        }
        started.map(|_| record)
    }

    /// An exec that runs, or whose children still write, with its shell.
    pub(crate) fn live_exec(&self, id: &ExecId) -> Option<(Arc<Shell>, Arc<RunningExec>)> {
        let shell = self.shell()?;
        let exec = shell.exec(id)?;
        Some((shell, exec))
    }

    /// An exec's record as of now.
    pub(crate) async fn exec_record(&self, id: &ExecId) -> Result<Exec> {
        if let Some((_, exec)) = self.live_exec(id) {
            let progress = exec.progress().borrow().clone();
            return Ok(match progress.ended {
                Some(record) => (*record).clone(),
                None => {
                    let mut record = exec.record.clone();
                    let elapsed = self.place.clock.now().duration_since(record.started_at);
                    record.duration_ms = elapsed.as_secs_f64() * 1000.0;
                    record.stdout_bytes = progress.stdout;
                    record.stderr_bytes = progress.stderr;
                    record
                }
            });
        }
        let unknown = || Error::NotFound { what: "exec", id: id.to_string() };
        Ok(self.log().get(id).await?.ok_or_else(unknown)?.exec)
    }

    /// Waits for the end of an exec.
    pub(crate) async fn exec_ended(&self, id: &ExecId) -> Result<Exec> {
        if let Some((_, exec)) = self.live_exec(id) {
            let mut progress = exec.progress();
            if let Ok(progress) = progress.wait_for(|progress| progress.ended.is_some()).await
                && let Some(record) = &progress.ended
            {
                return Ok((**record).clone());
            }
        }
        self.exec_record(id).await
    }

    pub(crate) async fn exec_wait(&self, id: &ExecId, wait: WaitFor, limit: Duration) -> Result<Exec> {
        let what = match &wait {
            WaitFor::Exit => "the exec to end".to_owned(),
            WaitFor::Port(port) => format!("port {port} to listen"),
            WaitFor::Log(text) => format!("output holding {text:?}"),
        };
        let waiting = async {
            match wait {
                WaitFor::Exit => self.exec_ended(id).await,
                WaitFor::Log(text) => output::wait_for_text(self, id, &text).await,
                WaitFor::Port(port) => {
                    self.exec_record(id).await?;
                    self.wait_for_port(port).await?;
                    self.exec_record(id).await
                }
            }
        };
        let after_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        tokio::time::timeout(limit, waiting).await.unwrap_or(Err(Error::WaitTimeout { what, after_ms }))
    }

    /// The kernel tells nobody when a socket begins to listen: its table is looked at every 20 ms.
    async fn wait_for_port(&self, port: u16) -> Result<()> {
        loop {
            if self.running()?.listens(port).map_err(Error::internal)? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn exec_signal(&self, id: &ExecId, signal: i32, tree: bool) -> Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(Error::invalid("signal", "must be 1 to 64"));
        }
        self.touch();
        match self.live_exec(id) {
            Some((shell, exec)) if !exec.has_ended() => {
                if signal == libc::SIGKILL {
                    exec.blame(EndReason::Killed);
                }
                shell.signal(id, signal, tree).await
            }
            _ => {
                self.exec_record(id).await?;
                Err(Error::ExecEnded { id: id.to_string() })
            }
        }
    }

    pub(crate) async fn exec_stdin(&self, id: &ExecId, data: &[u8], close: bool) -> Result<()> {
        self.touch();
        match self.live_exec(id) {
            Some((shell, exec)) if !exec.has_ended() => {
                exec.write_stdin(data, close).await?;
                if close {
                    shell.release(id, Some(isopod_guest::frames::held::STDIN)).await;
                }
                Ok(())
            }
            _ => {
                self.exec_record(id).await?;
                Err(Error::ExecEnded { id: id.to_string() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_small_numbers() {
        assert_eq!(User::parse(None).expect("default").uid, 1000);
        assert_eq!(User::parse(Some("33:44")).expect("numbers"), User { uid: 33, gid: 44 });
        for bad in ["", "-1", "65536", "alice", "1:2:3", "0x0"] {
            assert!(User::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_exec_wins_over_the_sandbox_and_the_sandbox_over_the_platform() {
        let pairs =
            |text: &[(&str, &str)]| text.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let user = User { uid: 1000, gid: 1000 };
        let env = environment(user, &pairs(&[("A", "create"), ("HOME", "/x")]), &pairs(&[("A", "exec")]));
        assert!(env.contains(&"A=exec".to_owned()) && env.contains(&"HOME=/x".to_owned()));
        assert!(env.contains(&"USER=user".to_owned()));
    }
}
