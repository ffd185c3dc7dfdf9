//! What is saved, and what may be asked of it.

use isopod_model::{Ending, SandboxId, SandboxState, Timestamp, sandbox::Sandbox};
use std::collections::BTreeMap;

/// A sandbox as it is saved: what callers see, and what they do not.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What callers see.
    pub sandbox: Sandbox,
    /// Whose it is.
    pub owner: String,
    /// Environment of everything inside; may hold secrets.
    pub env: BTreeMap<String, String>,
    /// The time to live that was asked for, in seconds.
    pub timeout_s: Option<u64>,
}

/// An event about to be saved.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What happened: `sandbox.created`, …
    pub kind: &'static str,
    /// What belongs to it.
    pub data: serde_json::Value,
}

/// A step along the lifecycle table.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The sandbox.
    pub id: SandboxId,
    /// The states it may be in now.
    pub from: Vec<SandboxState>,
    /// The state it gets. `Running` clears the ending; `Ended` notes the event's time as the end.
    pub to: SandboxState,
    /// When its new shell came up; `None` keeps what is there.
    pub started_at: Option<Timestamp>,
    /// How its shell, or it, ended; `None` keeps what is there.
    pub ending: Option<Ending>,
    /// What is noted about the step.
    pub event: NewEvent,
}

/// What callers may change, all of it at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's own JSON.
    pub metadata: Option<serde_json::Value>,
    /// The time to live that was asked for, in seconds.
    pub timeout_s: Option<u64>,
    /// When it will end by itself.
    pub expires_at: Option<Timestamp>,
    /// Seconds without anything running until it is stopped.
    pub idle_timeout_s: Option<u64>,
    /// Never stopped for being idle.
    pub keep_alive: bool,
}

/// Which sandboxes to list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ListQuery {
    /// Whose.
    pub owner: String,
    /// Labels it must have, all of them.
    pub labels: Vec<(String, String)>,
    /// The state it must be in; every state but `ended` when absent.
    pub state: Option<SandboxState>,
    /// Only those older than this one.
    pub before: Option<SandboxId>,
    /// How many at most.
    pub limit: u32,
}

/// What a retention sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Ended sandboxes.
    pub sandboxes: u64,
    /// Events.
    pub events: u64,
}
