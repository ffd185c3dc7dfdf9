//! The directory of one `isopod run`: made fresh, removed at the end. What a killed run left is removed by the next.

use crate::{
    failure::{Failure, Outcome},
    output,
    settings::process_environment,
};
use isopod_model::Entropy;
use std::{
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where it is made unless `TMPDIR` says otherwise: on a disk, since sandboxes may write much.
const DEFAULT_PARENT: &str = "/var/tmp";

/// How all such directories' names begin; 16 hexadecimal digits follow.
const PREFIX: &str = "isopod-run-";
/// The locks that a node and its launcher hold while they live.
const LOCKS: [&str; 2] = ["server.lock", "launcher.lock"];
/// A lock this old that nobody holds is not one that is just being taken.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// A directory that is removed when this is dropped, unless something is still mounted below it.
#[derive(Debug)]
pub(crate) struct ScratchDir {
    path: PathBuf,
}

impl ScratchDir {
    /// Makes the directory, for this user alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(entropy: &dyn Entropy) -> Outcome<Self> {
        let parent = process_environment("TMPDIR").unwrap_or_else(|| DEFAULT_PARENT.to_owned());
        remove_abandoned(Path::new(&parent));
        let path = Path::new(&parent).join(format!("{PREFIX}{:016x}", entropy.bits()));
        // Not recursive: a directory that is there already is somebody else's.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; says so on standard error when something stays behind.
    pub(crate) fn remove(self) {
        drop(self);
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if let Err(reason) = remove(&self.path) {
            output::note(format_args!("{} stays behind: {reason}", self.path.display()));
        }
    }
}

/// Removes what runs left that were killed.
fn remove_abandoned(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours =
            entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|digits| {
                digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_abandoned(&entry.path()) {
            // What cannot be removed now is tried again by the next run.
            let _ = remove(&entry.path());
        }
    }
}

/// Whether a node once had this directory and neither it nor its launcher lives.
fn is_abandoned(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own =
        std::fs::symlink_metadata(path).is_ok_and(|facts| facts.uid() == rustix::process::geteuid().as_raw());
    own && LOCKS.iter().all(|name| {
        std::fs::File::open(path.join(name)).is_ok_and(|lock| {
            let age =
                lock.metadata().and_then(|facts| facts.modified()).ok().and_then(|time| time.elapsed().ok());
            age.is_some_and(|age| age > ABANDONED_AFTER) && lock.try_lock().is_ok()
        })
    })
}

fn remove(path: &Path) -> Result<(), String> {
    let mounts = std::fs::read("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    // Removing through a mount could reach files that are not ours.
    if let Some(mounted) = mounted_below(&mounts, path) {
        return Err(format!("{} is still mounted", mounted.display()));
    }
    std::fs::remove_dir_all(path).map_err(|error| error.to_string())
}

/// A mount point at or below `path`, of those that `/proc/self/mountinfo` lists.
fn mounted_below(mountinfo: &[u8], path: &Path) -> Option<PathBuf> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|escaped| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(escaped))))
        .find(|mounted| mounted.starts_with(path))
}

/// Undoes the octal escapes of blanks in `/proc/self/mountinfo`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                plain.push(u8::try_from(value & 0xff).expect("masked to a byte"));
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_are_found() {
        let table = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
                      30 22 0:40 / /var/tmp/a\\040b/volume rw - btrfs /dev/loop0 rw\n";
        assert_eq!(mounted_below(table, Path::new("/var/tmp/a b")), Some("/var/tmp/a b/volume".into()));
        assert_eq!(mounted_below(table, Path::new("/var/tmp/a")), None);
    }

    #[test]
    fn nothing_stays_behind() {
        let directory =
            ScratchDir::create(&crate::system::SystemEntropy::open().expect("there")).expect("made");
        let path = directory.path().to_owned();
        std::fs::write(path.join("file"), "x").expect("written");
        directory.remove();
        assert!(!path.exists());
    }
}
