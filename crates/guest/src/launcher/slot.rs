//! Preparing a slot's root file system, and starting a sandbox on it: the parent's side.

use super::{
    child,
    sys::{self, Forked},
    world::{VOLUME, World},
};
use isopod_guest::{
    frames::{Layers, StartSpec},
    socket,
};
use std::{
    ffi::{CStr, CString},
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Scheduling priority of agents; what they start goes back to 0.
const AGENT_PRIORITY: i32 = -10;

/// A failed step and why.
pub(crate) type Failure = (&'static str, io::Error);

/// Detached mounts, ready to be moved into a sandbox.
pub(crate) struct Prepared {
    pub(crate) root: OwnedFd,
    pub(crate) usr: OwnedFd,
}

/// A sandbox whose agent is on its way.
pub(crate) struct Up {
    pub(crate) pid: i32,
    pub(crate) agent: OwnedFd,
    pub(crate) pidfd: OwnedFd,
    pub(crate) root: OwnedFd,
}

fn at(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| (step, error)
}

/// Makes the two overlays of a slot (`/` and `/usr`): shared lower layers seen through the sandbox's uid range, its own
/// upper layer on the volume.
pub(crate) fn prepare(layers: &Layers) -> Result<Prepared, Failure> {
    let users = user_namespace(layers.uid_base).map_err(at("user namespace"))?;
    let slot = format!("{VOLUME}/{}", layers.slot_directory);
    let root =
        overlay(&layers.root_lowers, users.as_fd(), &format!("{slot}/upper"), &format!("{slot}/work"))?;
    let usr = overlay(
        &layers.usr_lowers,
        users.as_fd(),
        &format!("{slot}/upper/usr"),
        &format!("{slot}/work-usr"),
    )?;
    Ok(Prepared { root, usr })
}

/// One overlay. Its lower layers are attached for as long as it takes to name them, because kernels before 6.13 take no
/// detached ones. `volatile`: no sync of the whole volume when one sandbox goes (docs/decisions/0003).
fn overlay(lowers: &[String], users: BorrowedFd<'_>, upper: &str, work: &str) -> Result<OwnedFd, Failure> {
    let names: Vec<String> = (0..lowers.len()).map(|index| format!("lower{index}")).collect();
    let mut attached = 0;
    let made = (|| {
        for (name, path) in names.iter().zip(lowers) {
            let tree = sys::open_tree(path).map_err(at("open lower layer"))?;
            let attributes = sys::IDMAP | sys::RDONLY | sys::NOSUID | sys::NODEV;
            sys::mount_attributes(tree.as_fd(), attributes, Some(users)).map_err(at("idmapped mount"))?;
            match fs::create_dir(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(("make mount point", error));
                }
                _ => {}
            }
            sys::move_mount(tree.as_fd(), name).map_err(at("attach lower layer"))?;
            attached += 1;
        }
        let string = |value: &str| Some(CString::new(value).expect("our own names hold no NUL"));
        let off = || string("off");
        let options: [(&CStr, Option<CString>); 8] = [
            (c"source", string("overlay")),
            (c"lowerdir", string(&names.join(":"))),
            (c"upperdir", string(upper)),
            (c"workdir", string(work)),
            (c"redirect_dir", off()),
            (c"metacopy", off()),
            (c"index", off()),
            (c"volatile", None),
        ];
        sys::new_mount(c"overlay", &options, sys::NOSUID | sys::NODEV).map_err(at("overlay"))
    })();
    for name in &names[..attached] {
        let _ = sys::detach(name);
    }
    made
}

/// A user namespace that maps 0–65535 to the sandbox's range; used only to idmap mounts.
fn user_namespace(uid_base: u32) -> io::Result<OwnedFd> {
    match sys::fork(libc::CLONE_NEWUSER, None)? {
        Forked::Child => loop {
            // SAFETY: waits for the parent's SIGKILL.
            unsafe { libc::pause() };
        },
        Forked::Parent { pid, .. } => {
            let made = map_users(pid, uid_base)
                .and_then(|()| fs::File::open(format!("/proc/{pid}/ns/user")))
                .map(OwnedFd::from);
            // SAFETY: ends and reaps the child made above.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
            made
        }
    }
}

fn map_users(pid: i32, uid_base: u32) -> io::Result<()> {
    let map = format!("0 {uid_base} 65536");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

/// Starts a sandbox; returns as soon as its first process may go on by itself. `fds` as [`isopod_guest::frames::ToLauncher::Start`]
/// says.
pub(crate) fn start(
    world: &World,
    spec: &StartSpec,
    prepared: Prepared,
    fds: &[OwnedFd],
) -> Result<Up, Failure> {
    let (network, rest) =
        fds.split_first().ok_or(("descriptors", io::Error::from_raw_os_error(libc::EBADF)))?;
    let (cgroup, tasks) = match rest.split_first() {
        Some((cgroup, tasks)) if spec.into_cgroup => (Some(cgroup.as_fd()), tasks),
        _ => (None, rest),
    };
    let (agent, inside) = socket::pair().map_err(at("agent socket"))?;
    sys::set_namespace(network.as_fd(), libc::CLONE_NEWNET).map_err(at("network namespace"))?;
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    let forked = sys::fork(flags, cgroup);
    if !matches!(forked, Ok(Forked::Child)) {
        sys::set_namespace(world.network.as_fd(), libc::CLONE_NEWNET).map_err(at("own network namespace"))?;
    }
    match forked.map_err(at("clone"))? {
        Forked::Child => child::run(world, spec, &prepared, tasks, inside.as_fd()),
        Forked::Parent { pid, pidfd } => {
            map_users(pid, spec.uid_base).map_err(at("uid map"))?;
            // A busy guest must not starve the one who is to kill it.
            // SAFETY: takes no pointers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, pid.cast_unsigned(), AGENT_PRIORITY) };
            socket::send(agent.as_fd(), &[1], &[], true).map_err(at("agent socket"))?;
            Ok(Up { pid, agent, pidfd, root: prepared.root })
        }
    }
}
