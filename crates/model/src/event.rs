//! What happened to a sandbox, in order.

use crate::{SandboxId, Timestamp};
use serde::{Deserialize, Serialize};

/// One entry of a sandbox's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Position in the log it was read from; grows, has gaps. Hand it back as `after`.
    pub seq: i64,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The sandbox it happened to.
    pub sandbox_id: SandboxId,
    /// What happened: `sandbox.created`, `sandbox.started`, `sandbox.stopped`, `sandbox.ended`, `exec.started`, …
    pub kind: String,
    /// What belongs to it.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}
