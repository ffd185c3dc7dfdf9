//! The seam between deciding and doing: what may be asked of a machine that runs sandboxes.
//!
//! `control` holds an `Arc<dyn Node>` and knows nothing of tiers; `node` implements it for this machine; the gRPC
//! adapter of the cluster will implement it for another one. Every error is the platform's own [`Error`].

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use isopod_model::{
    Ending, Error, ExecId, Result, SandboxId, Timestamp,
    event::Event,
    exec::{Exec, ExecRequest, ExecResult, OutputStream},
    file::{FileStat, MakeDirectory, MoveFile},
    limits::Limits,
    sandbox::Tier,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What a node needs to know to run a sandbox; decided by `control`, kept by the node beside the files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The sandbox.
    pub id: SandboxId,
    /// The tier to start in, already decided.
    pub tier: Tier,
    /// The template, already resolved to one that exists here.
    pub template: String,
    /// The limits in force.
    pub limits: Limits,
    /// Environment of everything inside.
    pub env: BTreeMap<String, String>,
}

/// What a node knows of one of its sandboxes.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxStatus {
    /// The sandbox.
    pub id: SandboxId,
    /// Whether its shell is up.
    pub running: bool,
    /// The tier it lives in.
    pub tier: Tier,
    /// Execs that have not ended.
    pub running_execs: u64,
    /// When anything last ran or called.
    pub last_active_at: Timestamp,
    /// How its last shell ended, while it is not running.
    pub ending: Option<Ending>,
}

/// What happened on a node without anybody asking.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeEvent {
    /// A sandbox's shell died; its files are kept.
    Died {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        ending: Ending,
    },
}

/// One tier as this host offers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TierReport {
    /// The tier.
    pub tier: Tier,
    /// Whether it can be used here.
    pub available: bool,
    /// Why not, and what would help; or a remark.
    pub reason: String,
}

/// How one question about the host was answered; a line of `isopod doctor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostCheck {
    /// What was looked at, such as `user namespaces`.
    pub name: String,
    /// `ok`, `warning` or `error`.
    pub verdict: String,
    /// What was found.
    pub found: String,
    /// How to mend it; empty when there is nothing to mend.
    pub remedy: String,
}

/// What this machine can and cannot do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HostReport {
    /// Each tier.
    pub tiers: Vec<TierReport>,
    /// Each check.
    pub checks: Vec<HostCheck>,
    /// The most that one sandbox may be given here.
    pub most: Limits,
    /// How many sandboxes fit, computed from the host unless set.
    pub max_sandboxes: u64,
    /// Templates that exist here, with a sentence each.
    pub templates: BTreeMap<String, String>,
}

/// Figures of one sandbox, now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SandboxStats {
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// The highest that was, in bytes.
    pub memory_peak_bytes: u64,
    /// Processor time used by this shell, in microseconds.
    pub cpu_us: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Disk in use, in bytes.
    pub disk_bytes: u64,
    /// Execs started since the sandbox was created.
    pub execs_total: u64,
    /// Execs that have not ended.
    pub execs_running: u64,
    /// How often the kernel ended a process for want of memory.
    pub oom_kills: u64,
}

/// Figures of the node itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStats {
    /// Sandboxes whose shell is up.
    pub running: u64,
    /// Removals that still go on in the background.
    pub teardowns_pending: u64,
    /// Network namespaces made and waiting.
    pub pooled_namespaces: u64,
    /// Subvolumes made and waiting.
    pub pooled_subvolumes: u64,
}

/// One piece of an exec's output as it is followed.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputEvent {
    /// Bytes of one stream.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// Offset of the first byte of `data` in the stream.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// Bytes that the journal does not hold any more.
    Skipped {
        /// Which stream.
        stream: OutputStream,
        /// Offset of the first missing byte.
        offset: u64,
        /// How many are missing.
        bytes: u64,
    },
    /// The exec ended; always the last event, after all output written before the end.
    Ended(Box<Exec>),
}

