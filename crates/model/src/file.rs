//! Files inside a sandbox, as the file API shows them.

use crate::Timestamp;
use serde::{Deserialize, Serialize};

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, socket or device: listed, never opened.
    Other,
}

/// One file's facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileStat {
    /// Its name, the last part of its path (lossy UTF-8).
    pub name: String,
    /// Its absolute path inside the sandbox, as asked for (lossy UTF-8).
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Permission bits in octal, such as `0644`.
    pub mode: String,
    /// Owner inside the sandbox.
    pub uid: u32,
    /// Group inside the sandbox.
    pub gid: u32,
    /// Last change of its content.
    #[schema(value_type = String, format = DateTime)]
    pub modified_at: Timestamp,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Changes whenever the content does: strong, quoted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// The body of `POST …/mkdir`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeDirectory {
    /// The directory to make, its parents too; it may exist already.
    pub path: String,
    /// Owner: `user` (default), `root` or a number.
    pub user: Option<String>,
    /// Permission bits in octal; `0755` when absent.
    pub mode: Option<String>,
}

/// The body of `POST …/move`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveFile {
    /// What to move.
    pub from: String,
    /// Its new path.
    pub to: String,
    /// Replace what is at `to`; false when absent.
    #[serde(default)]
    pub overwrite: bool,
    /// On whose behalf: `user` (default), `root` or a number.
    pub user: Option<String>,
}
