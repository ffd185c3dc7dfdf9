//! The launcher's own surroundings: daemon, mount namespace, device directory, socket.

use super::{seccomp::Filter, sys};
use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    ptr,
};

/// Where the volume is mounted, relative to the launcher's working directory.
pub(crate) const VOLUME: &str = "volume";
/// Where a new sandbox's root is mounted.
pub(crate) const NEW_ROOT: &str = "root";
/// The device directory that every sandbox shows.
pub(crate) const DEVICES: &str = "dev";
/// An empty, read-only directory.
pub(crate) const EMPTY: &str = "empty";

pub(crate) struct World {
    mnt: PathBuf,
    pub(crate) agent: OwnedFd,
    pub(crate) filter: Filter,
    pub(crate) signals: OwnedFd,
    pub(crate) network: OwnedFd,
    volume: bool,
    _lock: OwnedFd,
}

impl World {
    pub(crate) fn make(data: &Path, agent: OwnedFd, lock: OwnedFd) -> io::Result<Self> {
        let mnt = data.join("mnt");
        fs::create_dir_all(&mnt)?;
        // SAFETY: takes no pointers; the strings of mount(2) are NUL-terminated or null.
        unsafe {
            sys::check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            sys::check(libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null()))?;
        }
        forget_mounts(&mnt)?;
        let options = [(c"mode", Some(CString::from(c"0755")))];
        let tmpfs = sys::new_mount(c"tmpfs", &options, sys::NOSUID | sys::NODEV)?;
        sys::move_mount(tmpfs.as_fd(), &mnt)?;
        std::env::set_current_dir(&mnt)?;
        for directory in [VOLUME, NEW_ROOT, DEVICES, EMPTY] {
            fs::create_dir(directory)?;
        }
        make_devices()?;
        Ok(Self {
            mnt,
            agent,
            filter: Filter::compile(),
            signals: child_signals()?,
            network: fs::File::open("/proc/self/ns/net")?.into(),
            volume: false,
            _lock: lock,
        })
    }

    pub(crate) fn attach_volume(&mut self, mount: &OwnedFd) -> io::Result<()> {
        sys::move_mount(mount.as_fd(), VOLUME)?;
        self.volume = true;
        Ok(())
    }

    pub(crate) fn volume_root(&self) -> Option<OwnedFd> {
        if self.volume { fs::File::open(VOLUME).ok().map(OwnedFd::from) } else { None }
    }

    /// Removes what this process left in the host's file system.
    pub(crate) fn clean(&self) {
        if let Some(data) = self.mnt.parent() {
            let _ = fs::remove_file(data.join("launcher.sock"));
        }
    }
}

/// Lets go of every mount that no sandbox needs, so that a new mount namespace is a short copy.
fn forget_mounts(keep: &Path) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points: Vec<String> = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect();
    for point in points.iter().rev() {
        let needed = Path::new(point);
        let kept = ["/proc", "/usr", "/dev"].iter().any(|path| Path::new(path).starts_with(needed))
            || keep.starts_with(needed);
        if !kept {
            let _ = sys::detach(point);
        }
    }
    Ok(())
}

/// Mount points are listed with octal escapes for blanks and backslashes.
fn unescape(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// One read-only `/dev` for all sandboxes: the harmless character devices and the mount points of the rest.
fn make_devices() -> io::Result<()> {
    let mount =
        sys::new_mount(c"tmpfs", &[(c"mode", Some(CString::from(c"0755")))], sys::NOSUID | sys::NOEXEC)?;
    sys::move_mount(mount.as_fd(), DEVICES)?;
    let at = |name: &str| Path::new(DEVICES).join(name);
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        make_node(&at(name), libc::makedev(1, minor))?;
    }
    make_node(&at("tty"), libc::makedev(5, 0))?;
    for directory in ["pts", "shm", "mqueue"] {
        fs::create_dir(at(directory))?;
    }
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        symlink(target, at(name))?;
    }
    sys::mount_attributes(mount.as_fd(), sys::RDONLY, None)
}

fn make_node(path: &Path, device: libc::dev_t) -> io::Result<()> {
    let text = sys::c_path(path)?;
    // SAFETY: `text` is NUL-terminated.
    unsafe {
        sys::check(libc::mknod(text.as_ptr(), libc::S_IFCHR | 0o666, device))?;
        sys::check(libc::chmod(text.as_ptr(), 0o666))?;
    }
    Ok(())
}

/// Goes into the background: a session of its own, deaf to the terminal's signals, without the caller's output.
pub(crate) fn become_daemon() -> io::Result<()> {
    // SAFETY: this process has one thread; the parent leaves at once and the child goes on.
    unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        libc::setsid();
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE, libc::SIGTTOU, libc::SIGTTIN]
        {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_NAME, c"isopod-launcher".as_ptr(), 0, 0, 0);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        sys::check(null)?;
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        if null > 2 {
            libc::close(null);
        }
    }
    Ok(())
}

/// Removes control groups, each with those directly below it. They are reached by their descriptors, because this
/// process has let go of the mounts that show them.
pub(crate) fn remove_groups(groups: &[OwnedFd]) {
    for group in groups {
        let shown = PathBuf::from(format!("/proc/self/fd/{}", group.as_raw_fd()));
        let below = fs::read_dir(&shown).into_iter().flatten().flatten();
        let below = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let own_name = fs::read_link(&shown)
            .ok()
            .and_then(|path| path.file_name().map(|name| Path::new("..").join(name)));
        for name in below.map(|entry| PathBuf::from(entry.file_name())).chain(own_name) {
            // A process leaves its group a moment after its parent has seen it die: tries for a second.
            for _ in 0..200 {
                match remove_directory(group.as_fd(), &name) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
    }
}

fn remove_directory(at: BorrowedFd<'_>, name: &Path) -> io::Result<i64> {
    let name = sys::c_path(name)?;
    // SAFETY: `name` is NUL-terminated.
    sys::check(unsafe { libc::unlinkat(at.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) })
}

fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a descriptor that is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        sys::check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

pub(crate) fn drain(fd: BorrowedFd<'_>) {
    let mut space = [0u8; 1024];
    // SAFETY: reads into a buffer of the given length.
    while unsafe { libc::read(fd.as_raw_fd(), space.as_mut_ptr().cast(), space.len()) } > 0 {}
}

/// A listening SEQPACKET socket at `path`, for root only.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    // SAFETY: an all-zero sockaddr_un is valid; the path is copied within its bounds; the descriptor is ours.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        sys::check(fd)?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() >= address.sun_path.len() {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        for (to, from) in address.sun_path.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        libc::umask(0o077);
        let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32);
        libc::umask(0o022);
        sys::check(bound)?;
        sys::check(libc::listen(fd.as_raw_fd(), 4))?;
        Ok(fd)
    }
}

pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for; the descriptor is ours.
    unsafe {
        let fd = libc::accept4(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), libc::SOCK_CLOEXEC);
        sys::check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
