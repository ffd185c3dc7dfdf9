//! What is told about a file.

use super::{GuestRoot, UIDS_PER_SANDBOX};
use isopod_model::{
    Error, Result, Timestamp,
    file::{FileKind, FileStat},
};
use isopod_node_api::Preconditions;
use rustix::fs::{FileType, Stat};

/// The id shown for owners that are not of this sandbox.
const NOBODY: u32 = 65534;

impl GuestRoot {
    /// The facts of a file at `path` inside; `target` for a symbolic link.
    pub(super) fn facts(&self, path: String, stat: &Stat, target: Option<String>) -> FileStat {
        let kind = kind(stat);
        let name = path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/").to_owned();
        FileStat {
            name,
            path,
            kind,
            size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
            mode: format!("{:04o}", stat.st_mode & 0o7777),
            uid: self.inside(stat.st_uid),
            gid: self.inside(stat.st_gid),
            modified_at: moment(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            target,
            etag: (kind == FileKind::File).then(|| etag(stat)),
        }
    }

    fn inside(&self, id: u32) -> u32 {
        id.checked_sub(self.uid_base).filter(|id| *id < UIDS_PER_SANDBOX).unwrap_or(NOBODY)
    }
}

fn kind(stat: &Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

/// The guest sets its files' times as it likes: what no calendar has becomes the nearest that it has.
fn moment(seconds: i64, nanoseconds: i64) -> Timestamp {
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or(0);
    Timestamp::new(seconds, nanoseconds).unwrap_or(if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// A strong ETag: every write through the platform makes a new inode, every write by the guest moves its times.
pub(super) fn etag(stat: &Stat) -> String {
    let time = |seconds: i64, nanoseconds| format!("{seconds:x}.{nanoseconds:x}");
    format!(
        "\"{:x}-{}-{}-{:x}\"",
        stat.st_ino,
        time(stat.st_mtime, stat.st_mtime_nsec),
        time(stat.st_ctime, stat.st_ctime_nsec),
        stat.st_size
    )
}

/// Checks `If-Match` and `If-None-Match` against what is at `path`, if anything is.
pub(super) fn check(conditions: &Preconditions, path: &str, present: Option<&Stat>) -> Result<()> {
    let tag = present.map(etag);
    let strongly = |asked: &String| asked == "*" && tag.is_some() || Some(asked) == tag.as_ref();
    let weakly = |asked: &String| {
        asked == "*" && tag.is_some() || tag.as_deref() == Some(asked.strip_prefix("W/").unwrap_or(asked))
    };
    let matched = conditions.if_match.as_ref().is_none_or(|asked| asked.iter().any(strongly));
    let excluded = conditions.if_none_match.as_ref().is_some_and(|asked| asked.iter().any(weakly));
    if matched && !excluded {
        return Ok(());
    }
    Err(Error::PreconditionFailed { path: path.to_owned(), etag: tag.unwrap_or_else(|| "none".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_follow_the_standard() {
        let stat = rustix::fs::stat("/").unwrap();
        let tag = etag(&stat);
        let holds = |if_match: Option<&str>, if_none_match: Option<&str>, present: bool| {
            let list = |tag: Option<&str>| tag.map(|tag| vec!["\"other\"".to_owned(), tag.to_owned()]);
            let conditions = Preconditions { if_match: list(if_match), if_none_match: list(if_none_match) };
            check(&conditions, "/", present.then_some(&stat)).is_ok()
        };
        let weak = format!("W/{tag}");
        assert!(holds(None, None, true) && holds(None, None, false));
        assert!(holds(Some("*"), None, true) && !holds(Some("*"), None, false));
        assert!(
            holds(Some(&tag), None, true)
                && !holds(Some(&weak), None, true)
                && !holds(Some(&tag), None, false)
        );
        assert!(!holds(None, Some("*"), true) && holds(None, Some("*"), false));
        assert!(
            !holds(None, Some(&tag), true)
                && !holds(None, Some(&weak), true)
                && holds(None, Some("\"x\""), true)
        );
    }

    #[test]
    fn times_that_no_calendar_has_are_bent() {
        assert_eq!(moment(0, 5).to_string(), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(moment(i64::MAX, 0), Timestamp::MAX);
        assert_eq!(moment(i64::MIN, 0), Timestamp::MIN);
        assert_eq!(moment(0, i64::MAX), Timestamp::UNIX_EPOCH);
    }
}
