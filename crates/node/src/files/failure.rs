//! What the kernel's errors mean to a caller.

use isopod_model::Error;
use rustix::io::Errno;

/// The platform's error for a failed call on `path`, in a sandbox whose disk holds `disk_mib`.
pub(super) fn explain(errno: Errno, path: &str, disk_mib: u64) -> Error {
    let path = path.to_owned();
    let refused = |reason: &str| Error::PathRefused { path: path.clone(), reason: reason.to_owned() };
    let wrong_kind = |reason: &str| Error::WrongFileKind { path: path.clone(), reason: reason.to_owned() };
    match errno {
        Errno::NOENT | Errno::STALE => Error::FileNotFound { path },
        Errno::ACCESS | Errno::PERM => Error::PermissionDenied { path },
        Errno::DQUOT | Errno::NOSPC => Error::DiskFull { limit_mib: disk_mib },
        Errno::EXIST => Error::FileExists { path },
        Errno::NOTEMPTY => Error::DirectoryNotEmpty { path },
        Errno::NOTDIR => wrong_kind("a part of the path is not a directory"),
        Errno::ISDIR => wrong_kind("is a directory"),
        Errno::NXIO | Errno::NODEV => wrong_kind(NOT_REGULAR),
        Errno::LOOP => refused("too many symbolic links, or one that leaves the sandbox's file system"),
        Errno::XDEV => refused("not part of the sandbox's own file system"),
        Errno::ROFS => refused("this part of the sandbox is read-only"),
        Errno::BUSY => refused("something of the sandbox's is mounted there"),
        Errno::NAMETOOLONG => {
            Error::invalid("path", "a part is longer than 255 bytes, or all of it than 4095")
        }
        Errno::INVAL => Error::invalid("path", format!("{path} cannot be used for this")),
        Errno::FBIG => Error::invalid("body", "larger than any file can be"),
        Errno::AGAIN => Error::Unavailable { reason: format!("{path} keeps changing; try again") },
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            Error::Unavailable { reason: format!("the host is short of descriptors or memory ({errno})") }
        }
        _ => Error::internal(format!("file call on {path}: {errno}")),
    }
}

/// Why a pipe, socket or device is not opened.
pub(super) const NOT_REGULAR: &str = "is a pipe, socket or device; only regular files can be read or written";
