//! Writing a file: the body goes into a file without a name, which then appears at its place whole.

use super::{
    GuestRoot, UIDS_PER_SANDBOX, blocking,
    change::MOST_MODE,
    facts::check,
    failure::explain,
    identity::Identity,
    path::GuestPath,
    resolve::{Found, by_descriptor},
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use isopod_model::{Error, Result, file::FileStat};
use isopod_node_api::FileWrite;
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};
use std::{fs::File, io, io::Write, os::fd::OwnedFd};

/// How much of a body is gathered before it is written, in bytes.
const BATCH: usize = 256 * 1024;
/// How many symbolic links at the end of a path are followed, as the kernel does.
const MOST_LINKS: u32 = 40;
/// How often placing the file is tried again while somebody makes and removes another one there.
const ATTEMPTS: u32 = 100;

impl GuestRoot {
    /// Writes a file from a stream and gives whether it is new, and its facts. Missing parents are made (0755, owned
    /// by the user). The file appears whole or not at all: a new one with the user as its owner and the mode given
    /// or 0644; in place of another with that one's owner and, unless one is given, its mode. A symbolic link at the
    /// end of the path is written through, beneath the root. The user must be allowed to write the file and its
    /// directory. Memory in use does not depend on the size.
    ///
    /// # Errors
    /// Those of [`GuestRoot::stat`]; [`Error::WrongFileKind`] when something else than a regular file is there;
    /// [`Error::PreconditionFailed`], looked at before the body is read and again right before the file appears;
    /// [`Error::DiskFull`]. When the body ends with an error: the [`Error`] inside of that, else
    /// [`Error::Malformed`].
    pub async fn write(
        &self,
        path: &str,
        write: FileWrite,
        mut body: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)> {
        let path = GuestPath::parse(path)?;
        if path.names_directory() {
            let reason = "names a directory (it ends with a slash)".to_owned();
            return Err(Error::WrongFileKind { path: path.shown(), reason });
        }
        if write.mode.is_some_and(|mode| mode > MOST_MODE) {
            return Err(Error::invalid("mode", "must be permission bits in octal, such as 0644"));
        }
        let identity = Identity::parse(write.context.user.as_deref(), self.uid_base)?;
        let user = write.context.user.clone();
        let begin = move |root: &Self| Upload::begin(root.clone(), path, write, true);
        let mut upload = Unfinished(Some(self.run(user.as_deref(), begin).await?));
        loop {
            let batch = next_batch(&mut body).await?;
            if batch.is_empty() {
                break;
            }
            let mut taken = upload.take();
            upload = blocking(move || {
                taken.append(&batch)?;
                Ok(Unfinished(Some(taken)))
            })
            .await?;
        }
        let mut upload = upload.take();
        blocking(move || upload.finish(identity)).await
    }
}

/// Up to [`BATCH`] bytes of a body (or one piece, where that is larger); empty at its end.
async fn next_batch(body: &mut BoxStream<'static, io::Result<Bytes>>) -> Result<Vec<Bytes>> {
    let mut batch = Vec::new();
    let mut size = 0;
    while size < BATCH {
        match body.next().await {
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => {
                size += piece.len();
                batch.push(piece);
            }
            Some(Err(error)) => return Err(broken(&error)),
            None => break,
        }
    }
    Ok(batch)
}

fn broken(error: &io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.cloned().unwrap_or_else(|| Error::Malformed { reason: format!("the body broke off: {error}") })
}

/// An upload between two steps. Where the caller goes away, it is cleared up on a thread that may wait.
struct Unfinished(Option<Upload>);

impl Unfinished {
    fn take(&mut self) -> Upload {
        self.0.take().expect("an upload is taken once per step")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(upload) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(upload));
        }
    }
}

/// A file that is being written and has not appeared yet.
pub(super) struct Upload {
    root: GuestRoot,
    path: GuestPath,
    write: FileWrite,
    file: File,
    /// Its directory and its name for the time being, where it has one.
    temporary: Option<(OwnedFd, String)>,
}

