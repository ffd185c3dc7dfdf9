//! From a path to an open file without ever leaving the sandbox.
//!
//! The guest swaps links and directories while we look, so nothing is decided by looking at a path: the kernel resolves
//! it beneath the root (`RESOLVE_IN_ROOT`) into a descriptor that can do nothing yet (`O_PATH`), and all checks are on
//! that descriptor. Only a file known to be regular is then opened through it; nothing of the guest's that could
//! block, or that acts when it is opened, ever is.

use super::{
    GuestRoot,
    failure::{NOT_REGULAR, explain},
    path::GuestPath,
};
use isopod_model::{Error, Result};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags},
    io::Errno,
};
use std::{
    ffi::CStr,
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
};

/// How often a resolution is tried again while directories are being renamed, here or anywhere on the host.
const ATTEMPTS: u32 = 200;
const OVERLAY_MAGIC: i64 = 0x794c_7630;

/// A file as it was found: a descriptor that can do nothing yet, and its facts.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl Found {
    /// What it is.
    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens it for reading, when it is a regular file.
    pub(super) fn open_regular(&self, root: &GuestRoot, path: &str) -> Result<File> {
        self.check_regular(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(self.by_descriptor(), flags, Mode::empty());
        opened.map(File::from).map_err(|errno| explain(errno, path, root.disk_mib))
    }

    /// Refuses what is not a regular file.
    pub(super) fn check_regular(&self, path: &str) -> Result<()> {
        let reason = match self.kind() {
            FileType::RegularFile => return Ok(()),
            FileType::Directory => "is a directory",
            FileType::Symlink => "is a symbolic link",
            _ => NOT_REGULAR,
        };
        Err(Error::WrongFileKind { path: path.to_owned(), reason: reason.to_owned() })
    }

    /// A path that means this very file, whatever happens to its name.
    pub(super) fn by_descriptor(&self) -> String {
        by_descriptor(&self.fd)
    }
}

/// A path that means the file of this descriptor, whatever happens to its name.
pub(super) fn by_descriptor(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

impl GuestRoot {
    /// Finds what a path names; a symbolic link at its end only when not `follow`.
    pub(super) fn find(&self, path: &GuestPath, follow: bool) -> Result<Found> {
        let flags = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let explained = |errno| explain(errno, &path.shown(), self.disk_mib);
        let fd = self.resolve(path, flags).map_err(explained)?;
        self.own(fd).map_err(explained)
    }

    /// Finds a directory, through symbolic links too.
    pub(super) fn find_directory(&self, path: &GuestPath) -> Result<OwnedFd> {
        self.directory(path).map_err(|errno| explain(errno, &path.shown(), self.disk_mib))
    }

    /// Finds a directory, and makes it and its parents (0755) where they are missing.
    pub(super) fn find_or_make_directory(&self, path: &GuestPath) -> Result<OwnedFd> {
        let make = |parent: &OwnedFd, name: &str| match rustix::fs::mkdirat(parent, name, Mode::from(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            answer => answer,
        };
        self.walk(path, make).map_err(|errno| explain(errno, &path.shown(), self.disk_mib))
    }

    /// Finds a directory or, where there is none, the nearest of its parents that exists, and tells which (true for
    /// the directory itself).
    pub(super) fn find_nearest_directory(&self, path: &GuestPath) -> Result<(OwnedFd, bool)> {
        let mut nearest = None;
        let note = |parent: &OwnedFd, _: &str| {
            nearest = Some(parent.try_clone().map_err(|_| Errno::MFILE)?);
            Err(Errno::NOENT)
        };
        match self.walk(path, note) {
            Ok(directory) => Ok((directory, true)),
            Err(errno) => {
                let explained = || explain(errno, &path.shown(), self.disk_mib);
                nearest.map(|nearest| (nearest, false)).ok_or_else(explained)
            }
        }
    }

    /// Finds a directory, part by part where it is not there at once; `missing` is asked to make a part that is not.
    fn walk(
        &self,
        path: &GuestPath,
        mut missing: impl FnMut(&OwnedFd, &str) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<OwnedFd> {
        match self.directory(path) {
            Err(Errno::NOENT) => {}
            answer => return answer,
        }
        let mut directory = self.directory(&GuestPath::root())?;
        for prefix in path.prefixes() {
            directory = match self.directory(&prefix) {
                Err(Errno::NOENT) => {
                    missing(&directory, prefix.name())?;
                    self.directory(&prefix)?
                }
                answer => answer?,
            };
        }
        Ok(directory)
    }

    /// Finds a name in a directory that was found before, without following it; None when there is nothing. `EBUSY`
    /// when something is mounted on it.
    pub(super) fn child(&self, directory: impl AsFd, name: &str) -> rustix::io::Result<Option<Found>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(fd) => {
                refuse_mount(&fd, c"", AtFlags::EMPTY_PATH)?;
                self.own(fd).map(Some)
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Refuses (`EXDEV`) what is on a file system other than the sandbox's own: the root's, or an overlay such as
    /// the template's `/usr`. Nobody inside can mount either.
    pub(super) fn own(&self, fd: OwnedFd) -> rustix::io::Result<Found> {
        let stat = rustix::fs::fstat(&fd)?;
        let own = rustix::fs::fstatfs(&fd)?.f_type == OVERLAY_MAGIC
            || stat.st_dev == rustix::fs::fstat(&self.root)?.st_dev;
        if own { Ok(Found { fd, stat }) } else { Err(Errno::XDEV) }
    }

    fn directory(&self, path: &GuestPath) -> rustix::io::Result<OwnedFd> {
        let fd = self.resolve(path, OFlags::DIRECTORY)?;
        self.own(fd).map(|found| found.fd)
    }

    fn resolve(&self, path: &GuestPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        let beneath = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let relative = path.relative();
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&self.root, &relative, flags, Mode::empty(), beneath) {
                Err(Errno::AGAIN | Errno::INTR) => thread::yield_now(),
                answer => return answer,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Refuses (`EBUSY`) a name that something is mounted on. The kernel does so by itself only for mounts of our own
/// namespace: one of the sandbox's it would silently take away together with the name.
pub(super) fn refuse_mount(directory: impl AsFd, name: &CStr, flags: AtFlags) -> rustix::io::Result<()> {
    let facts = rustix::fs::statx(directory, name, flags | AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    if facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) { Err(Errno::BUSY) } else { Ok(()) }
}
