//! Execs that exist: their records, their output, their input.

use crate::{
    ApiState, exec_stream,
    extract::{self, ExecPath, Inside, Json, Params, wants_events},
    output::split_character,
    problem::{Answer, Problem},
    telemetry::RequestId,
};
use axum::{
    Extension,
    extract::{FromRequest, Request, State},
    response::IntoResponse,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use isopod_model::{
    exec::{Exec, ExecState},
    page::Page,
};
use isopod_node_api::WaitFor;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const TAG: &str = "execs";
/// How long a wait without `timeout_ms` lasts, and the longest that may be asked for: a day.
const LONGEST_WAIT_MS: u64 = 24 * 3600 * 1000;

/// List execs, newest first.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/execs", tag = TAG,
    params(("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Size of the page; 100 when absent")),
    responses((status = 200, description = "One page", body = Page<Exec>)))]
pub(crate) async fn list_execs(Inside(data): Inside, params: Params) -> Answer<axum::Json<Page<Exec>>> {
    let params = params.only(&["cursor", "limit"], &[])?;
    let limit = params.limit()?;
    let before = params
        .text("cursor")
        .map(|text| text.parse().map_err(|_| Problem::invalid("cursor", "is not one that a page gave")))
        .transpose()?;
    let mut items = data.exec_list(before, limit + 1).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next_cursor = items.last().filter(|_| more).map(|exec| exec.id.to_string());
    Ok(axum::Json(Page { items, next_cursor }))
}

/// Get an exec's record.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/execs/{eid}", tag = TAG,
    responses((status = 200, description = "The record, without output", body = Exec)))]
pub(crate) async fn get_exec(Inside(data): Inside, ExecPath(exec): ExecPath) -> Answer<axum::Json<Exec>> {
    Ok(axum::Json(data.exec_get(&exec).await?))
}

/// How much of the output is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// All of it.
    Utf8,
    /// Not all: U+FFFD stands for what is not. The event stream gives the bytes.
    Lossy,
}

/// A part of an exec's output.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ExecOutput {
    /// Standard output from `stdout_start` on, never ending within a character; at most 4 MiB.
    stdout: String,
    /// Standard error likewise.
    stderr: String,
    /// Offset of the first byte of `stdout`; later than asked for when bytes between are not kept any more.
    stdout_start: u64,
    /// Offset of the first byte of `stderr`.
    stderr_start: u64,
    /// The `stdout_offset` to go on from.
    stdout_offset: u64,
    /// The `stderr_offset` to go on from.
    stderr_offset: u64,
    /// Whether `stdout` is text.
    stdout_encoding: Encoding,
    /// Whether `stderr` is text.
    stderr_encoding: Encoding,
    /// Whether more may come.
    state: ExecState,
}

