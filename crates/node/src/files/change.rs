//! Making directories and moving files.

use super::{GuestRoot, failure::explain, path::GuestPath};
use isopod_model::{
    Error, Result,
    file::{MakeDirectory, MoveFile},
};
use rustix::{
    fs::{FileType, Mode, RenameFlags},
    io::Errno,
};

impl GuestRoot {
    /// Makes a directory (0755 unless told otherwise) and its parents (0755), owned by the user. Ok(false) when it
    /// was there already.
    ///
    /// # Errors
    /// Those of [`GuestRoot::stat`]; [`Error::WrongFileKind`] when something else is there; [`Error::DiskFull`].
    pub async fn make_directory(&self, request: &MakeDirectory) -> Result<bool> {
        let path = GuestPath::parse(&request.path)?;
        let mode = request.mode.as_deref().map_or(Ok(0o755), parse_mode)?;
        self.run(request.user.as_deref(), move |root| {
            let shown = path.shown();
            let Ok((parent, name)) = path.split() else {
                return root.find_directory(&path).map(|_| false);
            };
            let parent = root.find_or_make_directory(&parent)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from(mode)) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) if root.find(&path, true)?.kind() == FileType::Directory => Ok(false),
                Err(Errno::EXIST) => {
                    let reason = "is there already and not a directory".to_owned();
                    Err(Error::WrongFileKind { path: shown, reason })
                }
                Err(errno) => Err(explain(errno, &shown, root.disk_mib)),
            }
        })
        .await
    }

    /// Moves a file or directory within the sandbox; a symbolic link is moved itself. The directory it goes to must
    /// exist.
    ///
    /// # Errors
    /// Those of [`GuestRoot::stat`]; [`Error::FileExists`] when something is at the new path and `overwrite` is not
    /// set; [`Error::DirectoryNotEmpty`] when that is a directory with something in it; [`Error::PathRefused`] for
    /// directories of the template, which cannot be moved.
    pub async fn move_file(&self, request: &MoveFile) -> Result<()> {
        let (from, to) = (GuestPath::parse(&request.from)?, GuestPath::parse(&request.to)?);
        let overwrite = request.overwrite;
        self.run(request.user.as_deref(), move |root| {
            let (from_parent, from_name) = from.split()?;
            let (to_parent, to_name) = to.split()?;
            let from_parent = root.find_directory(&from_parent)?;
            let explained = |errno, path: &GuestPath| explain(errno, &path.shown(), root.disk_mib);
            if root.child(&from_parent, from_name).map_err(|errno| explained(errno, &from))?.is_none() {
                return Err(Error::FileNotFound { path: from.shown() });
            }
            let to_parent = root.find_directory(&to_parent)?;
            root.child(&to_parent, to_name).map_err(|errno| explained(errno, &to))?;
            let flags = if overwrite { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            match rustix::fs::renameat_with(&from_parent, from_name, &to_parent, to_name, flags) {
                Ok(()) => Ok(()),
                Err(Errno::INVAL) => Err(Error::invalid("to", "lies inside of what is to be moved")),
                Err(Errno::XDEV) => Err(Error::PathRefused {
                    path: from.shown(),
                    reason: "a directory of the template cannot be moved, only copied".to_owned(),
                }),
                Err(errno) => Err(explained(errno, &to)),
            }
        })
        .await
    }
}

fn parse_mode(mode: &str) -> Result<u32> {
    let digits = !mode.is_empty() && mode.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(mode, 8)
        .ok()
        .filter(|mode| digits && *mode <= MOST_MODE)
        .ok_or_else(|| Error::invalid("mode", "must be permission bits in octal, such as 0755"))
}

/// All permission bits.
pub(super) const MOST_MODE: u32 = 0o7777;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0755"), Ok(0o755));
        assert_eq!(parse_mode("1777"), Ok(0o1777));
        for wrong in ["", "8", "0o755", "+755", "-1", "10000", "rwx"] {
            assert!(parse_mode(wrong).is_err(), "{wrong}");
        }
    }
}
