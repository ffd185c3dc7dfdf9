//! One exec while it runs: its pipes into its journal, its limits, its one end.

use super::{packets, shell::Shell};
use crate::journal::{JournalWriter, Pumped};
use isopod_guest::frames::{ToAgent, held};
use isopod_model::{
    EndReason, Error, ExecId, Result,
    exec::{Exec, ExecState, JOURNAL_LIMIT, OutputStream},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{oneshot, watch},
    time::Instant,
};

/// How many bytes one stream moves before the other has its turn.
const PUMP_BUDGET: usize = 256 * 1024;
/// How long an agent may take to report the death of a tree that it was told to kill.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// How far an exec is; what its readers wait on.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes of standard output in the journal.
    pub stdout: u64,
    /// Bytes of standard error in the journal.
    pub stderr: u64,
    /// The final record.
    pub ended: Option<Arc<Exec>>,
}

/// What ended an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Its first process was reaped with this wait status.
    Reaped(i32),
    /// The container died; this says why.
    Lost(EndReason),
}

/// An exec whose first process, or one of whose pipes, lives.
#[derive(Debug)]
pub struct RunningExec {
    /// The record it started with.
    pub record: Exec,
    progress: watch::Sender<Progress>,
    exit: Mutex<Option<oneshot::Sender<Exit>>>,
    failure: Mutex<Option<(String, i32)>>,
    cause: Mutex<Option<EndReason>>,
    stdin: tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>,
}

/// The host's ends of an exec's pipes.
#[derive(Debug)]
pub struct Pipes {
    /// Read end of standard output.
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error.
    pub stderr: Option<OwnedFd>,
    /// Write end of standard input, where it is open.
    pub stdin: Option<OwnedFd>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RunningExec {
    /// Puts an exec under way: its pump runs until its pipes are done. With a record that has ended already only what
    /// its children still write is pumped.
    ///
    /// # Errors
    /// When a descriptor cannot be registered or the journal cannot be opened.
    pub fn launch(shell: &Arc<Shell>, record: Exec, pipes: Pipes, resumed: bool) -> io::Result<Arc<Self>> {
        let (exit, exited) = oneshot::channel();
        let stdin = pipes.stdin.map(|fd| packets::watch(fd, Interest::WRITABLE)).transpose()?;
        let exec = Arc::new(Self {
            record,
            progress: watch::Sender::new(Progress::default()),
            exit: Mutex::new(Some(exit)),
            failure: Mutex::default(),
            cause: Mutex::default(),
            stdin: tokio::sync::Mutex::new(stdin),
        });
        let stdout = Channel::open(shell, &exec.record.id, OutputStream::Stdout, pipes.stdout, resumed)?;
        let stderr = Channel::open(shell, &exec.record.id, OutputStream::Stderr, pipes.stderr, resumed)?;
        let ended = exec.record.state == ExecState::Ended;
        exec.progress.send_modify(|progress| {
            progress.stdout = stdout.journal.total();
            progress.stderr = stderr.journal.total();
            progress.ended = ended.then(|| Arc::new(exec.record.clone()));
        });
        shell.execs().insert(exec.record.id.clone(), Arc::clone(&exec));
        tokio::spawn(Pump { shell: Arc::clone(shell), exec: Arc::clone(&exec), stdout, stderr }.run(exited));
        Ok(exec)
    }

    /// Whether its first process was reaped or lost.
    pub fn has_ended(&self) -> bool {
        self.progress.borrow().ended.is_some()
    }

    /// How far it is, to wait on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Delivers its end; the first one counts.
    pub fn ended(&self, exit: Exit) {
        if let Some(waiting) = lock(&self.exit).take() {
            let _ = waiting.send(exit);
        }
    }

    /// Notes that its program could not be started.
    pub fn failed(&self, step: String, errno: i32) {
        *lock(&self.failure) = Some((step, errno));
    }

    /// Notes who is about to kill it; the first one counts.
    pub fn blame(&self, cause: EndReason) {
        lock(&self.cause).get_or_insert(cause);
    }

    /// Writes to its standard input, waiting while the pipe is full.
    ///
    /// # Errors
    /// [`Error::Invalid`] when standard input is not open, [`Error::ExecEnded`] when nobody reads it any more.
    pub async fn write_stdin(&self, mut data: &[u8], close: bool) -> Result<()> {
        let mut guard = self.stdin.lock().await;
        let Some(pipe) = guard.as_ref() else {
            return Err(Error::invalid("stdin", "is not open; start the exec with stdin_open"));
        };
        while !data.is_empty() {
            let mut ready = pipe.writable().await.map_err(Error::internal)?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                Ok(Ok(written)) => data = &data[written..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    *guard = None;
                    return Err(Error::ExecEnded { id: self.record.id.to_string() });
                }
                Ok(Err(error)) => return Err(Error::internal(error)),
                Err(_would_block) => {}
            }
        }
        if close {
            *guard = None;
        }
        Ok(())
    }
}

