//! Everything a client touches: routes, their OpenAPI document, streams, and the one form of every error.
//!
//! Handlers are thin: they read a request, ask [`Control`] or the sandbox's data plane, and write the answer. What a
//! request may do inside a sandbox is settled by the extractor that resolves it, so a node of a cluster can serve the
//! same data-plane routes for whoever resolved the sandbox.

mod docs;
mod events;
mod exec;
mod exec_stream;
mod exec_ws;
mod execs;
mod extract;
mod file_headers;
mod files;
mod guard;
mod health;
mod openapi;
mod output;
mod problem;
mod router;
mod sandboxes;
mod telemetry;
mod tree;
mod unbuilt;

use isopod_control::Control;
use metrics_exporter_prometheus::PrometheusHandle;
use std::{fmt, sync::Arc, time::Duration};

pub use openapi::openapi;
pub use router::router;
pub use telemetry::describe_metrics;

/// What the operator decided about the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiSettings {
    /// Public origin of the API, such as `http://127.0.0.1:8080`; its host is accepted in requests.
    pub base_url: String,
    /// Further host names under which requests are accepted, besides loopback and the host of `base_url`.
    pub allowed_hosts: Vec<String>,
    /// How long a stream may be silent before a comment or ping is sent on it.
    pub keep_alive: Duration,
}

impl ApiSettings {
    /// The usual settings of a server that is reached under `base_url`.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self { base_url: base_url.into(), allowed_hosts: Vec::new(), keep_alive: Duration::from_secs(15) }
    }
}

/// What every handler has at hand.
#[derive(Clone)]
pub struct ApiState {
    /// Decisions, and the way into sandboxes.
    pub control: Arc<Control>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
    /// What the operator decided.
    pub settings: Arc<ApiSettings>,
}

impl ApiState {
    /// Puts the pieces together.
    pub fn new(control: Arc<Control>, metrics: PrometheusHandle, settings: ApiSettings) -> Self {
        Self { control, metrics, settings: Arc::new(settings) }
    }
}

impl fmt::Debug for ApiState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ApiState").field("settings", &self.settings).finish_non_exhaustive()
    }
}