/// A piece of a journal, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSlice {
    /// The record at the time of reading.
    pub exec: Exec,
    /// Standard output from the offset asked for (or from the first byte after it that is still held).
    pub stdout: Bytes,
    /// Offset of the first byte of `stdout`.
    pub stdout_start: u64,
    /// Standard error likewise.
    pub stderr: Bytes,
    /// Offset of the first byte of `stderr`.
    pub stderr_start: u64,
}

/// What to wait for.
#[derive(Debug, Clone, PartialEq)]
pub enum WaitFor {
    /// The end of the exec.
    Exit,
    /// Somebody listens on a TCP port of the sandbox.
    Port(u16),
    /// Output holds this text.
    Log(String),
}

/// On whose behalf a file call runs, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileContext {
    /// `user` (default), `root` or a number.
    pub user: Option<String>,
}

/// Which bytes of a file to read; both ends inclusive as in RFC 9110.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From the first to the last offset, or to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

/// Conditions on a file's present content.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preconditions {
    /// `If-Match`: one of these ETags (quoted), or `*` for "exists".
    pub if_match: Option<Vec<String>>,
    /// `If-None-Match`: none of these, or `*` for "does not exist".
    pub if_none_match: Option<Vec<String>>,
}

/// A file being read.
pub struct FileRead {
    /// Its facts, taken from the opened file itself.
    pub stat: FileStat,
    /// Offset of the first byte of `body`.
    pub start: u64,
    /// How many bytes `body` will give.
    pub length: u64,
    /// The bytes, in pieces of at most 256 KiB.
    pub body: BoxStream<'static, std::io::Result<Bytes>>,
}

impl std::fmt::Debug for FileRead {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileRead").field("stat", &self.stat).finish_non_exhaustive()
    }
}

/// A file about to be written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileWrite {
    /// On whose behalf.
    pub context: FileContext,
    /// Permission bits for a new file in octal; `0644` when absent. Overwriting keeps owner and mode unless given.
    pub mode: Option<u32>,
    /// Conditions on what is there.
    pub preconditions: Preconditions,
}

/// A machine that runs sandboxes.
///
/// All calls may come concurrently. A sandbox unknown to the node is [`Error::NotFound`]; a call that needs a shell
/// on a stopped sandbox is [`Error::WrongState`] with the state `stopped`: `control` then calls [`Node::start`] and
/// tries again.
#[async_trait]
pub trait Node: Send + Sync {
    /// What this machine can do. Cheap after the first call.
    async fn report(&self) -> HostReport;
    /// Figures of the node.
    async fn node_stats(&self) -> NodeStats;
    /// Every sandbox this node has, running or not; for reconciliation after a restart.
    async fn inspect(&self) -> Vec<SandboxStatus>;
    /// One sandbox.
    async fn status(&self, id: &SandboxId) -> Result<SandboxStatus>;
    /// What happens unasked, from now on. A slow reader loses events and must [`Node::inspect`] again.
    fn events(&self) -> tokio_events::Receiver;

    /// Makes a sandbox and starts its shell. After an error nothing of it is left.
    async fn create(&self, spec: SandboxSpec) -> Result<()>;
    /// Starts the shell of a stopped sandbox; Ok when it is up already.
    async fn start(&self, id: &SandboxId) -> Result<()>;
    /// Ends the shell (all its execs end `killed`) and keeps the files; Ok when it is down already.
    async fn stop(&self, id: &SandboxId, ending: Ending) -> Result<()>;
    /// Freezes all processes.
    async fn pause(&self, id: &SandboxId) -> Result<()>;
    /// Thaws them.
    async fn resume(&self, id: &SandboxId) -> Result<()>;
    /// Ends the shell and removes everything. Returns when no process is left; files go in the background. Ok when
    /// there is nothing.
    async fn delete(&self, id: &SandboxId, ending: Ending) -> Result<()>;
    /// Figures of one sandbox; those of the shell are 0 while it is stopped.
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats>;

