//! From the clone to the agent: what the first process of a sandbox does before it is handed over.

use super::{
    slot::Prepared,
    sys::{self, check},
    world::{DEVICES, EMPTY, NEW_ROOT, World},
};
use isopod_guest::{
    frames::{FromAgent, StartSpec, encode},
    socket,
};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    ptr,
};

/// Capabilities that root keeps inside: Docker's default less NET_RAW and MKNOD. Numbers of linux/capability.h.
const KEPT: [u32; 12] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    18, // SYS_CHROOT
    29, // AUDIT_WRITE
    31, // SETFCAP
];

/// Files of `/proc` that are covered by `/dev/null`; runc's list.
const MASKED_FILES: [&str; 5] = ["kcore", "keys", "latency_stats", "timer_list", "sched_debug"];
/// Directories of `/proc` that are covered by an empty one.
const MASKED_DIRECTORIES: [&str; 3] = ["acpi", "asound", "scsi"];
/// Parts of `/proc` that become read-only.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

type Step = Result<(), (&'static str, io::Error)>;

fn at(step: &'static str) -> impl Fn(io::Error) -> (&'static str, io::Error) {
    move |error| (step, error)
}

/// Becomes the sandbox's agent, or reports the step that failed over the agent's socket and exits.
pub(crate) fn run(
    world: &World,
    spec: &StartSpec,
    prepared: &Prepared,
    tasks: &[OwnedFd],
    inside: BorrowedFd<'_>,
) -> ! {
    let (step, error) = match become_agent(world, spec, prepared, tasks, inside) {
        Ok(()) => ("exec", io::Error::last_os_error()),
        Err(failure) => failure,
    };
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let frame = FromAgent::Failed { exec: String::new(), step: step.to_owned(), errno };
    if let Ok(bytes) = encode(&frame) {
        let _ = socket::send(inside, &bytes, &[], false);
    }
    // SAFETY: ends this child without running the launcher's destructors.
    unsafe { libc::_exit(72) }
}

fn become_agent(
    world: &World,
    spec: &StartSpec,
    prepared: &Prepared,
    tasks: &[OwnedFd],
    inside: BorrowedFd<'_>,
) -> Step {
    // SAFETY: prctl and write on a descriptor with a one-byte buffer.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        for file in tasks {
            // A process that moves itself needs no lock over all processes (0.1 ms instead of 11).
            check(libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) as i64)
                .map_err(at("join cgroup"))?;
        }
    }
    let mut go = [0; 16];
    match socket::receive(inside, &mut go, true) {
        Ok(Some(_)) => {}
        Ok(None) => return Err(("wait for uid map", io::Error::from_raw_os_error(libc::EPIPE))),
        Err(error) => return Err(("wait for uid map", error)),
    }
    // Still the host's root by uid, if without its power: the data directory is open to no one else.
    let views = Views::open(&spec.view).map_err(at("open limits' view"))?;
    // SAFETY: takes no pointers, or NUL-terminated strings and their lengths.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWCGROUP)).map_err(at("cgroup namespace"))?;
        check(libc::setresgid(0, 0, 0)).map_err(at("gid"))?;
        check(libc::setgroups(0, ptr::null())).map_err(at("groups"))?;
        check(libc::setresuid(0, 0, 0)).map_err(at("uid"))?;
        check(libc::sethostname(spec.sandbox.as_ptr().cast(), spec.sandbox.len()))
            .map_err(at("host name"))?;
        libc::umask(0o022);
    }
    mounts(spec, prepared, &views)?;
    enter_root().map_err(at("pivot root"))?;
    affinity(&spec.cpus);
    resource_limits();
    descriptors(world, inside).map_err(at("descriptors"))?;
    drop_power(world)?;
    let argv = [c"isopod-agent".as_ptr(), ptr::null()];
    let env: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: the vectors are null-terminated; descriptor 4 is the agent program (see `descriptors`).
    unsafe {
        libc::syscall(libc::SYS_execveat, 4, c"".as_ptr(), argv.as_ptr(), env.as_ptr(), sys::AT_EMPTY_PATH);
    }
    Ok(())
}

fn new(kind: &CStr, options: &[(&CStr, Option<CString>)], attributes: u64, to: &str) -> io::Result<()> {
    let mount = sys::new_mount(kind, options, attributes)?;
    sys::move_mount(mount.as_fd(), Path::new(NEW_ROOT).join(to))
}

/// Shows `from` at `to` inside, with more restrictions.
fn bind(from: impl AsRef<Path>, to: &str, attributes: u64) -> io::Result<()> {
    show(&sys::open_tree(from)?, to, attributes)
}

fn show(tree: &OwnedFd, to: &str, attributes: u64) -> io::Result<()> {
    sys::mount_attributes(tree.as_fd(), attributes, None)?;
    sys::move_mount(tree.as_fd(), Path::new(NEW_ROOT).join(to))
}

/// What shows the sandbox's limits instead of the host's.
struct Views {
    meminfo: OwnedFd,
    cpuinfo: OwnedFd,
    sys: OwnedFd,
}

impl Views {
    fn open(directory: &str) -> io::Result<Self> {
        let open = |name: &str| sys::open_tree(Path::new(directory).join(name));
        Ok(Self { meminfo: open("meminfo")?, cpuinfo: open("cpuinfo")?, sys: open("sys")? })
    }
}

