//! Moving an exec's output into its journal, and writing its one end.

use super::{
    exec::{Exit, RunningExec},
    packets,
    shell::Shell,
};
use crate::journal::{JournalWriter, Pumped};
use isopod_model::{
    EndReason, Ending, ExecId,
    exec::{Exec, ExecState, JOURNAL_LIMIT, OutputStream},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::Instant,
};

/// How many bytes one stream moves before the other has its turn.
const PUMP_BUDGET: usize = 256 * 1024;
/// How long an agent may take to report the death of a tree that it was told to kill.
const KILL_GRACE: Duration = Duration::from_secs(30);
/// How long to wait before an end that the disk refused is written again.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// One stream: its pipe until the end, and its journal.
pub(super) struct Channel {
    pipe: Option<AsyncFd<OwnedFd>>,
    journal: JournalWriter,
}

impl Channel {
    pub(super) fn open(
        shell: &Shell,
        id: &ExecId,
        stream: OutputStream,
        pipe: Option<OwnedFd>,
        resumed: bool,
    ) -> io::Result<Self> {
        let (directory, limit) = (shell.journals(), JOURNAL_LIMIT / 2);
        let journal = if resumed {
            JournalWriter::open(directory, id, stream, limit)?
        } else {
            JournalWriter::create(directory, id, stream, limit)?
        };
        let pipe = pipe.map(|fd| packets::watch(fd, Interest::READABLE)).transpose()?;
        Ok(Self { pipe, journal })
    }

    /// Bytes that came so far.
    pub(super) fn total(&self) -> u64 {
        self.journal.total()
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

pub(super) struct Pump {
    shell: Arc<Shell>,
    exec: Arc<RunningExec>,
    stdout: Channel,
    stderr: Channel,
}

impl Pump {
    pub(super) fn new(shell: Arc<Shell>, exec: Arc<RunningExec>, stdout: Channel, stderr: Channel) -> Self {
        Self { shell, exec, stdout, stderr }
    }

    /// Runs until the exec has its end and its pipes are done.
    pub(super) async fn run(mut self, mut exited: oneshot::Receiver<Exit>) {
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
        let mut deadline = self.exec.record.timeout_ms.map(|timeout| {
            // A server that takes over an exec takes over what is left of its time.
            let used = self.shell.clock().now().duration_since(self.exec.record.started_at);
            Instant::now() + Duration::from_millis(timeout).saturating_sub(used.unsigned_abs())
        });
        loop {
            let alarm = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                exit = &mut *exited => return exit.unwrap_or(Exit::Lost(EndReason::Interrupted)),
                () = self.stdout.pump() => self.publish(None),
                () = self.stderr.pump() => self.publish(None),
                () = alarm => {
                    if self.exec.blamed() == Some(EndReason::Timeout) {
                        // The agent was told and says nothing: it cannot be trusted to end anything.
                        let detail = "its agent did not end an exec whose time was up";
                        let now = self.shell.clock().now();
                        self.shell.ask_end(Ending::new(EndReason::Killed, now, "server", detail));
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
            progress.stdout = self.stdout.total();
            progress.stderr = self.stderr.total();
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
        record.stdout_bytes = self.stdout.total();
        record.stderr_bytes = self.stderr.total();
        self.explain(&mut record, exit);
        let lost = self.stdout.journal.lost() + self.stderr.journal.lost();
        if lost > 0 {
            record.detail =
                Some(format!("{lost} bytes of output could not be kept: the node's disk refused them"));
        }
        *self.exec.stdin.lock().await = None;
        let recorded = self.shell.record_end(&record);
        let record = Arc::new(record);
        self.publish(Some(Arc::clone(&record)));
        if !recorded {
            // Callers have their answer; the agent keeps the exit until the disk takes the record, too.
            while !self.shell.record_end(&record) {
                tokio::time::sleep(RECORD_AGAIN).await;
            }
        }
        self.shell.acknowledge(&self.exec.record.id).await;
    }

    fn explain(&self, record: &mut Exec, exit: Exit) {
        let cause = self.exec.blamed();
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
        record.detail = match (record.reason, self.exec.failure()) {
            (_, Some((step, errno))) => Some(describe_failure(record, &step, errno)),
            (Some(EndReason::Oom), _) => {
                Some("the sandbox's memory limit was reached; raise limits.memory_mib".into())
            }
            (Some(EndReason::Timeout), _) => {
                Some(format!("killed after {} ms", record.timeout_ms.unwrap_or(0)))
            }
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
