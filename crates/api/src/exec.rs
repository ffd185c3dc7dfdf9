//! Running a command: buffered, streamed or in the background.

use crate::{
    ApiState, exec_stream,
    extract::{Inside, Json, header_text, wants_events},
    problem::{Answer, Problem},
    telemetry::RequestId,
};
use axum::{Extension, extract::State, response::IntoResponse};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use isopod_model::exec::{Exec, ExecRequest, ExecResult};

const TAG: &str = "execs";
/// How many characters an `Idempotency-Key` may have.
const KEY_LIMIT: usize = 255;

/// Run a command.
///
/// The answer comes when its first process has ended, whatever the exit code: with the first 4 MiB of each stream
/// as JSON, or with `Accept: text/event-stream` as it happens (`stdout` and `stderr` events with `offset`, `data`
/// and, for what is not UTF-8, `encoding: base64`; `skipped` for output that is not kept; then one `exit` with the
/// record; `Content-Location` has the exec's path from the start). With `background` it is answered at once.
/// Clients that go away leave the command running. A stopped sandbox is started first.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/exec", tag = TAG, request_body = ExecRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key with the same body starts one exec only, and answers with it again; at most 255 characters")),
    responses((status = 200, description = "It has ended, or its output as it happens",
            content((ExecResult = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "It runs in the background; `Location` has its path", body = Exec)))]
pub(crate) async fn run_exec(
    State(state): State<ApiState>,
    Inside(data): Inside,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    Json(request): Json<ExecRequest>,
) -> Answer {
    let key = idempotency_key(&headers)?;
    let background = request.background;
    let exec = data.exec(request, key).await?;
    if background {
        let location = [(header::LOCATION, path(&exec)?)];
        return Ok((StatusCode::ACCEPTED, location, axum::Json(exec)).into_response());
    }
    if wants_events(&headers) {
        let events = data.exec_follow(&exec.id, 0, 0).await?;
        let location = [(header::CONTENT_LOCATION, path(&exec)?)];
        let stream = exec_stream::respond(events, state.settings.keep_alive, request_id);
        return Ok((location, stream).into_response());
    }
    Ok(axum::Json(data.exec_result(&exec.id).await?).into_response())
}

/// The `Idempotency-Key` of a request.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Answer<Option<String>> {
    const NAME: HeaderName = HeaderName::from_static("idempotency-key");
    match header_text(headers, NAME.as_str())? {
        Some(key) if key.is_empty() || key.len() > KEY_LIMIT => {
            Err(Problem::invalid("Idempotency-Key", format!("must be 1 to {KEY_LIMIT} characters long")))
        }
        key => Ok(key.map(str::to_owned)),
    }
}

fn path(exec: &Exec) -> Answer<HeaderValue> {
    HeaderValue::try_from(format!("/v1/sandboxes/{}/execs/{}", exec.sandbox_id, exec.id))
        .map_err(|error| isopod_model::Error::internal(error).into())
}
