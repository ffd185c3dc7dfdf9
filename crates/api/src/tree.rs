//! The directory tree inside a sandbox: listing, facts, making, moving.

use crate::{
    extract::{FilePath, Inside, Json, Params},
    files::context,
    problem::Answer,
};
use http::StatusCode;
use isopod_control::DataPlane;
use isopod_model::file::{FileStat, MakeDirectory, MoveFile};
use serde::Serialize;

const TAG: &str = "files";

/// A directory's entries.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Listing {
    /// The entries, sorted by path.
    items: Vec<FileStat>,
}

async fn list(data: DataPlane, path: &str, params: Params) -> Answer<axum::Json<Listing>> {
    let params = params.only(&["user", "recursive"], &[])?;
    let items = data.file_list(path, &context(&params), params.flag("recursive")?).await?;
    Ok(axum::Json(Listing { items }))
}

/// List a directory.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ls/{*path}", tag = TAG,
    params(("user" = Option<String>, Query, description = "`user` (default), `root` or a number"),
        ("recursive" = Option<bool>, Query, description = "Those below too, at most 100,000 in all")),
    responses((status = 200, description = "Its entries", body = Listing)))]
pub(crate) async fn list_directory(
    Inside(data): Inside,
    FilePath(path): FilePath,
    params: Params,
) -> Answer<axum::Json<Listing>> {
    list(data, &path, params).await
}

/// List the root directory.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/ls", tag = TAG,
    params(("user" = Option<String>, Query, description = "`user` (default), `root` or a number"),
        ("recursive" = Option<bool>, Query, description = "Those below too, at most 100,000 in all")),
    responses((status = 200, description = "Its entries", body = Listing)))]
pub(crate) async fn list_root(Inside(data): Inside, params: Params) -> Answer<axum::Json<Listing>> {
    list(data, "/", params).await
}

/// Get a file's facts.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/stat/{*path}", tag = TAG,
    params(("user" = Option<String>, Query, description = "`user` (default), `root` or a number"),
        ("follow" = Option<bool>, Query, description = "Follow a symbolic link at the end")),
    responses((status = 200, description = "Its facts", body = FileStat)))]
pub(crate) async fn stat_file(
    Inside(data): Inside,
    FilePath(path): FilePath,
    params: Params,
) -> Answer<axum::Json<FileStat>> {
    let params = params.only(&["user", "follow"], &[])?;
    Ok(axum::Json(data.file_stat(&path, &context(&params), params.flag("follow")?).await?))
}

/// Make a directory and its parents.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/mkdir", tag = TAG, request_body = MakeDirectory,
    responses((status = 201, description = "Made", body = FileStat), (status = 200, description = "It was there", body = FileStat)))]
pub(crate) async fn make_directory(
    Inside(data): Inside,
    Json(request): Json<MakeDirectory>,
) -> Answer<(StatusCode, axum::Json<FileStat>)> {
    let made = data.file_mkdir(&request).await?;
    let context = isopod_node_api::FileContext { user: request.user };
    let stat = data.file_stat(&request.path, &context, true).await?;
    Ok((if made { StatusCode::CREATED } else { StatusCode::OK }, axum::Json(stat)))
}

/// Move a file or directory.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/move", tag = TAG, request_body = MoveFile,
    responses((status = 204, description = "Moved")))]
pub(crate) async fn move_file(Inside(data): Inside, Json(request): Json<MoveFile>) -> Answer<StatusCode> {
    data.file_move(&request).await?;
    Ok(StatusCode::NO_CONTENT)
}
