//! How the server itself is: for load balancers, for Prometheus, for operators.

use crate::{ApiState, problem::Answer};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use isopod_model::Error;
use isopod_node_api::HostReport;
use metrics::gauge;
use serde::Serialize;

const TAG: &str = "server";

/// How the server is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Tell that the server is alive.
#[utoipa::path(get, path = "/health", tag = TAG, responses((status = 200, description = "It is", body = Health)))]
pub(crate) async fn health() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// Tell whether the server can serve.
///
/// 200 once at least one tier is ready to take sandboxes, else 503.
#[utoipa::path(get, path = "/health/ready", tag = TAG, responses((status = 200, description = "It can", body = Health)))]
pub(crate) async fn ready(State(state): State<ApiState>) -> Answer<axum::Json<Health>> {
    let report = state.control.report().await;
    if report.tiers.iter().any(|tier| tier.available) {
        return Ok(axum::Json(Health { status: "ok" }));
    }
    let reasons: Vec<String> =
        report.tiers.iter().map(|tier| format!("{}: {}", tier.tier.as_str(), tier.reason)).collect();
    let reason = format!("no tier can be used on this host ({})", reasons.join("; "));
    Err(Error::Unavailable { reason }.into())
}

/// Get the server's figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = TAG,
    responses((status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(state): State<ApiState>) -> Response {
    let stats = state.control.node_stats().await;
    let counts = state.control.counts();
    #[allow(clippy::cast_precision_loss, reason = "counts of things on one machine are far below 2^52")]
    {
        gauge!("teardowns_pending").set(stats.teardowns_pending as f64);
        gauge!("pool_ready", "kind" => "namespace").set(stats.pooled_namespaces as f64);
        gauge!("pool_ready", "kind" => "subvolume").set(stats.pooled_subvolumes as f64);
        for (state, count) in [
            ("creating", counts.creating),
            ("running", counts.running),
            ("paused", counts.paused),
            ("stopped", counts.stopped),
            ("deleting", counts.deleting),
        ] {
            gauge!("sandboxes", "state" => state).set(count as f64);
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render())
        .into_response()
}

/// Explain what this host can and cannot do.
#[utoipa::path(get, path = "/v1/doctor", tag = TAG, responses((status = 200, description = "The findings", body = HostReport)))]
pub(crate) async fn doctor(State(state): State<ApiState>) -> axum::Json<HostReport> {
    axum::Json(state.control.report().await)
}
