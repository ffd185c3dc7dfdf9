//! The two ends of `isopod cp`: which is here, which is in a sandbox.

use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};

/// Where relative paths in a sandbox begin.
const REMOTE_BASE: &str = "/workspace";

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// Standard input or output.
    Stream,
    /// A path here.
    Local(PathBuf),
    /// A path in a sandbox.
    Remote(Remote),
}

/// A path in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Id or name of the sandbox.
    pub(super) sandbox: String,
    /// Absolute, without `.` and doubled slashes, and without one at its end.
    pub(super) path: String,
    /// Whether it was written with a slash at its end: it must be a directory.
    pub(super) is_directory: bool,
}

/// Reads one end: `-`, `SANDBOX:PATH`, or a path here. What begins with `.` or `/` is here, whatever follows, as is
/// what has a `/` before its first `:`.
///
/// # Errors
/// Paths in a sandbox that climb with `..`: what they mean depends on links inside.
pub(super) fn parse(text: &str) -> Outcome<End> {
    if text == "-" {
        return Ok(End::Stream);
    }
    let remote = text
        .split_once(':')
        .filter(|(sandbox, _)| !sandbox.is_empty() && !sandbox.starts_with('.') && !sandbox.contains('/'));
    let Some((sandbox, path)) = remote else { return Ok(End::Local(text.into())) };
    let parts = if path.starts_with('/') { vec![path] } else { vec![REMOTE_BASE, path] };
    let mut whole = String::new();
    for part in parts.iter().flat_map(|part| part.split('/')).filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            return Err(Failure::Usage(format!("{text}: write the path in the sandbox without `..`")));
        }
        whole.push('/');
        whole.push_str(part);
    }
    if whole.is_empty() {
        whole.push('/');
    }
    let is_directory = path.is_empty() || path.ends_with('/') || path.ends_with("/.") || path == ".";
    Ok(End::Remote(Remote { sandbox: sandbox.to_owned(), path: whole, is_directory }))
}

impl Remote {
    /// The path of `name` below this one.
    pub(super) fn join(&self, name: &str) -> String {
        format!("{}/{name}", self.path.trim_end_matches('/'))
    }

    /// The last part of the path, unless it is the root.
    pub(super) fn name(&self) -> Option<&str> {
        self.path.rsplit('/').next().filter(|name| !name.is_empty())
    }
}

/// Where an entry of a listing goes below `target`. The listing comes from inside a sandbox: whatever would lead
/// elsewhere is refused.
pub(super) fn landing(target: &Path, root: &str, entry: &str) -> Option<PathBuf> {
    let below = entry.strip_prefix(root.trim_end_matches('/'))?.strip_prefix('/')?;
    let mut path = target.to_owned();
    for part in below.split('/') {
        if matches!(part, "" | "." | "..") || part.contains('\0') {
            return None;
        }
        path.push(part);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(sandbox: &str, path: &str, is_directory: bool) -> End {
        End::Remote(Remote { sandbox: sandbox.into(), path: path.into(), is_directory })
    }

    #[test]
    fn ends_are_told_apart() {
        for (text, end) in [
            ("-", End::Stream),
            ("file", End::Local("file".into())),
            ("./a:b", End::Local("./a:b".into())),
            ("/a:b", End::Local("/a:b".into())),
            ("a/b:c", End::Local("a/b:c".into())),
            (":x", End::Local(":x".into())),
            ("sb:/tmp/x", remote("sb", "/tmp/x", false)),
            ("sb:/tmp/x/", remote("sb", "/tmp/x", true)),
            ("sb:x", remote("sb", "/workspace/x", false)),
            ("sb:", remote("sb", "/workspace", true)),
            ("sb:.", remote("sb", "/workspace", true)),
            ("sb:/", remote("sb", "/", true)),
            ("sb://a//./b:c", remote("sb", "/a/b:c", false)),
            ("my.sb:-", remote("my.sb", "/workspace/-", false)),
        ] {
            assert_eq!(parse(text).expect("valid"), end, "{text}");
        }
        assert!(parse("sb:/a/../b").is_err() && parse("sb:..").is_err());
    }

    #[test]
    fn listings_cannot_lead_elsewhere() {
        let target = Path::new("/home/me/out");
        assert_eq!(landing(target, "/work", "/work/a/b"), Some("/home/me/out/a/b".into()));
        assert_eq!(landing(target, "/", "/a"), Some("/home/me/out/a".into()));
        for hostile in [
            "/work/../../etc/passwd",
            "/work",
            "/work/",
            "/work//etc",
            "/work2/a",
            "/etc/passwd",
            "a",
            "/work/./a",
        ] {
            assert_eq!(landing(target, "/work", hostile), None, "{hostile}");
        }
    }
}