/// Read an exec's output from any offset.
///
/// JSON gives what is there now. With `follow=true` or `Accept: text/event-stream` it is an event stream as of
/// `POST …/exec`: what is there, what comes, and the `exit`.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/execs/{eid}/output", tag = TAG,
    params(("stdout_offset" = Option<u64>, Query, description = "First byte of standard output; 0 when absent"),
        ("stderr_offset" = Option<u64>, Query, description = "First byte of standard error; 0 when absent"),
        ("follow" = Option<bool>, Query, description = "Stream until the end")),
    responses((status = 200, description = "Output",
        content((ExecOutput = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn read_exec_output(
    State(state): State<ApiState>,
    Inside(data): Inside,
    ExecPath(exec): ExecPath,
    params: Params,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
) -> Answer {
    let params = params.only(&["stdout_offset", "stderr_offset", "follow"], &[])?;
    let stdout = params.number("stdout_offset")?.unwrap_or(0);
    let stderr = params.number("stderr_offset")?.unwrap_or(0);
    if params.flag("follow")? || wants_events(&headers) {
        let events = data.exec_follow(&exec, stdout, stderr).await?;
        return Ok(exec_stream::respond(events, state.settings.keep_alive, request_id));
    }
    let slice = data.exec_output(&exec, stdout, stderr).await?;
    let ended = slice.exec.state == ExecState::Ended;
    let out = Part::new(&slice.stdout, slice.stdout_start, ended.then_some(slice.exec.stdout_bytes));
    let err = Part::new(&slice.stderr, slice.stderr_start, ended.then_some(slice.exec.stderr_bytes));
    Ok(axum::Json(ExecOutput {
        stdout: out.text,
        stderr: err.text,
        stdout_start: slice.stdout_start,
        stderr_start: slice.stderr_start,
        stdout_offset: out.next,
        stderr_offset: err.next,
        stdout_encoding: out.encoding,
        stderr_encoding: err.encoding,
        state: slice.exec.state,
    })
    .into_response())
}

struct Part {
    text: String,
    next: u64,
    encoding: Encoding,
}

impl Part {
    /// The text of some bytes; the beginning of a character is left for the next call unless the stream is known
    /// to end with it.
    fn new(bytes: &[u8], start: u64, end: Option<u64>) -> Self {
        let complete = end.is_some_and(|end| start + bytes.len() as u64 >= end);
        let whole = if complete { bytes.len() } else { bytes.len() - split_character(bytes) };
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let encoding = match text {
            std::borrow::Cow::Borrowed(_) => Encoding::Utf8,
            std::borrow::Cow::Owned(_) => Encoding::Lossy,
        };
        Self { text: text.into_owned(), next: start + whole as u64, encoding }
    }
}

/// Input as JSON.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StdinRequest {
    /// Text, or base64.
    #[serde(default)]
    pub(crate) data: String,
    /// `base64` when `data` is that.
    pub(crate) encoding: Option<StdinEncoding>,
    /// End the input afterwards.
    #[serde(default)]
    pub(crate) close: bool,
}

/// The form of input in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StdinEncoding {
    /// Text.
    Utf8,
    /// Base64 with padding.
    Base64,
}

/// The bytes that a client's JSON means.
pub(crate) fn decode_input(data: String, encoding: Option<StdinEncoding>) -> Answer<Bytes> {
    match encoding {
        Some(StdinEncoding::Base64) => STANDARD
            .decode(data)
            .map(Bytes::from)
            .map_err(|error| Problem::invalid("data", format!("is not base64: {error}"))),
        None | Some(StdinEncoding::Utf8) => Ok(data.into()),
    }
}

/// Write to an exec's standard input.
///
/// The body's bytes as they are, of any length; or JSON when the content type says so. The exec must have been
/// started with `stdin_open`. Answered when the program has room for all of it.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/execs/{eid}/stdin", tag = TAG,
    params(("close" = Option<bool>, Query, description = "End the input afterwards")),
    request_body(content((Vec<u8> = "application/octet-stream"), (StdinRequest = "application/json"))),
    responses((status = 204, description = "Written")))]
pub(crate) async fn write_exec_stdin(
    State(state): State<ApiState>,
    Inside(data): Inside,
    ExecPath(exec): ExecPath,
    params: Params,
    request: Request,
) -> Answer<StatusCode> {
    let close = params.only(&["close"], &[])?.flag("close")?;
    if extract::is_json(request.headers()) {
        let Json(input) = Json::<StdinRequest>::from_request(request, &state).await?;
        let bytes = decode_input(input.data, input.encoding)?;
        data.exec_stdin(&exec, bytes, close || input.close).await?;
        return Ok(StatusCode::NO_CONTENT);
    }
    let mut body = request.into_body().into_data_stream();
    let mut empty = true;
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|_| Problem::malformed("the body ended too early"))?;
        empty = false;
        data.exec_stdin(&exec, piece, false).await?;
    }
    if close || empty {
        data.exec_stdin(&exec, Bytes::new(), close).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A signal by name (`SIGTERM`, `TERM`) or number.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Signal {
    /// Its number, 1 to 64.
    Number(i32),
    /// Its name.
    Name(String),
}

impl Signal {
    /// Its number on Linux.
    pub(crate) fn number(&self) -> Answer<i32> {
        const NAMES: [&str; 31] = [
            "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
            "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
            "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
        ];
        let number = match self {
            Self::Number(number) => Some(*number).filter(|number| (1..=64).contains(number)),
            Self::Name(name) => {
                let short = name.strip_prefix("SIG").unwrap_or(name);
                NAMES.iter().zip(1..).find(|(known, _)| **known == short).map(|(_, number)| number)
            }
        };
        number.ok_or_else(|| {
            Problem::invalid("signal", "must be a name such as SIGTERM or a number from 1 to 64")
        })
    }
}

/// The body of `POST …/signal`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"signal": "SIGTERM"}))]
pub(crate) struct SignalRequest {
    /// The signal.
    signal: Signal,
    /// Send it to every descendant too, not to the first process only; true when absent.
    #[serde(default = "yes")]
    #[schema(default = true)]
    tree: bool,
}

fn yes() -> bool {
    true
}

/// Send a signal to an exec.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/execs/{eid}/signal", tag = TAG, request_body = SignalRequest,
    responses((status = 204, description = "Sent")))]
