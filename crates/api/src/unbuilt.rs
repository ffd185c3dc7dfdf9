//! Routes of the contract that are not built yet: they say so, instead of not existing.

use crate::{ApiState, extract::FilePath, problem::Problem};
use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::any,
};
use http::{HeaderValue, header};
use isopod_model::Error;

/// Path, what it will be, and the row of the mission that asks for it.
const UNBUILT: &[(&str, &str)] = &[
    ("/v1/sandboxes/{id}/sessions", "sessions (X5)"),
    ("/v1/sandboxes/{id}/sessions/{*rest}", "sessions (X5)"),
    ("/v1/sandboxes/{id}/terminals", "terminals (X6)"),
    ("/v1/sandboxes/{id}/terminals/{*rest}", "terminals (X6)"),
    ("/v1/sandboxes/{id}/contexts", "code interpreter contexts (X7)"),
    ("/v1/sandboxes/{id}/contexts/{*rest}", "code interpreter contexts (X7)"),
    ("/v1/sandboxes/{id}/services", "services (L4)"),
    ("/v1/sandboxes/{id}/services/{*rest}", "services (L4)"),
    ("/v1/sandboxes/{id}/schedules", "schedules (L4)"),
    ("/v1/sandboxes/{id}/schedules/{*rest}", "schedules (L4)"),
    ("/v1/sandboxes/{id}/mounts", "mounts (F3)"),
    ("/v1/sandboxes/{id}/mounts/{*rest}", "mounts (F3)"),
    ("/v1/sandboxes/{id}/previews", "previews (P1)"),
    ("/v1/sandboxes/{id}/previews/{*rest}", "previews (P1)"),
    ("/v1/sandboxes/{id}/snapshots", "snapshots (N1)"),
    ("/v1/sandboxes/{id}/snapshots/{*rest}", "snapshots (N1)"),
    ("/v1/sandboxes/{id}/watch/{*path}", "watching files (F2)"),
    ("/v1/sandboxes/{id}/tar/{*path}", "archives in and out (F2)"),
    ("/v1/sandboxes/{id}/activity", "activity (L4)"),
    ("/v1/sandboxes/{id}/egress", "the egress log (I6)"),
    ("/v1/sandboxes/{id}/egress/explain", "the egress log (I6)"),
    ("/v1/snapshots/{*rest}", "snapshots (N1)"),
    ("/v1/queue", "the command queue (T6)"),
    ("/v1/queue/{*rest}", "the command queue (T6)"),
    ("/v1/keys", "API keys (I2)"),
    ("/v1/keys/{*rest}", "API keys (I2)"),
    ("/v1/templates", "templates (T7)"),
    ("/v1/templates/{*rest}", "templates (T7)"),
    ("/v1/workspaces", "workspaces (W1)"),
    ("/v1/workspaces/{*rest}", "workspaces (W1)"),
    ("/v1/workers", "workers (W3)"),
    ("/v1/workers/{*rest}", "workers (W3)"),
    ("/v1/marketplace", "the marketplace (W4)"),
    ("/v1/marketplace/{*rest}", "the marketplace (W4)"),
    ("/v1/orgs", "organisations (I2)"),
    ("/v1/orgs/{*rest}", "organisations (I2)"),
    ("/v1/users", "users (I2)"),
    ("/v1/users/{*rest}", "users (I2)"),
    ("/v1/secrets", "secrets (I6)"),
    ("/v1/secrets/{*rest}", "secrets (I6)"),
    ("/v1/volumes", "volumes (F3)"),
    ("/v1/volumes/{*rest}", "volumes (F3)"),
    ("/v1/quota/check", "quotas (I5)"),
    ("/v1/sessions", "the history of sandbox lives (L10)"),
    ("/v1/nodes", "nodes (C1)"),
    ("/v1/nodes/{*rest}", "nodes (C1)"),
    ("/preview/{*rest}", "previews (P3)"),
    ("/auth/login", "browser login (I4)"),
    ("/auth/callback", "browser login (I4)"),
    ("/auth/logout", "browser login (I4)"),
];

/// The routes themselves.
pub(crate) fn routes() -> Router<ApiState> {
    UNBUILT.iter().fold(Router::new(), |router, (path, feature)| {
        router.route(path, any(move || async move { not_built(feature) }))
    })
}

fn not_built(feature: &str) -> Problem {
    Error::NotBuilt { feature: feature.to_owned() }.into()
}

/// Signing is a verb at the end of a file's path, which a route cannot express.
pub(crate) async fn post_file(FilePath(path): FilePath) -> Response {
    if path.ends_with("/sign") {
        return not_built("signed URLs for files (F2)").into_response();
    }
    let allow = [(header::ALLOW, HeaderValue::from_static("GET,HEAD,PUT,DELETE"))];
    (allow, Problem::MethodNotAllowed { method: "POST".into() }).into_response()
}
