//! The file API on a real overlay with a guest that fights back; these tests need root.

mod basics;
mod escapes;
mod races;
mod trees;
mod uploads;

use super::GuestRoot;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use isopod_model::{Error, Result, file::FileStat};
use isopod_node_api::{FileContext, FileWrite};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags},
    thread::UnshareFlags,
};
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::TempDir;

/// The host's id of the sandbox's root in these tests.
const BASE: u32 = 1_000_000;
const SECRET: &str = "the host's secret";

/// A sandbox's file system: an overlay with `/usr` as a second one, procfs at `/proc`, tmpfs at `/dev` and `/run`.
struct Guest {
    root: GuestRoot,
    upper: PathBuf,
    /// A file of the host that nobody inside may ever see or change.
    secret: PathBuf,
    _namespace: OwnedFd,
    directory: TempDir,
}

fn guest() -> Guest {
    guest_with(|_| None)
}

/// A guest whose upper layer lies where `upper_in` says; it runs in the guest's mount namespace.
fn guest_with(upper_in: impl FnOnce(&Path) -> Option<PathBuf> + Send) -> Guest {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let secret = path.join("secret");
    fs::write(&secret, SECRET).unwrap();
    // The thread's mount namespace lives on in the descriptor.
    let (root, namespace, upper) =
        std::thread::scope(|scope| scope.spawn(|| build(path, upper_in)).join().unwrap());
    let root = GuestRoot { root: Arc::new(root), uid_base: BASE, disk_mib: 16 };
    Guest { root, upper, secret, _namespace: namespace, directory }
}

fn build(path: &Path, upper_in: impl FnOnce(&Path) -> Option<PathBuf>) -> (OwnedFd, OwnedFd, PathBuf) {
    // SAFETY: this thread gets its own mounts and working directory; descriptors and memory stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    let owned = |path: &Path, id: u32, mode: u32| {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(BASE + id), Some(BASE + id)).unwrap();
    };
    let lower = path.join("lower");
    for name in ["", "etc", "home", "proc", "dev", "run", "usr", "template"] {
        owned(&lower.join(name), 0, 0o755);
    }
    owned(&lower.join("home/user"), 1000, 0o755);
    owned(&lower.join("workspace"), 1000, 0o755);
    owned(&lower.join("tmp"), 0, 0o1777);
    for (file, text) in [("etc/passwd", "root"), ("template/file", "of the template")] {
        fs::write(lower.join(file), text).unwrap();
        chown(lower.join(file), Some(BASE), Some(BASE)).unwrap();
    }
    let upper_in = upper_in(path).unwrap_or_else(|| path.to_owned());
    let (upper, work, merged) = (upper_in.join("upper"), upper_in.join("work"), path.join("merged"));
    owned(&upper, 0, 0o755);
    owned(&work, 0, 0o755);
    owned(&merged, 0, 0o755);
    owned(&path.join("usr/bin"), 0, 0o755);
    fs::write(path.join("usr/bin/tool"), "a tool").unwrap();
    owned(&path.join("usr-more"), 0, 0o755);

    let overlay = |options: String, at: &Path| {
        let options = CString::new(options).unwrap();
        rustix::mount::mount("overlay", at, "overlay", MountFlags::NODEV, Some(options.as_c_str())).unwrap();
    };
    let (lower, upper_text, work) = (lower.display(), upper.display(), work.display());
    overlay(
        format!(
            "lowerdir={lower},upperdir={upper_text},workdir={work},redirect_dir=off,metacopy=off,index=off"
        ),
        &merged,
    );
    overlay(format!("lowerdir={0}/usr-more:{0}/usr", path.display()), &merged.join("usr"));
    rustix::mount::mount("proc", merged.join("proc"), "proc", MountFlags::empty(), None).unwrap();
    for name in ["dev", "run"] {
        rustix::mount::mount("tmpfs", merged.join(name), "tmpfs", MountFlags::empty(), None).unwrap();
    }
    let open = |path: &Path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let namespace = open(Path::new("/proc/thread-self/ns/mnt"), OFlags::RDONLY);
    (open(&merged, OFlags::PATH | OFlags::DIRECTORY), namespace, upper)
}

impl Guest {
    /// A path by which the test plays the guest; absolute links on it would lead to the host's files.
    fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{path}", self.root.root.as_raw_fd()))
    }

    fn symlink(&self, target: impl AsRef<Path>, link: &str) {
        std::os::unix::fs::symlink(target, self.inside(link)).unwrap();
    }

    async fn put(&self, path: &str, text: &str, user: &str) -> Result<(bool, FileStat)> {
        self.root.write(path, by(user), whole(text)).await
    }

    async fn get(&self, path: &str, user: &str) -> Result<String> {
        let read = self.root.read(path, &as_user(user), None).await?;
        let pieces: Vec<Bytes> = read.body.try_collect().await.map_err(Error::internal)?;
        Ok(String::from_utf8_lossy(&pieces.concat()).into_owned())
    }

    /// Owner, group and mode of a file on the host's disk.
    fn on_disk(&self, path: &str) -> (u32, u32, u32) {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::symlink_metadata(self.upper.join(path)).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    }

    /// Every name below the upper layer.
    fn names(&self) -> Vec<String> {
        fn below(directory: &Path, names: &mut Vec<String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                names.push(entry.file_name().to_string_lossy().into_owned());
                if entry.file_type().unwrap().is_dir() {
                    below(&entry.path(), names);
                }
            }
        }
        let mut names = Vec::new();
        below(&self.upper, &mut names);
        names.sort();
        names
    }

    fn assert_secret_is_safe(&self) {
        assert_eq!(fs::read_to_string(&self.secret).unwrap(), SECRET);
        let mut names: Vec<_> =
            fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["lower", "merged", "secret", "upper", "usr", "usr-more", "work"]);
    }
}

fn as_user(user: &str) -> FileContext {
    FileContext { user: Some(user.to_owned()) }
}

fn by(user: &str) -> FileWrite {
    FileWrite { context: as_user(user), ..FileWrite::default() }
}

fn whole(text: &str) -> BoxStream<'static, io::Result<Bytes>> {
    let text = Bytes::copy_from_slice(text.as_bytes());
    futures::stream::once(async move { Ok(text) }).boxed()
}
