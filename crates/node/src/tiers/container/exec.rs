//! One exec while it runs: how it is started, how far it is, who may end it.

use super::{
    packets,
    pump::{Channel, Pump},
    shell::Shell,
};
use isopod_guest::frames::{ToAgent, held};
use isopod_model::{
    EndReason, Error, Result,
    exec::{Exec, ExecState, OutputStream},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{oneshot, watch},
};

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
    /// Whether it was started by an earlier server.
    pub resumed: bool,
    pub(super) progress: watch::Sender<Progress>,
    exit: Mutex<Option<oneshot::Sender<Exit>>>,
    failure: Mutex<Option<(String, i32)>>,
    cause: Mutex<Option<EndReason>>,
    pub(super) stdin: tokio::sync::Mutex<Option<AsyncFd<OwnedFd>>>,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
            resumed,
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
            progress.stdout = stdout.total();
            progress.stderr = stderr.total();
            progress.ended = ended.then(|| Arc::new(exec.record.clone()));
        });
        shell.execs().insert(exec.record.id.clone(), Arc::clone(&exec));
        tokio::spawn(Pump::new(Arc::clone(shell), Arc::clone(&exec), stdout, stderr).run(exited));
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

    /// Who is about to kill it, or has.
    pub fn blamed(&self) -> Option<EndReason> {
        *lock(&self.cause)
    }

    /// Why its program could not be started: the step and its errno.
    pub fn failure(&self) -> Option<(String, i32)> {
        lock(&self.failure).clone()
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
            let (stdin, stdin_inside) =
                stdin.map_or((None, None), |(ours, inside)| (Some(ours), Some(inside)));
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