/// One stream: its pipe until the end, and its journal.
struct Channel {
    pipe: Option<AsyncFd<OwnedFd>>,
    journal: JournalWriter,
}

impl Channel {
    fn open(shell: &Shell, id: &ExecId, stream: OutputStream, pipe: Option<OwnedFd>, resumed: bool) -> io::Result<Self> {
        let (directory, limit) = (shell.journals(), JOURNAL_LIMIT / 2);
        let journal = if resumed {
            JournalWriter::open(directory, id, stream, limit)?
        } else {
            JournalWriter::create(directory, id, stream, limit)?
        };
        let pipe = pipe.map(|fd| packets::watch(fd, Interest::READABLE)).transpose()?;
        Ok(Self { pipe, journal })
    }

    /// Waits until there is something (or the end) and moves it; never ends once the pipe is closed.
    async fn pump(&mut self) {
        let Some(pipe) = &self.pipe else { return std::future::pending().await };
        let Ok(mut ready) = pipe.readable().await else { return self.pipe = None };
        match self.journal.pump(pipe.get_ref().as_fd(), PUMP_BUDGET) {
            Ok(Pumped::Moved(_)) => {}
            Ok(Pumped::WouldBlock) => ready.clear_ready(),
            Ok(Pumped::Eof) | Err(_) => {
                drop(ready);
                self.pipe = None;
            }
        }
    }

    /// Moves what is in the pipe now, at most as much as a pipe can hold.
    fn drain(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        for _ in 0..8 {
            match self.journal.pump(pipe.get_ref().as_fd(), PUMP_BUDGET) {
                Ok(Pumped::Moved(_)) => {}
                Ok(Pumped::WouldBlock) => return,
                Ok(Pumped::Eof) | Err(_) => return self.pipe = None,
            }
        }
    }
}

struct Pump {
    shell: Arc<Shell>,
    exec: Arc<RunningExec>,
    stdout: Channel,
    stderr: Channel,
}

impl Pump {
    async fn run(mut self, mut exited: oneshot::Receiver<Exit>) {
        let id = self.exec.record.id.clone();
        if self.exec.record.state != ExecState::Ended {
            let exit = self.until_exit(&mut exited).await;
            self.stdout.drain();
            self.stderr.drain();
            self.finish(exit).await;
        }
        // What its children still write belongs to the journal too.
        while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            tokio::select! {
                () = self.stdout.pump() => {}
                () = self.stderr.pump() => {}
                () = self.shell.dead() => {
                    self.stdout.drain();
                    self.stderr.drain();
                    break;
                }
            }
            self.publish(None);
        }
        self.shell.release(&id, None).await;
        self.shell.execs().remove(&id);
    }

    async fn until_exit(&mut self, exited: &mut oneshot::Receiver<Exit>) -> Exit {
        let deadline = self.exec.record.timeout_ms.map(|timeout| {
            let since = jiff::Timestamp::now().duration_since(self.exec.record.started_at).unsigned_abs();
            Instant::now() + Duration::from_millis(timeout).saturating_sub(since)
        });
        let mut deadline = deadline;
        loop {
            let alarm = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                exit = &mut *exited => return exit.unwrap_or(Exit::Lost(EndReason::Interrupted)),
                () = self.stdout.pump() => self.publish(None),
                () = self.stderr.pump() => self.publish(None),
                () = alarm => {
                    if lock(&self.exec.cause).is_some_and(|cause| cause == EndReason::Timeout) {
                        // The agent was told and says nothing: it cannot be trusted to end anything.
                        self.shell.kill();
                        deadline = None;
                    } else {
                        self.exec.blame(EndReason::Timeout);
                        self.shell.kill_tree(&self.exec.record.id).await;
                        deadline = Some(Instant::now() + KILL_GRACE);
                    }
                }
            }
        }
    }

    fn publish(&self, ended: Option<Arc<Exec>>) {
        self.exec.progress.send_modify(|progress| {
            progress.stdout = self.stdout.journal.total();
            progress.stderr = self.stderr.journal.total();
            if ended.is_some() {
                progress.ended = ended;
            }
        });
    }

    /// Writes the one end: the sandbox's log first, then readers, then the agent may forget it.
    async fn finish(&mut self, exit: Exit) {
        let mut record = self.exec.record.clone();
        let now = self.shell.clock().now();
        record.state = ExecState::Ended;
        record.ended_at = Some(now);
        record.duration_ms = now.duration_since(record.started_at).as_secs_f64() * 1000.0;
        record.stdout_bytes = self.stdout.journal.total();
        record.stderr_bytes = self.stderr.journal.total();
        self.explain(&mut record, exit);
        let lost = self.stdout.journal.lost() + self.stderr.journal.lost();
        if lost > 0 {
            record.detail = Some(format!("{lost} bytes of output could not be kept: the node's disk refused them"));
        }
        self.shell.record_end(&record);
        *self.exec.stdin.lock().await = None;
        self.publish(Some(Arc::new(record)));
        self.shell.acknowledge(&self.exec.record.id).await;
    }

    fn explain(&self, record: &mut Exec, exit: Exit) {
        let cause = *lock(&self.exec.cause);
        let status = match exit {
            Exit::Lost(reason) => {
                record.reason = Some(reason);
                record.detail = Some("the container ended before the command did".into());
                return;
            }
            Exit::Reaped(status) => status,
        };
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            record.signal = Some(signal);
            record.exit_code = Some(128 + signal);
        } else {
            record.exit_code = Some(libc::WEXITSTATUS(status));
        }
        let killed = record.exit_code == Some(128 + libc::SIGKILL);
        // The cgroup's count is read only when something was killed: the way of `true` pays nothing for it.
        let oom = killed && cause.is_none() && self.shell.oom_since_last_look();
        record.reason = Some(match cause {
            Some(cause) if record.signal == Some(libc::SIGKILL) => cause,
            _ if oom => EndReason::Oom,
            _ if record.signal.is_some() => EndReason::Signaled,
            _ => EndReason::Exited,
        });
        record.success = record.exit_code == Some(0);
        record.detail = match (record.reason, lock(&self.exec.failure).take()) {
            (_, Some((step, errno))) => Some(describe_failure(record, &step, errno)),
            (Some(EndReason::Oom), _) => Some("the sandbox's memory limit was reached; raise limits.memory_mib".into()),
            (Some(EndReason::Timeout), _) => Some(format!("killed after {} ms", record.timeout_ms.unwrap_or(0))),
            _ => None,
        };
    }
}