fn mounts(spec: &StartSpec, prepared: &Prepared, views: &Views) -> Step {
    use sys::{NODEV, NOEXEC, NOSUID, RDONLY};
    let option = |text: String| Some(CString::new(text).expect("our own numbers hold no NUL"));
    sys::move_mount(prepared.root.as_fd(), NEW_ROOT).map_err(at("mount /"))?;
    sys::move_mount(prepared.usr.as_fd(), Path::new(NEW_ROOT).join("usr")).map_err(at("mount /usr"))?;
    new(c"proc", &[], NOSUID | NODEV | NOEXEC, "proc").map_err(at("mount /proc"))?;
    bind(DEVICES, "dev", 0).map_err(at("mount /dev"))?;
    let pts = [
        (c"newinstance", None),
        (c"ptmxmode", option("0666".into())),
        (c"mode", option("0620".into())),
        (c"gid", option("5".into())),
    ];
    new(c"devpts", &pts, NOSUID | NOEXEC, "dev/pts").map_err(at("mount /dev/pts"))?;
    let shm = [
        (c"mode", option("1777".into())),
        (c"size", option(spec.shm_bytes.to_string())),
        (c"nr_inodes", option("65536".into())),
    ];
    new(c"tmpfs", &shm, NOSUID | NODEV | NOEXEC, "dev/shm").map_err(at("mount /dev/shm"))?;
    new(c"mqueue", &[], NOSUID | NODEV | NOEXEC, "dev/mqueue").map_err(at("mount /dev/mqueue"))?;
    let run = [
        (c"mode", option("0755".into())),
        (c"size", option((16 << 20).to_string())),
        (c"nr_inodes", option("16384".into())),
    ];
    new(c"tmpfs", &run, NOSUID | NODEV, "run").map_err(at("mount /run"))?;
    for (tree, to) in
        [(&views.sys, "sys"), (&views.meminfo, "proc/meminfo"), (&views.cpuinfo, "proc/cpuinfo")]
    {
        show(tree, to, RDONLY | NOSUID | NODEV | NOEXEC).map_err(at("mount limits' view"))?;
    }
    for (names, cover) in
        [(&MASKED_FILES[..], format!("{DEVICES}/null")), (&MASKED_DIRECTORIES[..], EMPTY.to_owned())]
    {
        for path in names.iter().filter_map(|name| in_proc(name)) {
            bind(&cover, &path, RDONLY).map_err(at("mask /proc"))?;
        }
    }
    for path in READ_ONLY.iter().filter_map(|name| in_proc(name)) {
        bind(Path::new(NEW_ROOT).join(&path), &path, RDONLY | NOSUID | NODEV | NOEXEC)
            .map_err(at("read-only /proc"))?;
    }
    Ok(())
}

/// What this kernel does not have need not be hidden. Asked first, because dropping a mount that found no place waits
/// for a grace period of the kernel.
fn in_proc(name: &str) -> Option<String> {
    let path = format!("proc/{name}");
    Path::new(NEW_ROOT).join(&path).exists().then_some(path)
}

/// Makes the new root the only one: the host's mounts are gone from here on.
fn enter_root() -> io::Result<()> {
    // SAFETY: the strings are NUL-terminated.
    unsafe {
        check(libc::chdir(sys::c_path(NEW_ROOT)?.as_ptr()))?;
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))?;
    }
    Ok(())
}

/// Shows as many CPUs as the limit allows; a hint that the guest may undo, the cgroup is the limit.
fn affinity(cpus: &[u32]) {
    // SAFETY: an all-zero cpu_set_t is an empty one; CPU_SET stays within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(*cpu as usize, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Lowers limits, never raises one above what this process has.
fn resource_limits() {
    for (resource, soft, hard) in [
        (libc::RLIMIT_CORE, 0, 0),
        (libc::RLIMIT_NOFILE, 16_384, 1 << 20),
        (libc::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
        (libc::RLIMIT_RTPRIO, 0, 0),
        (libc::RLIMIT_NICE, 0, 0),
    ] {
        // SAFETY: the structure is valid for both calls.
        unsafe {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::getrlimit(resource, &raw mut limit) == 0 {
                limit.rlim_max = limit.rlim_max.min(hard);
                limit.rlim_cur = limit.rlim_max.min(soft);
                libc::setrlimit(resource, &raw const limit);
            }
        }
    }
}

/// Leaves 0–2 on `/dev/null`, 3 the socket, 4 the agent program (closed by its start), and nothing else.
fn descriptors(world: &World, inside: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: descriptors are duplicated out of the way before their numbers are reused.
    unsafe {
        let socket = libc::fcntl(inside.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        check(socket)?;
        let agent = libc::fcntl(world.agent.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        check(agent)?;
        check(libc::dup3(agent, 4, libc::O_CLOEXEC))?;
        check(libc::dup2(socket, 3))?;
        check(libc::syscall(libc::SYS_close_range, 5, u32::MAX, 0))?;
    }
    Ok(())
}

/// Gives up every capability but the kept ones for good, restores signals, and loads the filter.
fn drop_power(world: &World) -> Step {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let kept = KEPT.iter().fold(0u64, |bits, capability| bits | 1 << capability);
    let halves = |bits: u64| [bits as u32, (bits >> 32) as u32];
    let [low, high] = halves(kept);
    // effective, permitted, inheritable; low and high words.
    let data: [[u32; 3]; 2] = [[low, low, 0], [high, high, 0]];
    let header = Header { version: 0x2008_0522, pid: 0 };
    // SAFETY: the header and data have the layout of capset(2) version 3; the rest takes no pointers but the sigset.
    unsafe {
        for capability in (0..64).filter(|capability| kept & (1 << capability) == 0) {
            // EINVAL from the first number that this kernel does not know.
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()))
            .map_err(at("capabilities"))?;
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map_err(at("no new privileges"))?;
        // Set again: changing credentials cleared it.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    }
    world.filter.apply().map_err(|_| ("seccomp", io::Error::last_os_error()))
}
