//! Deleting files and whole trees.

use super::{GuestRoot, facts::check, failure::explain, path::GuestPath, resolve::refuse_mount};
use isopod_model::{Error, Result};
use isopod_node_api::{FileContext, Preconditions};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    os::fd::OwnedFd,
};

/// Each level of a tree keeps a descriptor open; what lies deeper is first moved up.
const DEEPEST: u32 = 48;
/// Names of one directory that are held at a time.
const BATCH: usize = 8192;
/// Most entries that one call removes, so that a guest that makes files as fast as they go cannot hold it for ever.
const MOST_ENTRIES: u64 = 20_000_000;
/// How often a directory may turn out to have been filled again after it was emptied.
const MOST_ROUNDS: u32 = 1000;

impl GuestRoot {
    /// Deletes a file, a symbolic link (never what it points to) or an empty directory; with `recursive` a directory
    /// and all below it.
    ///
    /// # Errors
    /// Those of [`GuestRoot::stat`]; [`Error::DirectoryNotEmpty`]; [`Error::PreconditionFailed`];
    /// [`Error::Invalid`] for `/` itself. What was deleted before an error stays deleted.
    pub async fn delete(
        &self,
        path: &str,
        context: &FileContext,
        recursive: bool,
        preconditions: &Preconditions,
    ) -> Result<()> {
        let path = GuestPath::parse(path)?;
        let preconditions = preconditions.clone();
        self.run(context.user.as_deref(), move |root| {
            let (parent, name) = path.split()?;
            let shown = path.shown();
            let explained = |errno| explain(errno, &shown, root.disk_mib);
            let parent = root.find_directory(&parent)?;
            let found = root.child(&parent, name).map_err(explained)?;
            check(&preconditions, &shown, found.as_ref().map(|found| &found.stat))?;
            let Some(found) = found else { return Err(Error::FileNotFound { path: shown.clone() }) };
            let gone = match found.kind() {
                FileType::Directory if recursive => {
                    let name = CString::new(name).map_err(Error::internal)?;
                    Removal { root, left: MOST_ENTRIES, top: None }.directory(&parent, &name, 0)
                }
                FileType::Directory => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
                _ => rustix::fs::unlinkat(&parent, name, AtFlags::empty()),
            };
            gone.map_err(explained)
        })
        .await
    }
}

struct Removal<'a> {
    root: &'a GuestRoot,
    left: u64,
    /// The directory that is being deleted, once it is open.
    top: Option<OwnedFd>,
}

impl Removal<'_> {
    /// Removes a directory and what is in it.
    fn directory(&mut self, parent: &OwnedFd, name: &CStr, depth: u32) -> rustix::io::Result<()> {
        refuse_mount(parent, name, AtFlags::empty())?;
        for _ in 0..MOST_ROUNDS {
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                // It is something else now.
                Err(Errno::NOTDIR) => return rustix::fs::unlinkat(parent, name, AtFlags::empty()),
                answer => return answer,
            }
            if depth == DEEPEST
                && let Some(top) = &self.top
            {
                let raised = format!(".deleted-{:016x}", fastrand::u64(..));
                return rustix::fs::renameat_with(parent, name, top, raised, RenameFlags::NOREPLACE);
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = self.root.own(rustix::fs::openat(parent, name, flags, Mode::empty())?)?.fd;
            if depth == 0 {
                self.top = Some(directory.try_clone().map_err(|_| Errno::MFILE)?);
            }
            self.contents(&directory, depth)?;
        }
        Err(Errno::NOTEMPTY)
    }

    /// Removes what is in a directory; what somebody adds meanwhile may stay.
    fn contents(&mut self, directory: &OwnedFd, depth: u32) -> rustix::io::Result<()> {
        loop {
            let names = some_names(directory)?;
            if names.is_empty() {
                return Ok(());
            }
            for (name, is_directory) in names {
                self.left = self.left.checked_sub(1).ok_or(Errno::AGAIN)?;
                let gone = if is_directory {
                    self.directory(directory, &name, depth + 1)
                } else {
                    match refuse_mount(directory, &name, AtFlags::empty())
                        .and_then(|()| rustix::fs::unlinkat(directory, &name, AtFlags::empty()))
                    {
                        Err(Errno::ISDIR) => self.directory(directory, &name, depth + 1),
                        answer => answer,
                    }
                };
                match gone {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
    }
}

fn some_names(directory: &OwnedFd) -> rustix::io::Result<Vec<(CString, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push((entry.file_name().to_owned(), entry.file_type() == FileType::Directory));
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}
