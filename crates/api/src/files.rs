//! Files inside a sandbox, as raw bytes streamed both ways.

use crate::{
    extract::{FilePath, Inside, Params},
    file_headers::{Verdict, describe, evaluate, preconditions, range, range_is_current, validators},
    problem::{Answer, Problem},
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use isopod_model::{
    Error,
    file::{FileKind, FileStat},
};
use isopod_node_api::{FileContext, FileRead, FileWrite};

const TAG: &str = "files";

/// On whose behalf `?user=` says.
pub(crate) fn context(params: &Params) -> FileContext {
    FileContext { user: params.text("user").map(str::to_owned) }
}

/// Read a file.
///
/// `Range` gives a part of it, `If-None-Match` and `If-Modified-Since` spare the transfer. Browsers save it and never
/// show it: it comes from inside a sandbox.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/{*path}", tag = TAG,
    params(("user" = Option<String>, Query, description = "`user` (default), `root` or a number")),
    responses((status = 200, description = "Its bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The part asked for", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The client has it already")))]
pub(crate) async fn read_file(
    Inside(data): Inside,
    FilePath(path): FilePath,
    params: Params,
    headers: HeaderMap,
) -> Answer {
    let context = context(&params.only(&["user"], &[])?);
    let mut part = range(&headers);
    // Asked beforehand too: a range that does not fit the new content must not fail when the old one was meant.
    if part.is_some()
        && headers.contains_key(header::IF_RANGE)
        && !range_is_current(&headers, &data.file_stat(&path, &context, true).await?)
    {
        part = None;
    }
    let mut file = data.file_read(&path, &context, part).await?;
    if part.is_some() && !range_is_current(&headers, &file.stat) {
        part = None;
        file = data.file_read(&path, &context, None).await?;
    }
    if evaluate(&headers, &file.stat)? == Verdict::NotModified {
        return Ok(not_modified(&file.stat));
    }
    send(file, part.is_some())
}

fn not_modified(stat: &FileStat) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    validators(response.headers_mut(), stat);
    response
}

fn send(file: FileRead, partial: bool) -> Answer {
    let FileRead { stat, start, length, body } = file;
    let mut response = Response::new(Body::from_stream(body));
    describe(response.headers_mut(), &stat);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if partial {
        let size_bytes = stat.size_bytes;
        let last = (start + length).checked_sub(1).filter(|last| *last >= start);
        let last = last.ok_or(Error::RangeNotSatisfiable { size_bytes })?;
        let range = format!("bytes {start}-{last}/{size_bytes}");
        let range = HeaderValue::try_from(range).map_err(Error::internal)?;
        response.headers_mut().insert(header::CONTENT_RANGE, range);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Get a file's headers.
#[utoipa::path(head, path = "/v1/sandboxes/{id}/files/{*path}", tag = TAG,
    params(("user" = Option<String>, Query, description = "`user` (default), `root` or a number")),
    responses((status = 200, description = "The headers of a GET"), (status = 304, description = "The client has it already")))]
pub(crate) async fn head_file(
    Inside(data): Inside,
    FilePath(path): FilePath,
    params: Params,
    headers: HeaderMap,
) -> Answer {
    let context = context(&params.only(&["user"], &[])?);
    let stat = data.file_stat(&path, &context, true).await?;
    if stat.kind != FileKind::File {
        let reason = "is not a regular file".to_owned();
        return Err(Error::WrongFileKind { path, reason }.into());
    }
    if evaluate(&headers, &stat)? == Verdict::NotModified {
        return Ok(not_modified(&stat));
    }
    let mut response = StatusCode::OK.into_response();
    describe(response.headers_mut(), &stat);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(stat.size_bytes));
    Ok(response)
}

/// Write a file.
///
/// The body's bytes as they are, of any length. Parents are made; the file appears whole or not at all. Overwriting
/// keeps owner and mode. `If-Match` and `If-None-Match: *` guard against overwriting what others wrote.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files/{*path}", tag = TAG,
    params(("user" = Option<String>, Query, description = "Owner: `user` (default), `root` or a number"),
        ("mode" = Option<String>, Query, description = "Permission bits in octal; `0644` for a new file when absent")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, description = "Written, and new; `ETag` names the content", body = FileStat),
        (status = 204, description = "Written in place of what was there; `ETag` names the content")))]
pub(crate) async fn write_file(
    Inside(data): Inside,
    FilePath(path): FilePath,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let params = params.only(&["user", "mode"], &[])?;
    let write = FileWrite {
        context: context(&params),
        mode: params.text("mode").map(parse_mode).transpose()?,
        preconditions: preconditions(&headers)?,
    };
    let body = body.into_data_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed();
    let (new, stat) = data.file_write(&path, write, body).await?;
    let mut response = if new {
        (StatusCode::CREATED, axum::Json(&stat)).into_response()
    } else {
        StatusCode::NO_CONTENT.into_response()
    };
    validators(response.headers_mut(), &stat);
    Ok(response)
}

fn parse_mode(text: &str) -> Answer<u32> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= 0o7777)
        .ok_or_else(|| Problem::invalid("mode", "must be permission bits in octal, such as 0644"))
}

/// Delete a file or directory.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files/{*path}", tag = TAG,
    params(("user" = Option<String>, Query, description = "`user` (default), `root` or a number"),
        ("recursive" = Option<bool>, Query, description = "Delete a directory with all below it")),
    responses((status = 204, description = "Deleted")))]
pub(crate) async fn delete_file(
    Inside(data): Inside,
    FilePath(path): FilePath,
    params: Params,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let params = params.only(&["user", "recursive"], &[])?;
    let conditions = preconditions(&headers)?;
    data.file_delete(&path, &context(&params), params.flag("recursive")?, &conditions).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::parse_mode;

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [("0644", 0o644), ("755", 0o755), ("07777", 0o7777), ("0", 0)] {
            assert_eq!(parse_mode(text), Ok(mode));
        }
        for bad in ["", "rw-", "0o644", "888", "17777", "+644", "-1", "000644"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }
}
