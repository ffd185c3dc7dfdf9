//! How lives end: of sandboxes and of execs.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// Why something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The process returned an exit code.
    Exited,
    /// The process was ended by a signal that nobody of the platform sent.
    Signaled,
    /// Its time ran out.
    Timeout,
    /// The kernel ended it because the sandbox's memory limit was reached.
    Oom,
    /// A caller ended it.
    Killed,
    /// The platform lost it (its launcher or its machine died): what it did since is unknown.
    Interrupted,
    /// The operator or a policy removed it to make room.
    Evicted,
    /// The node it lived on is gone.
    NodeLost,
}

impl EndReason {
    /// The word used in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Timeout => "timeout",
            Self::Oom => "oom",
            Self::Killed => "killed",
            Self::Interrupted => "interrupted",
            Self::Evicted => "evicted",
            Self::NodeLost => "node_lost",
        }
    }
}

/// The record of an end: why, when, by whom, and what shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Ending {
    /// Why it ended.
    pub reason: EndReason,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who ended it: `caller`, `ttl`, `idle`, `guest`, `kernel`, `server`, `operator`.
    pub by: String,
    /// A sentence for people.
    pub detail: String,
    /// What shows it: exit status, signal, memory peak, the exec involved.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schema(value_type = Object)]
    pub evidence: serde_json::Map<String, serde_json::Value>,
    /// The snapshot it can be revived from, where there is one.
    #[serde(default)]
    pub snapshot_id: Option<String>,
}

impl Ending {
    /// An ending without evidence.
    pub fn new(reason: EndReason, at: Timestamp, by: &str, detail: impl Into<String>) -> Self {
        Self {
            reason,
            at,
            by: by.to_owned(),
            detail: detail.into(),
            evidence: serde_json::Map::new(),
            snapshot_id: None,
        }
    }

    /// The same ending with one more piece of evidence.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.evidence.insert(key.to_owned(), value.into());
        self
    }
}
