//! Listing directories.

use super::{GuestRoot, failure::explain, path::GuestPath};
use isopod_model::{Result, file::FileStat};
use isopod_node_api::FileContext;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    os::fd::OwnedFd,
};

/// Most entries in one answer.
const MOST_ENTRIES: usize = 100_000;
/// Most bytes of names and paths in one answer; a guest can make 100,000 paths of many KiB each.
const MOST_TEXT: usize = 64 << 20;
/// Directories nested deeper are shown, but not what is in them. Each level keeps a descriptor open.
const DEEPEST: usize = 128;

impl GuestRoot {
    /// A directory's entries, sorted by path; with `recursive` those below too, without crossing into other mounts
    /// or following links. At most 100,000 entries, 64 MiB of paths and 128 levels: the rest is left out.
    ///
    /// # Errors
    /// Those of [`GuestRoot::stat`]; [`isopod_model::Error::WrongFileKind`] when it is not a directory. Directories
    /// further down that this user may not read, or that vanish meanwhile, count as empty.
    pub async fn list(&self, path: &str, context: &FileContext, recursive: bool) -> Result<Vec<FileStat>> {
        let path = GuestPath::parse(path)?;
        self.run(context.user.as_deref(), move |root| {
            let directory = root.find_directory(&path)?;
            let mut listing = Listing { root, entries: Vec::new(), text: 0 };
            let shown = path.shown();
            let explained = |errno| explain(errno, &shown, root.disk_mib);
            let first = listing.read(directory, shown.trim_end_matches('/').to_owned()).map_err(explained)?;
            if recursive {
                listing.descend(first);
            }
            listing.entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
            Ok(listing.entries)
        })
        .await
    }
}

struct Listing<'a> {
    root: &'a GuestRoot,
    entries: Vec<FileStat>,
    text: usize,
}

/// An open directory and those of its subdirectories that are still to be visited.
struct Level {
    directory: OwnedFd,
    path: String,
    unvisited: Vec<CString>,
}

impl Listing<'_> {
    fn is_full(&self) -> bool {
        self.entries.len() >= MOST_ENTRIES || self.text >= MOST_TEXT
    }

    fn descend(&mut self, first: Level) {
        let mut levels = vec![first];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { return };
            let Some(name) = level.unvisited.pop() else {
                levels.pop();
                continue;
            };
            if self.is_full() {
                return;
            }
            if depth == DEEPEST {
                continue;
            }
            let path = format!("{}/{}", level.path, name.to_string_lossy());
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(&level.directory, &name, flags, Mode::empty())
                .and_then(|fd| self.root.own(fd))
                .and_then(|found| self.read(found.fd, path));
            levels.extend(below);
        }
    }

    /// Notes the entries of one directory.
    fn read(&mut self, directory: OwnedFd, path: String) -> Result<Level, Errno> {
        let mut unvisited = Vec::new();
        for entry in entries(&directory)? {
            if self.is_full() {
                break;
            }
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // What has vanished since is not there any more.
            let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let path = format!("{path}/{}", name.to_string_lossy());
            self.text += 2 * path.len();
            let target = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => self.target(&directory, name),
                FileType::Directory => {
                    unvisited.push(name.to_owned());
                    None
                }
                _ => None,
            };
            self.entries.push(self.root.facts(path, &stat, target));
        }
        Ok(Level { directory, path, unvisited })
    }

    fn target(&mut self, directory: &OwnedFd, name: &CStr) -> Option<String> {
        let target = rustix::fs::readlinkat(directory, name, Vec::new()).ok()?;
        self.text += target.to_bytes().len();
        Some(target.to_string_lossy().into_owned())
    }
}

/// The directory's entries; its own descriptor can do nothing yet.
fn entries(directory: &OwnedFd) -> rustix::io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Dir::new(rustix::fs::openat(directory, ".", flags, Mode::empty())?)
}