    /// Starts a command. With a `key` used before in this sandbox for the same request, the exec of then is
    /// returned and nothing is started; for another request it is [`Error::IdempotencyMismatch`].
    async fn exec(
        &self,
        id: &SandboxId,
        exec: ExecId,
        request: ExecRequest,
        key: Option<String>,
    ) -> Result<Exec>;
    /// One exec's record.
    async fn exec_get(&self, id: &SandboxId, exec: &ExecId) -> Result<Exec>;
    /// Records of execs, newest first, older than `before`.
    async fn exec_list(&self, id: &SandboxId, before: Option<ExecId>, limit: u32) -> Result<Vec<Exec>>;
    /// Waits for the end and gives the buffered result (first 4 MiB of each stream).
    async fn exec_result(&self, id: &SandboxId, exec: &ExecId) -> Result<ExecResult>;
    /// What the journal holds from the two offsets on, at most 4 MiB of each stream, without waiting.
    /// [`Error::RangeNotSatisfiable`] for an offset behind what was written, what children wrote after the exec's end
    /// included; likewise in [`Node::exec_follow`].
    async fn exec_output(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<OutputSlice>;
    /// Output from the two offsets on, as it comes, and then the end. Dropping it does not touch the exec.
    async fn exec_follow(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<BoxStream<'static, Result<OutputEvent>>>;
    /// Waits for something, at most so long ([`Error::WaitTimeout`]).
    async fn exec_wait(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        wait: WaitFor,
        timeout: Duration,
    ) -> Result<Exec>;
    /// Writes to an open standard input; `close` ends it afterwards.
    async fn exec_stdin(&self, id: &SandboxId, exec: &ExecId, data: Bytes, close: bool) -> Result<()>;
    /// Sends a signal to the first process, or with `tree` to all its descendants too. `SIGKILL` with `tree` makes
    /// the exec end `killed`.
    async fn exec_signal(&self, id: &SandboxId, exec: &ExecId, signal: i32, tree: bool) -> Result<()>;

    /// A file's facts; a symbolic link at the end is not followed unless `follow`.
    async fn file_stat(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        follow: bool,
    ) -> Result<FileStat>;
    /// Opens a regular file for reading.
    async fn file_read(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        range: Option<ByteRange>,
    ) -> Result<FileRead>;
    /// Writes a file from a stream: parents are made, the file appears whole or not at all. Returns whether it is
    /// new, and its facts.
    async fn file_write(
        &self,
        id: &SandboxId,
        path: &str,
        write: FileWrite,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)>;
    /// A directory's entries, sorted by path; with `recursive` those below too, at most 100,000 in all.
    async fn file_list(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        recursive: bool,
    ) -> Result<Vec<FileStat>>;
    /// Makes a directory and its parents; Ok(false) when it was there.
    async fn file_mkdir(&self, id: &SandboxId, request: &MakeDirectory) -> Result<bool>;
    /// Moves a file or directory within the sandbox.
    async fn file_move(&self, id: &SandboxId, request: &MoveFile) -> Result<()>;
    /// Deletes a file, or with `recursive` a directory and all below it.
    async fn file_delete(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        recursive: bool,
        preconditions: &Preconditions,
    ) -> Result<()>;

    /// Appends to the sandbox's own log.
    async fn log(&self, id: &SandboxId, kind: &str, data: serde_json::Value);
    /// The sandbox's own log after a position.
    async fn log_read(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>>;
    /// Told whenever the sandbox's log grows.
    async fn log_changed(&self, id: &SandboxId) -> Result<tokio_events::Changed>;

    /// Lets go: journals are flushed, sandboxes run on (or are stopped with `stop_sandboxes`).
    async fn shutdown(&self, stop_sandboxes: bool);
}

/// Channel types of the seam, named here so that adapters agree on them.
pub mod tokio_events {
    use super::NodeEvent;
    /// Receives what happens on a node.
    pub type Receiver = tokio::sync::broadcast::Receiver<NodeEvent>;
    /// Changes whenever something was appended.
    pub type Changed = tokio::sync::watch::Receiver<u64>;
}

/// The error for a sandbox that this node does not have.
pub fn unknown_sandbox(id: &SandboxId) -> Error {
    Error::NotFound { what: "sandbox", id: id.to_string() }
}
