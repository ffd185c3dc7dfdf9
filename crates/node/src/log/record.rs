//! What a log holds, and the lines it is written in.

use isopod_model::{
    ExecId, SandboxId, Timestamp,
    event::Event,
    exec::{Exec, ExecState},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{borrow::Cow, collections::BTreeMap};

/// How much of an exec's arguments its `exec.started` event repeats; the record has all.
const EVENT_ARGUMENTS: usize = 32;
const EVENT_ARGUMENT_CHARS: usize = 256;

/// The caller's key that makes a repeated request harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The `Idempotency-Key`.
    pub key: String,
    /// A digest of the request that it came with.
    pub request_hash: String,
}

/// What is kept of an exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecRecord {
    /// The exec as callers see it; once it has ended, with its end.
    pub exec: Exec,
    /// The key it was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// Whether its standard input was kept open for the caller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin_open: bool,
}

/// One line of `records.wal`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Checkpoint(Checkpoint<'a>),
    Started { seq: i64, at: Timestamp, record: Cow<'a, ExecRecord> },
    Ended { seq: i64, at: Timestamp, exec: Cow<'a, Exec> },
    Event { seq: i64, at: Timestamp, kind: Cow<'a, str>, data: Cow<'a, Value> },
}

/// What must be known of all earlier lines.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint<'a> {
    pub(super) next_seq: i64,
    pub(super) execs_total: u64,
    pub(super) open: Vec<Cow<'a, ExecRecord>>,
}

/// A record that waits in memory for the flush.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) seq: i64,
    pub(super) at: Timestamp,
    pub(super) entry: Entry,
    /// Length of its line.
    pub(super) bytes: u64,
}

/// What kind of record; execs are held once, beside.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Started(ExecId),
    Ended(ExecId),
    Event { kind: String, data: Value },
}

impl Pending {
    /// The record as an event.
    pub(super) fn event(&self, sandbox: &SandboxId, execs: &BTreeMap<ExecId, ExecRecord>) -> Event {
        let (kind, data) = match &self.entry {
            Entry::Started(id) => ("exec.started", execs.get(id).map_or(Value::Null, started)),
            Entry::Ended(id) => ("exec.ended", execs.get(id).map_or(Value::Null, ended)),
            Entry::Event { kind, data } => (kind.as_str(), data.clone()),
        };
        Event { seq: self.seq, at: self.at, sandbox_id: sandbox.clone(), kind: kind.to_owned(), data }
    }
}

fn started(record: &ExecRecord) -> Value {
    let exec = &record.exec;
    let argv: Vec<String> = exec
        .argv
        .iter()
        .take(EVENT_ARGUMENTS)
        .map(|argument| argument.chars().take(EVENT_ARGUMENT_CHARS).collect())
        .collect();
    json!({
        "exec_id": exec.id,
        "argv": argv,
        "user": exec.user,
        "cwd": exec.cwd,
        "tier": exec.tier,
        "background": exec.background,
    })
}

fn ended(record: &ExecRecord) -> Value {
    let exec = &record.exec;
    debug_assert_eq!(exec.state, ExecState::Ended);
    json!({
        "exec_id": exec.id,
        "reason": exec.reason,
        "exit_code": exec.exit_code,
        "signal": exec.signal,
        "duration_ms": exec.duration_ms,
    })
}