/// The step and errno come from the guest: only known steps are repeated.
fn describe_failure(record: &Exec, step: &str, errno: i32) -> String {
    let why = io::Error::from_raw_os_error(errno);
    match (step, errno) {
        ("exec", libc::ENOENT) => format!("{}: command not found", record.argv[0]),
        ("exec", _) => format!("{}: {why}", record.argv[0]),
        ("cwd", _) => format!("cwd {}: {why}", record.cwd),
        ("fork", libc::EAGAIN) => "the sandbox's process limit is reached; raise limits.pids".into(),
        ("user", _) => format!("user {}: {why}", record.user),
        _ => format!("the command could not be started: {why}"),
    }
}

impl Shell {
    /// Starts a command whose record is in the log already.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when descriptors are used up or the agent is gone; the record has its end then.
    pub async fn start_exec(self: &Arc<Self>, record: Exec, order: Order) -> Result<Arc<RunningExec>> {
        let id = record.id.to_string();
        let started = async {
            let (stdout, stdout_inside) = pipe()?;
            let (stderr, stderr_inside) = pipe()?;
            let stdin = order.stdin.as_ref().map(|input| input_pipe(input)).transpose()?;
            let (stdin, stdin_inside) = stdin.map_or((None, None), |(ours, inside)| (Some(ours), Some(inside)));
            let stdin = if order.stdin_open { stdin } else { None };
            let mut kept = vec![stdout.as_fd(), stderr.as_fd()];
            let mut slots = vec![held::STDOUT, held::STDERR];
            if let Some(stdin) = &stdin {
                kept.push(stdin.as_fd());
                slots.push(held::STDIN);
            }
            self.hold(&id, slots, &kept).await?;
            let frame = ToAgent::Exec {
                exec: id.clone(),
                argv: record.argv.clone(),
                env: order.env,
                cwd: record.cwd.clone(),
                uid: order.uid,
                gid: order.gid,
                stdin: stdin_inside.is_some(),
            };
            let mut inside = vec![stdout_inside.as_fd(), stderr_inside.as_fd()];
            inside.extend(stdin_inside.as_ref().map(AsFd::as_fd));
            let pipes = Pipes { stdout: Some(stdout), stderr: Some(stderr), stdin };
            let exec = RunningExec::launch(self, record.clone(), pipes, false)?;
            if let Err(error) = self.tell(&frame, &inside).await {
                exec.ended(Exit::Lost(EndReason::Interrupted));
                return Err(error);
            }
            Ok(exec)
        };
        started.await.map_err(|error: io::Error| {
            tracing::warn!(sandbox = %self.id(), exec = id, %error, "an exec could not be started");
            Error::Unavailable { reason: "the exec could not be started; try again".into() }
        })
    }
}

/// How a command runs inside, beside what its record says.
#[derive(Debug)]
pub struct Order {
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// User inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// What standard input begins with; none is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
    /// Whether it stays open after that.
    pub stdin_open: bool,
}

/// (our non-blocking read end, the guest's write end)
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    Ok((read, write))
}

/// (our non-blocking write end, the guest's read end), holding `input` already: nobody needs to live on to feed it.
fn input_pipe(input: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&write, true)?;
    if input.len() > 60 * 1024 {
        fcntl_setpipe_size(&write, input.len().next_power_of_two() * 2)?;
    }
    let mut rest = input;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&write, rest)?..];
    }
    Ok((write, read))
}
