//! The sandboxes' directories on a volume, each with its limit.

use super::ioctl;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::{BTreeSet, VecDeque},
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Mutex,
};

/// The subvolumes of a mounted volume. All calls may come from several threads at once; none waits for the disk.
#[derive(Debug)]
pub struct Subvolumes {
    root: OwnedFd,
    pub(super) quota_groups: PathBuf,
    /// Quota groups of deleted subvolumes whose space was still being given back when they were last looked at.
    /// Kernels from 6.12 on remove them by themselves.
    leftover: Mutex<VecDeque<u64>>,
}

/// How many of those each deletion looks at: more than it adds, and not all, or a burst of deletions would cost the
/// square of its length.
const LEFTOVER_PER_DELETION: usize = 4;

impl Subvolumes {
    /// The subvolumes below `root`, the descriptor of [`super::mount()`] or of any directory of the volume's root.
    ///
    /// # Errors
    /// When `root` is not on btrfs or quotas are off.
    pub fn new(root: OwnedFd) -> io::Result<Self> {
        let root = open_directory(&root, ".")?;
        let uuid = u128::from_be_bytes(ioctl::file_system_uuid(&root)?);
        let hex = format!("{uuid:032x}");
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let quota_groups = PathBuf::from(format!("/sys/fs/btrfs/{uuid}/qgroups"));
        let this = Self { root, quota_groups, leftover: Mutex::default() };
        this.find_leftover()?;
        this.remove_leftover(usize::MAX);
        Ok(this)
    }

    /// The root directory of the volume.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Makes an empty subvolume that may hold `limit_bytes` of data and metadata, and opens its directory. It
    /// belongs to uid 0 and has the mode 0755 less the umask.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name; `InvalidInput` when the name holds anything but lowercase
    /// letters, digits and hyphens.
    pub fn create(&self, name: &str, limit_bytes: u64) -> io::Result<OwnedFd> {
        ioctl::subvolume_create(&self.root, checked(name)?, limit_bytes)?;
        self.open(name)
    }

    /// Opens the directory of a subvolume.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn open(&self, name: &str) -> io::Result<OwnedFd> {
        open_directory(&self.root, checked(name)?)
    }

    /// Changes what a subvolume may hold, in bytes. What is there stays, also above the limit.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn set_limit(&self, name: &str, limit_bytes: u64) -> io::Result<()> {
        ioctl::set_limit(self.open(name)?, limit_bytes)
    }

    /// What a subvolume holds now, in bytes, metadata and data not yet on disk included.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn usage(&self, name: &str) -> io::Result<u64> {
        let id = ioctl::subvolume_id(self.open(name)?)?;
        let group = self.quota_groups.join(format!("0_{id}"));
        let figure = |file: &str| -> io::Result<u64> {
            fs::read_to_string(group.join(file))?.trim().parse().map_err(io::Error::other)
        };
        Ok(figure("referenced")?.saturating_add(figure("rsv_data")?))
    }

    /// Deletes a subvolume with all that is in it, in a time that does not depend on how much that is; the space
    /// comes back in the background. Files that are open stay readable until they are closed.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        let id = ioctl::subvolume_id(self.open(name)?)?;
        ioctl::subvolume_destroy(&self.root, name)?;
        self.leftover.lock().expect("nothing panics under this lock").push_back(id);
        self.remove_leftover(LEFTOVER_PER_DELETION);
        Ok(())
    }

    /// The names of all subvolumes, sorted.
    ///
    /// # Errors
    /// Only when the disk fails.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.root)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            // The number in the directory entry is the subvolume's id; the inode of its root is always the same.
            if checked(name).is_ok()
                && let Ok(facts) = rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW)
                && facts.st_ino == ioctl::SUBVOLUME_ROOT_INODE
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn find_leftover(&self) -> io::Result<()> {
        let mut groups = BTreeSet::new();
        for entry in fs::read_dir(&self.quota_groups)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix("0_")?.parse::<u64>().ok());
            // Below are the trees of the file system itself.
            groups.extend(id.filter(|id| *id >= ioctl::SUBVOLUME_ROOT_INODE));
        }
        for name in self.list()? {
            groups.remove(&ioctl::subvolume_id(self.open(&name)?)?);
        }
        *self.leftover.lock().expect("nothing panics under this lock") = groups.into_iter().collect();
        Ok(())
    }

    /// Tries to remove leftover groups, those first that were tried longest ago, and `most` of them at most.
    pub(super) fn remove_leftover(&self, most: usize) {
        let mut leftover = self.leftover.lock().expect("nothing panics under this lock");
        for _ in 0..most.min(leftover.len()) {
            let Some(id) = leftover.pop_front() else { return };
            let refused = ioctl::group_remove(&self.root, id).err().and_then(|error| error.raw_os_error());
            if refused.is_some_and(|error| error != libc::ENOENT) {
                leftover.push_back(id);
            }
        }
    }
}

fn checked(name: &str) -> io::Result<&str> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 255 || !name.bytes().all(good) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no name for a subvolume"),
        ));
    }
    Ok(name)
}

fn open_directory(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error: Errno| error.into())
}
