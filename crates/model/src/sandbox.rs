//! Sandboxes: what a caller asks for, and what a caller sees.

use crate::{
    Ending, SandboxId, SandboxState, Timestamp,
    limits::{InstanceType, Limits, LimitsRequest},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The shells a sandbox can live in, from light to heavy.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// WebAssembly, in process.
    Wasm,
    /// Native Linux processes under namespaces, seccomp and cgroups.
    Container,
    /// A virtual machine.
    Microvm,
}

impl Tier {
    /// Every tier, from light to heavy.
    pub const ALL: [Self; 3] = [Self::Wasm, Self::Container, Self::Microvm];

    /// The word used in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Container => "container",
            Self::Microvm => "microvm",
        }
    }
}

/// The tier a caller asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TierRequest {
    /// The lightest tier that this host offers and that can do the job.
    #[default]
    Auto,
    /// WebAssembly.
    Wasm,
    /// A Linux container.
    Container,
    /// A virtual machine.
    Microvm,
}

/// Whether a sandbox may move into a heavier tier by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    /// It moves when it must.
    #[default]
    Auto,
    /// The command that would need it fails and says so.
    Ask,
    /// It never moves.
    Never,
}

/// The network a sandbox gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// `deny` (the default): loopback only. Other presets are not built yet and answer 501.
    pub preset: Option<String>,
    /// Rules beyond the preset; not built yet.
    #[schema(value_type = Vec<Object>)]
    pub rules: Option<Vec<serde_json::Value>>,
}

/// The body of `POST /v1/sandboxes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"name": "my-project", "labels": {"team": "red"}, "instance_type": "standard"}))]
pub struct CreateSandbox {
    /// A name of the caller's own, `[A-Za-z0-9._-]{1,128}`, unique among its live sandboxes.
    pub name: Option<String>,
    /// The template; `base` when absent.
    pub template: Option<String>,
    /// The tier to start in.
    pub tier: TierRequest,
    /// A named set of limits; `lite` when absent.
    pub instance_type: Option<InstanceType>,
    /// Limits that differ from the instance type's.
    pub limits: Option<LimitsRequest>,
    /// Environment of everything that runs inside.
    pub env: BTreeMap<String, String>,
    /// Labels to find it by: keys and values of 1 to 128 characters, at most 64.
    pub labels: BTreeMap<String, String>,
    /// Any JSON of the caller's, at most 64 KiB; never interpreted.
    #[schema(value_type = Object)]
    pub metadata: Option<serde_json::Value>,
    /// Seconds until the sandbox ends; it lives until deleted when absent.
    pub timeout_s: Option<u64>,
    /// Seconds without anything running until it is stopped (files kept); 300 when absent, 0 for never.
    pub idle_timeout_s: Option<u64>,
    /// Never stop it for being idle.
    pub keep_alive: bool,
    /// Keep it running across restarts of the host. Not built yet: `true` answers 501.
    pub always_on: bool,
    /// Whether it may move into a heavier tier.
    pub promotion: Promotion,
    /// The commands it may run. Not built yet: a list answers 501.
    pub allow: Option<Vec<String>>,
    /// Its network.
    pub network: Option<NetworkRequest>,
}

/// The body of `PATCH /v1/sandboxes/{id}`; what is absent stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateSandbox {
    /// Labels to set; a `null` value removes the label.
    pub labels: Option<BTreeMap<String, Option<String>>>,
    /// Replaces the metadata.
    #[schema(value_type = Object)]
    pub metadata: Option<serde_json::Value>,
    /// Seconds from now until the sandbox ends; 0 for never.
    pub timeout_s: Option<u64>,
    /// Seconds without anything running until it is stopped; 0 for never.
    pub idle_timeout_s: Option<u64>,
    /// Never stop it for being idle.
    pub keep_alive: Option<bool>,
}

/// A sandbox as callers see it. Its environment is not shown: it may hold secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sandbox {
    /// Its id, issued by the platform; its hostname too.
    pub id: SandboxId,
    /// The caller's name for it.
    pub name: Option<String>,
    /// Where it is in its life.
    pub state: SandboxState,
    /// The tier it lives in now.
    pub tier: Tier,
    /// The tier the caller asked for.
    pub requested_tier: TierRequest,
    /// The template the caller asked for.
    pub template: String,
    /// The template that it really runs on (`base` is served by `host` until it has been built).
    pub resolved_template: String,
    /// The instance type its limits come from.
    pub instance_type: InstanceType,
    /// The limits in force.
    pub limits: Limits,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's own JSON.
    #[schema(value_type = Object)]
    pub metadata: Option<serde_json::Value>,
    /// Whether it may move into a heavier tier.
    pub promotion: Promotion,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When its present shell came up.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// When it will end by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Seconds without anything running until it is stopped; absent for never.
    pub idle_timeout_s: Option<u64>,
    /// Never stopped for being idle.
    pub keep_alive: bool,
    /// How its last shell ended, while it is stopped; how it ended, when it is gone.
    pub ending: Option<Ending>,
}