pub(crate) async fn signal_exec(
    Inside(data): Inside,
    ExecPath(exec): ExecPath,
    Json(request): Json<SignalRequest>,
) -> Answer<StatusCode> {
    data.exec_signal(&exec, request.signal.number()?, request.tree).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitKind {
    /// The end of the exec.
    Exit,
    /// A listener on `port`.
    Port,
    /// `text` in the output.
    Log,
}

/// The body of `POST …/wait`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"for": "exit", "timeout_ms": 5000}))]
pub(crate) struct WaitRequest {
    /// What to wait for.
    #[serde(rename = "for")]
    what: WaitKind,
    /// The TCP port, with `for: port`.
    port: Option<u16>,
    /// The text, with `for: log`; 1 to 4096 bytes.
    text: Option<String>,
    /// Milliseconds to wait at most, up to a day, which is also what counts when absent.
    timeout_ms: Option<u64>,
}

impl WaitRequest {
    fn read(self) -> Answer<(WaitFor, Duration)> {
        let wait = match (self.what, self.port, self.text) {
            (WaitKind::Exit, None, None) => WaitFor::Exit,
            (WaitKind::Port, Some(port), None) if port > 0 => WaitFor::Port(port),
            (WaitKind::Log, None, Some(text)) if (1..=4096).contains(&text.len()) => WaitFor::Log(text),
            (WaitKind::Port, _, None) => return Err(Problem::invalid("port", "must be from 1 to 65535")),
            (WaitKind::Log, None, _) => {
                return Err(Problem::invalid("text", "must be 1 to 4096 bytes long"));
            }
            (_, Some(_), _) => return Err(Problem::invalid("port", "goes with for: port only")),
            (_, _, Some(_)) => return Err(Problem::invalid("text", "goes with for: log only")),
        };
        let timeout = self.timeout_ms.unwrap_or(LONGEST_WAIT_MS);
        if timeout > LONGEST_WAIT_MS {
            return Err(Problem::invalid("timeout_ms", format!("must be at most {LONGEST_WAIT_MS}")));
        }
        Ok((wait, Duration::from_millis(timeout)))
    }
}

/// Wait for an exec's end, a port or a text in its output.
///
/// Answered with the record as soon as it happened; 504 `wait_timeout` when it did not in time.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/execs/{eid}/wait", tag = TAG, request_body = WaitRequest,
    responses((status = 200, description = "It happened", body = Exec)))]
pub(crate) async fn wait_for_exec(
    Inside(data): Inside,
    ExecPath(exec): ExecPath,
    Json(request): Json<WaitRequest>,
) -> Answer<axum::Json<Exec>> {
    let (wait, timeout) = request.read()?;
    Ok(axum::Json(data.exec_wait(&exec, wait, timeout).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_between_characters_until_the_end() {
        let part = Part::new(b"a\xe2\x82", 10, None);
        assert_eq!((part.text.as_str(), part.next, part.encoding), ("a", 11, Encoding::Utf8));
        let part = Part::new(b"a\xe2\x82", 10, Some(13));
        assert_eq!((part.text.as_str(), part.next, part.encoding), ("a\u{fffd}", 13, Encoding::Lossy));
        let part = Part::new(b"a\xe2\x82", 10, Some(14));
        assert_eq!((part.text.as_str(), part.next), ("a", 11));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (signal, number) in
            [("SIGHUP", 1), ("KILL", 9), ("SIGTERM", 15), ("SIGSYS", 31), ("SIGWINCH", 28)]
        {
            assert_eq!(Signal::Name(signal.into()).number(), Ok(number));
        }
        for bad in [Signal::Name("SIGNOPE".into()), Signal::Number(0), Signal::Number(65)] {
            assert!(bad.number().is_err(), "{bad:?}");
        }
    }
}
