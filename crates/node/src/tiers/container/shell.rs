//! A running container as the node holds it: its agent, its limits, its execs.

use super::{
    cgroup::Cgroup,
    exec::{Exit, RunningExec},
    launcher::{Descriptors, Launcher},
    packets::Packets,
};
use crate::{files::GuestRoot, log::SandboxLog};
use isopod_guest::{
    frames::{FromAgent, ToAgent, ToLauncher},
    socket,
};
use isopod_model::{Clock, EndReason, Ending, Error, ExecId, Result, SandboxId, exec::Exec};
use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// How long a container may take to come up before it is given up.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a shell is made from, beside its descriptors.
pub struct Surroundings {
    /// The sandbox.
    pub id: SandboxId,
    /// Its slot.
    pub slot: u32,
    /// First uid and gid on disk.
    pub uid_base: u32,
    /// Its disk quota in MiB.
    pub disk_mib: u64,
    /// Its control groups.
    pub cgroup: Cgroup,
    /// The launcher that keeps its descriptors.
    pub launcher: Arc<Launcher>,
    /// Its log.
    pub log: Arc<SandboxLog>,
    /// Where its execs' journals are.
    pub journals: PathBuf,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// A running container.
pub struct Shell {
    around: Surroundings,
    agent: Packets,
    pidfd: OwnedFd,
    pid: i32,
    root: GuestRoot,
    execs: Mutex<HashMap<ExecId, Arc<RunningExec>>>,
    oom_seen: AtomicU64,
    /// Set before the shell is ended on purpose.
    asked: Mutex<Option<Ending>>,
    dead: watch::Sender<Option<Ending>>,
}

impl std::fmt::Debug for Shell {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shell")
            .field("id", &self.around.id)
            .field("slot", &self.around.slot)
            .finish_non_exhaustive()
    }
}

/// What an agent says about its own start.
enum Beginning {
    Ready,
    Failed(String, i32),
}

impl Shell {
    fn new(around: Surroundings, descriptors: Descriptors) -> Result<Arc<Self>> {
        let root = GuestRoot {
            root: Arc::new(descriptors.root),
            uid_base: around.uid_base,
            disk_mib: around.disk_mib,
        };
        let oom_seen = AtomicU64::new(around.cgroup.oom_kills());
        Ok(Arc::new(Self {
            agent: Packets::new(descriptors.agent).map_err(Error::internal)?,
            pidfd: descriptors.pidfd,
            pid: descriptors.pid,
            root,
            execs: Mutex::default(),
            oom_seen,
            asked: Mutex::default(),
            dead: watch::Sender::new(None),
            around,
        }))
    }

    /// Takes a container that was just started; returns when its agent serves.
    ///
    /// # Errors
    /// When it does not come up; it is dead then.
    pub async fn begin(around: Surroundings, descriptors: Descriptors) -> Result<Arc<Self>> {
        let shell = Self::new(around, descriptors)?;
        let (beginning, mut begun) = mpsc::unbounded_channel();
        tokio::spawn(Arc::clone(&shell).listen(beginning));
        match tokio::time::timeout(START_LIMIT, begun.recv()).await {
            Ok(Some(Beginning::Ready)) => Ok(shell),
            said => {
                shell.kill();
                let why = match said {
                    Ok(Some(Beginning::Failed(step, errno))) => {
                        format!("{step}: {}", io::Error::from_raw_os_error(errno))
                    }
                    Ok(_) => "its first process died".into(),
                    Err(_) => "its agent did not answer".into(),
                };
                Err(Error::internal(format!("container {} did not come up: {why}", shell.around.id)))
            }
        }
    }

    /// Takes back a container that outlived an earlier server: `known` are the execs of which no end is recorded, and
    /// those whose children may still write.
    ///
    /// # Errors
    /// When a descriptor cannot be registered.
    pub async fn adopt(
        around: Surroundings,
        descriptors: Descriptors,
        mut held: HashMap<String, HashMap<u8, OwnedFd>>,
        known: Vec<Exec>,
    ) -> Result<Arc<Self>> {
        use isopod_guest::frames::held as slots;
        let shell = Self::new(around, descriptors)?;
        for record in known {
            let mut kept = held.remove(record.id.as_str()).unwrap_or_default();
            let pipes = super::exec::Pipes {
                stdout: kept.remove(&slots::STDOUT),
                stderr: kept.remove(&slots::STDERR),
                stdin: kept.remove(&slots::STDIN),
            };
            RunningExec::launch(&shell, record, pipes, true).map_err(Error::internal)?;
        }
        for (exec, _) in held {
            shell.release_text(&exec, None).await;
        }
        let (beginning, _) = mpsc::unbounded_channel();
        tokio::spawn(Arc::clone(&shell).listen(beginning));
        shell.tell(&ToAgent::List, &[]).await.map_err(Error::internal)?;
        Ok(shell)
    }