impl Upload {
    /// Opens a file for the body near its place; one without a name if `nameless` and the file system can. Nothing
    /// is made that shows, not even a missing parent.
    pub(super) fn begin(root: GuestRoot, path: GuestPath, write: FileWrite, nameless: bool) -> Result<Self> {
        let place = Place::find(&root, &path)?;
        place.check(&root, &path, &write)?;
        let explained = |errno| explain(errno, &path.shown(), root.disk_mib);
        let private = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let opened = if nameless {
            rustix::fs::openat(&place.directory, ".", flags, private)
        } else {
            Err(Errno::OPNOTSUPP)
        };
        let (file, temporary) = match opened {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let name = temporary_name(&place.name);
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&place.directory, &name, flags, private).map_err(explained)?;
                (file, Some((place.directory, name)))
            }
            Err(errno) => return Err(explained(errno)),
        };
        Ok(Self { file: file.into(), temporary, root, path, write })
    }

    pub(super) fn append(&mut self, batch: &[Bytes]) -> Result<()> {
        for piece in batch {
            self.file.write_all(piece).map_err(|error| match Errno::from_io_error(&error) {
                Some(errno) => self.explained(errno),
                None => Error::internal(error),
            })?;
        }
        Ok(())
    }

    /// Lets the file appear; gives whether it is new, and its facts.
    pub(super) fn finish(&mut self, identity: Identity) -> Result<(bool, FileStat)> {
        let replaced = {
            let _assumed = identity.assume()?;
            self.appear()?
        };
        if let Some(replaced) = &replaced {
            self.keep_owner(replaced).map_err(|errno| self.explained(errno))?;
        }
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| self.explained(errno))?;
        Ok((replaced.is_none(), self.root.facts(self.path.shown(), &stat, None)))
    }

    /// Gives the file its name; tells which file it replaced.
    fn appear(&mut self) -> Result<Option<Found>> {
        for _ in 0..ATTEMPTS {
            let mut place = Place::find(&self.root, &self.path)?;
            place.check(&self.root, &self.path, &self.write)?;
            if !place.is_complete {
                place.make_parents(&self.root)?;
                continue;
            }
            let kept = place.existing.as_ref().map_or(0o644, |existing| existing.stat.st_mode & 0o777);
            let mode = Mode::from(self.write.mode.unwrap_or(kept));
            rustix::fs::fchmod(&self.file, mode).map_err(|errno| self.explained(errno))?;
            let appeared = match place.existing {
                Some(_) => self.replace(&place),
                None => self.appear_new(&place),
            };
            match appeared {
                Ok(()) => return Ok(place.existing),
                Err(Errno::EXIST | Errno::NOENT) => {}
                Err(errno) => return Err(self.explained(errno)),
            }
        }
        Err(self.explained(Errno::AGAIN))
    }

    fn appear_new(&mut self, place: &Place) -> rustix::io::Result<()> {
        match &self.temporary {
            None => self.link(&place.directory, &place.name),
            Some((directory, name)) => {
                let flags = RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(directory, name, &place.directory, &place.name, flags)?;
                self.temporary = None;
                Ok(())
            }
        }
    }

    fn replace(&mut self, place: &Place) -> rustix::io::Result<()> {
        if self.temporary.is_none() {
            let name = temporary_name(&place.name);
            let directory = place.directory.try_clone().map_err(|_| Errno::MFILE)?;
            self.link(&directory, &name)?;
            self.temporary = Some((directory, name));
        }
        let Some((directory, name)) = &self.temporary else { return Err(Errno::NOENT) };
        rustix::fs::renameat(directory, name, &place.directory, &place.name)?;
        self.temporary = None;
        Ok(())
    }

    fn link(&self, directory: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        // By its descriptor's path, since an empty path would need a capability that users do not have.
        rustix::fs::linkat(CWD, by_descriptor(&self.file), directory, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Gives the file the owner of the one that it replaced, which its writer may not do but which writing in place
    /// would have left alone. Owners that are not of this sandbox are not given to anything.
    fn keep_owner(&self, replaced: &Found) -> rustix::io::Result<()> {
        let range = self.root.uid_base..self.root.uid_base.saturating_add(UIDS_PER_SANDBOX);
        let (uid, gid) = (replaced.stat.st_uid, replaced.stat.st_gid);
        let own = rustix::fs::fstat(&self.file)?;
        if (uid, gid) == (own.st_uid, own.st_gid) || !range.contains(&uid) || !range.contains(&gid) {
            return Ok(());
        }
        rustix::fs::fchown(&self.file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
    }

    fn explained(&self, errno: Errno) -> Error {
        explain(errno, &self.path.shown(), self.root.disk_mib)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some((directory, name)) = &self.temporary {
            // Nobody is left to be told; a name of ours that stays is only untidy.
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
    }
}

/// Where a file belongs.
struct Place {
    directory: OwnedFd,
    name: String,
    existing: Option<Found>,
    /// The path of its directory, after links at its end.
    directory_path: GuestPath,
    /// Whether that exists; else `directory` is the nearest parent that does.
    is_complete: bool,
}

impl Place {
    /// Looks for the place of `path`. Symbolic links at its end are followed here, one by one, since each may lead
    /// to another directory beneath the root.
    fn find(root: &GuestRoot, path: &GuestPath) -> Result<Self> {
        let explained = |errno| explain(errno, &path.shown(), root.disk_mib);
        let mut next = path.clone();
        for _ in 0..=MOST_LINKS {
            let (directory_path, name) = next.split()?;
            let name = name.to_owned();
            let (directory, is_complete) = root.find_nearest_directory(&directory_path)?;
            let existing = if is_complete { root.child(&directory, &name).map_err(explained)? } else { None };
            match existing {
                Some(link) if link.kind() == FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&link.fd, "", Vec::new()).map_err(explained)?;
                    let target = target.to_str().map_err(|_| explained(Errno::INVAL))?;
                    next = directory_path.link_target(target)?;
                }
                existing => return Ok(Self { directory, name, existing, directory_path, is_complete }),
            }
        }
        Err(explained(Errno::LOOP))
    }

    /// Checks the conditions of a write and, where there is a file, that it is one that this user may write.
    fn check(&self, root: &GuestRoot, path: &GuestPath, write: &FileWrite) -> Result<()> {
        let shown = path.shown();
        check(&write.preconditions, &shown, self.existing.as_ref().map(|existing| &existing.stat))?;
        let Some(existing) = &self.existing else { return Ok(()) };
        existing.check_regular(&shown)?;
        rustix::fs::accessat(CWD, existing.by_descriptor(), Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|errno| explain(errno, &shown, root.disk_mib))
    }

    fn make_parents(&mut self, root: &GuestRoot) -> Result<()> {
        root.find_or_make_directory(&self.directory_path).map(drop)
    }
}

fn temporary_name(name: &str) -> String {
    const LONGEST: usize = 200;
    let end = (0..=LONGEST.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!(".{}.{:016x}", &name[..end], fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_short_enough() {
        assert!(temporary_name("file").starts_with(".file."));
        assert!(temporary_name(&"ä".repeat(127)).len() < 255);
    }
}
