//! Files of a sandbox from outside, while a hostile guest lives in it.
//!
//! Every call resolves beneath the sandbox's root ([`resolve`]), with the rights of somebody inside ([`identity`]), on
//! a thread that may wait for the disk. The guest can make a call fail; it can make no call reach anything that is not
//! its own, wait for it, or keep memory.

mod change;
mod delete;
mod facts;
mod failure;
mod identity;
mod list;
mod path;
mod read;
mod resolve;
#[cfg(test)]
mod tests;
mod write;

use identity::Identity;
use isopod_model::{Error, Result, file::FileStat};
use isopod_node_api::FileContext;
use path::GuestPath;
use std::{os::fd::OwnedFd, sync::Arc};

/// How many user ids a sandbox has.
const UIDS_PER_SANDBOX: u32 = 65536;

/// The file system of a running sandbox. Cheap to clone; all calls may come at once.
///
/// Paths are absolute inside the sandbox (a relative one lies below `/`), and `..` ends at its root. They reach the
/// sandbox's own files and its template; `/proc`, `/dev`, `/run` and every other mount answer
/// [`Error::PathRefused`]. `user` in a context is `user` (1000:1000, also when absent), `root`, `<uid>` or
/// `<uid>:<gid>` below 65536; root sees past permissions, as it does inside.
#[derive(Debug, Clone)]
pub struct GuestRoot {
    /// The root directory, as a directory or `O_PATH` descriptor from the sandbox's own mount tree.
    pub root: Arc<OwnedFd>,
    /// The host's id for the sandbox's uid 0 and gid 0.
    pub uid_base: u32,
    /// Its disk quota, for the text of [`Error::DiskFull`].
    pub disk_mib: u64,
}

impl GuestRoot {
    /// A file's facts; a symbolic link at the end is not followed unless `follow`.
    ///
    /// # Errors
    /// [`Error::FileNotFound`], [`Error::PermissionDenied`], [`Error::PathRefused`], [`Error::Invalid`].
    pub async fn stat(&self, path: &str, context: &FileContext, follow: bool) -> Result<FileStat> {
        let path = GuestPath::parse(path)?;
        self.run(context.user.as_deref(), move |root| {
            let found = root.find(&path, follow)?;
            let target = match found.kind() {
                rustix::fs::FileType::Symlink => rustix::fs::readlinkat(&found.fd, "", Vec::new()).ok(),
                _ => None,
            };
            let target = target.map(|target| target.to_string_lossy().into_owned());
            Ok(root.facts(path.shown(), &found.stat, target))
        })
        .await
    }

    /// Runs `work` on a thread that may wait, with the identity of `user`.
    async fn run<T: Send + 'static>(
        &self,
        user: Option<&str>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let identity = Identity::parse(user, self.uid_base)?;
        let root = self.clone();
        blocking(move || {
            let _assumed = identity.assume()?;
            work(&root)
        })
        .await
    }
}

/// Runs `work` on a thread that may wait. A panic in it is a fault of the platform, not of the thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| Err(Error::internal(failure)))
}
