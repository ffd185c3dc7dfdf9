//! Sandboxes: making, finding, changing and ending them.

use crate::{
    ApiState,
    extract::{Asking, Json, JsonOrEmpty, Named, Params, Path},
    problem::{Answer, Problem},
};
use axum::{extract::State, response::IntoResponse};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use isopod_control::ListFilter;
use isopod_model::{
    SandboxState,
    page::Page,
    sandbox::{CreateSandbox, Sandbox, Tier, UpdateSandbox},
};
use serde::Deserialize;

const TAG: &str = "sandboxes";

/// The body of `promote` and `demote`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeTier {
    /// The tier to move into.
    tier: Tier,
}

fn location(sandbox: &Sandbox) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(format!("/v1/sandboxes/{}", sandbox.id)) {
        headers.insert(header::LOCATION, value);
    }
    headers
}

/// Create a sandbox.
///
/// Every member is optional; no body means the defaults. It is running when the answer comes.
#[utoipa::path(post, path = "/v1/sandboxes", tag = TAG, request_body = CreateSandbox,
    responses((status = 201, description = "Created; `Location` has its path", body = Sandbox)))]
pub(crate) async fn create_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    JsonOrEmpty(request): JsonOrEmpty<CreateSandbox>,
) -> Answer {
    let sandbox = state.control.create(&caller, request).await?;
    Ok((StatusCode::CREATED, location(&sandbox), axum::Json(sandbox)).into_response())
}

/// Get the sandbox of a name, or create it.
///
/// Of any number of callers at once, one creates it and all get the same. The body counts only when it is created.
#[utoipa::path(put, path = "/v1/sandboxes/by-name/{name}", tag = TAG, request_body = CreateSandbox,
    params(("name" = String, Path, description = "The caller's name for it, `[A-Za-z0-9._-]{1,128}`")),
    responses((status = 200, description = "It was there", body = Sandbox),
        (status = 201, description = "Created", body = Sandbox)))]
pub(crate) async fn get_or_create_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(name): Path<String>,
    JsonOrEmpty(request): JsonOrEmpty<CreateSandbox>,
) -> Answer {
    let (created, sandbox) = state.control.get_or_create(&caller, &name, request).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, location(&sandbox), axum::Json(sandbox)).into_response())
}

/// List sandboxes, newest first.
#[utoipa::path(get, path = "/v1/sandboxes", tag = TAG,
    params(("label" = Option<Vec<String>>, Query, description = "`key:value`; may be repeated, all must hold"),
        ("state" = Option<SandboxState>, Query, description = "Only those in this state; every state but `ended` when absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Size of the page; 100 when absent")),
    responses((status = 200, description = "One page", body = Page<Sandbox>)))]
pub(crate) async fn list_sandboxes(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    params: Params,
) -> Answer<axum::Json<Page<Sandbox>>> {
    let params = params.only(&["state", "cursor", "limit"], &["label"])?;
    let labels = params.all("label").map(parse_label).collect::<Result<_, _>>()?;
    let wanted = params.text("state").map(parse_state).transpose()?;
    let filter = ListFilter {
        labels,
        state: wanted,
        cursor: params.text("cursor").map(str::to_owned),
        limit: params.limit()?,
    };
    Ok(axum::Json(state.control.list(&caller, filter).await?))
}

fn parse_label(text: &str) -> Result<(String, String), Problem> {
    text.split_once(':')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| Problem::invalid("label", "must have the form key:value"))
}

fn parse_state(word: &str) -> Result<SandboxState, Problem> {
    SandboxState::from_word(word).ok_or_else(|| {
        let words: Vec<_> = SandboxState::ALL.iter().map(|state| state.as_str()).collect();
        Problem::invalid("state", format!("must be one of {}", words.join(", ")))
    })
}

/// Get a sandbox.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = TAG, responses((status = 200, description = "The sandbox", body = Sandbox)))]
pub(crate) async fn get_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.get(&caller, &id).await?))
}

/// Change a sandbox's labels, metadata or lifetime.
///
/// What is absent stays as it is.
#[utoipa::path(patch, path = "/v1/sandboxes/{id}", tag = TAG, request_body = UpdateSandbox,
    responses((status = 200, description = "The sandbox as it is now", body = Sandbox)))]
pub(crate) async fn update_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
    Json(update): Json<UpdateSandbox>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.update(&caller, &id, update).await?))
}

/// Delete a sandbox with everything in it.
///
/// Works from every state, and again afterwards.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", tag = TAG, responses((status = 204, description = "It is gone")))]
pub(crate) async fn delete_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<StatusCode> {
    state.control.delete(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Start a stopped sandbox.
///
/// Execs and file calls do so by themselves.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/start", tag = TAG, responses((status = 200, description = "It is running", body = Sandbox)))]
pub(crate) async fn start_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.start(&caller, &id).await?))
}

/// Stop a sandbox: its processes end, its files stay.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/stop", tag = TAG, responses((status = 200, description = "It is stopped", body = Sandbox)))]
pub(crate) async fn stop_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.stop(&caller, &id).await?))
}

/// Freeze every process of a sandbox.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", tag = TAG, responses((status = 200, description = "It is paused", body = Sandbox)))]
pub(crate) async fn pause_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.pause(&caller, &id).await?))
}

/// Thaw a paused sandbox.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", tag = TAG, responses((status = 200, description = "It is running", body = Sandbox)))]
pub(crate) async fn resume_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.resume(&caller, &id).await?))
}

/// Count as activity: the idle time starts again.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/keepalive", tag = TAG, responses((status = 200, description = "Noted", body = Sandbox)))]
pub(crate) async fn keep_sandbox_alive(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.keepalive(&caller, &id).await?))
}

/// Move a sandbox into a heavier tier.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/promote", tag = TAG, request_body = ChangeTier,
    responses((status = 200, description = "It lives there now", body = Sandbox)))]
pub(crate) async fn promote_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
    Json(change): Json<ChangeTier>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.promote(&caller, &id, change.tier).await?))
}

/// Move a sandbox into a lighter tier.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/demote", tag = TAG, request_body = ChangeTier,
    responses((status = 200, description = "It lives there now", body = Sandbox)))]
pub(crate) async fn demote_sandbox(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
    Json(change): Json<ChangeTier>,
) -> Answer<axum::Json<Sandbox>> {
    Ok(axum::Json(state.control.demote(&caller, &id, change.tier).await?))
}