    async fn listen(self: Arc<Self>, beginning: mpsc::UnboundedSender<Beginning>) {
        let mut buffer = socket::buffer();
        loop {
            match self.agent.receive::<FromAgent>(&mut buffer).await {
                Ok(Some((frame, _stray_descriptors))) => self.hear(frame, &beginning).await,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(sandbox = %self.around.id, %error, "the agent broke the protocol; its container is ended");
                    self.ask_end(Ending::new(
                        EndReason::Killed,
                        self.around.clock.now(),
                        "server",
                        "the agent inside broke the protocol",
                    ));
                    break;
                }
                // It hung up, or was killed before it had read everything.
                Ok(None) | Err(_) => break,
            }
        }
        // Without its agent's ear a container is of no use: dead already, or killed now.
        self.kill();
    }

    async fn hear(&self, frame: FromAgent, beginning: &mpsc::UnboundedSender<Beginning>) {
        match frame {
            FromAgent::Ready => {
                let _ = beginning.send(Beginning::Ready);
            }
            FromAgent::Failed { exec, step, errno } if exec.is_empty() => {
                let _ = beginning.send(Beginning::Failed(step, errno));
            }
            FromAgent::Failed { exec, step, errno } => {
                if let Some(running) = self.find(&exec) {
                    running.failed(step, errno);
                }
            }
            FromAgent::Exited { exec, status } => self.exited(&exec, status).await,
            FromAgent::Inventory { running, ended } => {
                // Only of what an earlier server started can it be that the agent never heard.
                let doubtful: Vec<Arc<RunningExec>> =
                    self.execs().values().filter(|exec| exec.resumed).cloned().collect();
                for exec in doubtful {
                    let id = exec.record.id.as_str();
                    if !running.iter().any(|name| name == id) && !ended.iter().any(|(name, _)| name == id) {
                        exec.ended(Exit::Lost(EndReason::Interrupted));
                    }
                }
                for (exec, status) in ended {
                    self.exited(&exec, status).await;
                }
            }
        }
    }

    /// An end that nobody here waits for was recorded before: the agent just has not heard so.
    async fn exited(&self, exec: &str, status: i32) {
        match self.find(exec) {
            Some(running) => running.ended(Exit::Reaped(status)),
            None => {
                let _ = self.tell(&ToAgent::Acknowledge { exec: exec.to_owned() }, &[]).await;
            }
        }
    }

    fn find(&self, exec: &str) -> Option<Arc<RunningExec>> {
        self.exec(&exec.parse().ok()?)
    }

    /// The sandbox.
    pub fn id(&self) -> &SandboxId {
        &self.around.id
    }

    /// Its slot.
    pub fn slot(&self) -> u32 {
        self.around.slot
    }

    /// Its files.
    pub fn root(&self) -> &GuestRoot {
        &self.root
    }

    /// Its control groups.
    pub fn cgroup(&self) -> &Cgroup {
        &self.around.cgroup
    }

    /// Where its execs' journals are.
    pub fn journals(&self) -> &Path {
        &self.around.journals
    }

    /// What time it is.
    pub fn clock(&self) -> &dyn Clock {
        &*self.around.clock
    }

    /// Execs that run, or whose children still write.
    pub fn execs(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<RunningExec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of them.
    pub fn exec(&self, id: &ExecId) -> Option<Arc<RunningExec>> {
        self.execs().get(id).cloned()
    }

    /// Execs whose first process lives.
    pub fn running_execs(&self) -> u64 {
        self.execs().values().filter(|exec| !exec.has_ended()).count() as u64
    }

    /// Whether somebody inside listens on a TCP port.
    ///
    /// # Errors
    /// When the container is gone.
    pub fn listens(&self, port: u16) -> io::Result<bool> {
        // Lines as in proc_pid_net(5): local address and port in hex, then the peer's, then the state; 0A is LISTEN.
        let listening = |table: &str| {
            table.lines().skip(1).any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let local = fields.next().and_then(|address| address.rsplit_once(':'));
                let open = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok()) == Some(port);
                open && fields.nth(1) == Some("0A")
            })
        };
        for table in ["tcp", "tcp6"] {
            match std::fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)) {
                Ok(text) if listening(&text) => return Ok(true),
                Err(error) if table == "tcp" => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Whether the kernel killed for want of memory since this was last asked.
    pub fn oom_since_last_look(&self) -> bool {
        let now = self.around.cgroup.oom_kills();
        self.oom_seen.swap(now, Ordering::Relaxed) < now
    }

    /// Writes an exec's end into the log; `false` when it could not be written and must be tried again.
    pub(super) fn record_end(&self, record: &Exec) -> bool {
        match self.around.log.end(record.clone()) {
            Ok(_) | Err(Error::ExecEnded { .. }) => true,
            Err(error) => {
                tracing::error!(sandbox = %self.around.id, exec = %record.id, ?error, "the end of an exec could not be recorded");
                false
            }
        }
    }

    pub(super) async fn tell(&self, frame: &ToAgent, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.agent.send(frame, fds).await
    }

    pub(super) async fn acknowledge(&self, exec: &ExecId) {
        let _ = self.tell(&ToAgent::Acknowledge { exec: exec.to_string() }, &[]).await;
    }

    pub(super) async fn hold(&self, exec: &str, slots: Vec<u8>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let frame = ToLauncher::Hold { sandbox: self.around.id.to_string(), exec: exec.to_owned(), slots };
        self.around.launcher.tell(&frame, fds).await
    }

    /// Lets the launcher close an exec's descriptors.
    pub async fn release(&self, exec: &ExecId, slot: Option<u8>) {
        self.release_text(exec.as_str(), slot).await;
    }

    async fn release_text(&self, exec: &str, slot: Option<u8>) {
        let frame = ToLauncher::Release { sandbox: self.around.id.to_string(), exec: exec.to_owned(), slot };
        let _ = self.around.launcher.tell(&frame, &[]).await;
    }

    /// Sends a signal to an exec.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the agent is gone.
    pub async fn signal(&self, exec: &ExecId, signal: i32, tree: bool) -> Result<()> {
        let frame = ToAgent::Signal { exec: exec.to_string(), signal, tree };
        self.tell(&frame, &[])
            .await
            .map_err(|_| Error::Unavailable { reason: "the container just ended".into() })
    }

    pub(super) async fn kill_tree(&self, exec: &ExecId) {
        let _ = self.signal(exec, libc::SIGKILL, true).await;
    }

    /// Notes why it is about to be ended; the first one counts.
    pub fn ask_end(&self, ending: Ending) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ending);
    }

    /// Kills its agent, and with it everything inside; also when it is frozen.
    pub fn kill(&self) {
        if self.dead.borrow().is_none() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
            let _ = self.around.cgroup.freeze(false);
        }
    }

    /// Returns when it is dead and its execs' ends are recorded.
    pub async fn dead(&self) {
        let _ = self.dead.subscribe().wait_for(Option::is_some).await;
    }

    /// Its agent was reaped (`Some(wait status)`), or its launcher is gone. Ends its execs and says why it died;
    /// `finished` is to be called when everything is put away.
    pub async fn died(&self, status: Option<i32>) -> (Ending, bool) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = asked.is_some();
        let now = self.around.clock.now();
        let ending = asked.unwrap_or_else(|| match status {
            Some(status) if libc::WIFSIGNALED(status) && self.oom_since_last_look() => Ending::new(
                EndReason::Oom,
                now,
                "kernel",
                "the memory limit was reached and the agent itself was killed",
            )
            .with("memory_peak_bytes", self.around.cgroup.memory_peak()),
            Some(status) => {
                Ending::new(EndReason::Interrupted, now, "server", "its first process died unexpectedly")
                    .with("wait_status", status)
            }
            None => Ending::new(
                EndReason::Interrupted,
                now,
                "server",
                "its launcher died, and all processes with it; files are kept",
            ),
        });
        let execs: Vec<Arc<RunningExec>> = self.execs().values().cloned().collect();
        for exec in &execs {
            exec.ended(Exit::Lost(if wanted { EndReason::Killed } else { ending.reason }));
        }
        for exec in execs {
            let _ = exec.progress().wait_for(|progress| progress.ended.is_some()).await;
        }
        (ending, wanted)
    }

    /// Wakes everybody who waits for its death.
    pub fn finished(&self, ending: Ending) {
        self.dead.send_replace(Some(ending));
    }

    /// Lets the launcher forget it.
    pub async fn forget(&self) {
        let _ =
            self.around.launcher.tell(&ToLauncher::Forget { sandbox: self.around.id.to_string() }, &[]).await;
    }
}
