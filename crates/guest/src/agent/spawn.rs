//! Starting one command: clone, become the user, exec.

use std::{
    ffi::{CString, c_char, c_int, c_void},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
};

/// How far a payload's chance of being chosen by the OOM killer is raised above its agent's.
const OOM_SCORE: &[u8] = b"500";
/// Bytes of stack for a child until it executes its program: it calls little and keeps nothing large.
const STACK: usize = 64 * 1024;

/// One command.
pub(crate) struct Order<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a [String],
    pub(crate) cwd: &'a str,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) stdin: bool,
}

struct Prepared {
    programs: Vec<CString>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// The shell and its arguments, for a script that names no interpreter; the script's place is the second.
    shell: Vec<*const c_char>,
    cwd: CString,
    _owned: Vec<CString>,
}

fn text(value: &str) -> io::Result<CString> {
    CString::new(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn pointers(values: &[CString]) -> Vec<*const c_char> {
    values.iter().map(|value| value.as_ptr()).chain([ptr::null()]).collect()
}

/// Everything that allocates, before the clone: candidate programs along PATH, argument and environment vectors.
fn prepare(order: &Order<'_>) -> io::Result<Prepared> {
    let name = order.argv.first().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let programs = if name.contains('/') {
        vec![text(name)?]
    } else {
        let path =
            order.env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin");
        path.split(':')
            .map(|directory| text(&format!("{}/{name}", if directory.is_empty() { "." } else { directory })))
            .collect::<io::Result<_>>()?
    };
    let argv: Vec<CString> = order.argv.iter().map(|value| text(value)).collect::<io::Result<_>>()?;
    let env: Vec<CString> = order.env.iter().map(|value| text(value)).collect::<io::Result<_>>()?;
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    let mut shell = vec![c"/bin/sh".as_ptr(), ptr::null()];
    shell.extend_from_slice(&argv_pointers[1..]);
    let owned = argv.into_iter().chain(env).collect();
    Ok(Prepared {
        programs,
        argv: argv_pointers,
        env: env_pointers,
        shell,
        cwd: text(order.cwd)?,
        _owned: owned,
    })
}

/// A step on the way to the program that failed, and its errno.
pub(crate) type Failure = (&'static str, i32);

/// What a child works on.
struct Job<'a> {
    order: &'a Order<'a>,
    prepared: Prepared,
    fds: &'a [OwnedFd],
    failure: Option<Failure>,
}

/// Starts commands, one at a time.
pub(crate) struct Spawner {
    /// Never written to but by children: memory comes with the first use of each page.
    stack: Box<[MaybeUninit<u128>]>,
}

impl Spawner {
    pub(crate) fn new() -> Self {
        Self { stack: Box::new_uninit_slice(STACK / size_of::<u128>()) }
    }

    /// Starts a command with `fds` as its standard output, standard error and (if `stdin`) standard input. Returns when
    /// it executes its program, or could not: then its child has ended, or is about to, with 126 or 127.
    ///
    /// The child shares this process's memory until then, and this process waits: copying the page tables and then the
    /// pages that either writes to costs more than all of the rest. A guest that stops the child in that moment has
    /// stopped this agent too; a kill that the agent does not answer ends the container.
    ///
    /// # Errors
    /// When the frame's strings or descriptors are not as promised, or the process limit is reached.
    pub(crate) fn spawn(&mut self, order: &Order<'_>, fds: &[OwnedFd]) -> io::Result<(i32, Option<Failure>)> {
        if fds.len() != 2 + usize::from(order.stdin) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let mut job = Job { order, prepared: prepare(order)?, fds, failure: None };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack is this spawner's and nobody else's until the call returns, since CLONE_VFORK makes it
        // return only when the child has left this memory; until then `job` lives and only the child touches it.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr_range().end;
            let pid = libc::clone(child, top.cast(), flags, (&raw mut job).cast());
            // With a host's `fs.suid_dumpable` the child's change of user may have made this memory dumpable.
            libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
            pid
        };
        if pid < 0 { Err(io::Error::last_os_error()) } else { Ok((pid, job.failure)) }
    }
}

/// The child's life before its program; its exit code when there will be none.
extern "C" fn child(job: *mut c_void) -> c_int {
    // SAFETY: `spawn` gave a pointer to a job that lives, and that nobody else touches, for as long as this runs.
    let job = unsafe { &mut *job.cast::<Job<'_>>() };
    let failure = become_command(job.order, &mut job.prepared, job.fds);
    job.failure = Some(failure);
    if failure == ("exec", libc::ENOENT) { 127 } else { 126 }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Runs in the child; returns only on failure, with the step and its errno.
fn become_command(order: &Order<'_>, prepared: &mut Prepared, fds: &[OwnedFd]) -> Failure {
    // SAFETY: system calls on descriptors and NUL-terminated strings that live until exec; the process has one thread.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::setsid();
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        // Orphans of this command come to it while it lives, so that its whole tree can be found and killed.
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            libc::write(score, OOM_SCORE.as_ptr().cast(), OOM_SCORE.len());
            libc::close(score);
        }
        let input = match fds.get(2) {
            Some(fd) => fd.as_raw_fd(),
            None => libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC),
        };
        // All numbers here are above 3 (0 to 3 are taken in the agent), so no dup2 overwrites a source.
        if input < 0
            || libc::dup2(input, 0) < 0
            || libc::dup2(fds[0].as_raw_fd(), 1) < 0
            || libc::dup2(fds[1].as_raw_fd(), 2) < 0
        {
            return ("stdio", errno());
        }
        let groups = [order.gid];
        if libc::setgroups(1, groups.as_ptr()) != 0
            || libc::setresgid(order.gid, order.gid, order.gid) != 0
            || libc::setresuid(order.uid, order.uid, order.uid) != 0
        {
            return ("user", errno());
        }
        if libc::chdir(prepared.cwd.as_ptr()) != 0 {
            return ("cwd", errno());
        }
        let mut worst = libc::ENOENT;
        for program in &prepared.programs {
            libc::execve(program.as_ptr(), prepared.argv.as_ptr(), prepared.env.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::ENOEXEC => {
                    prepared.shell[1] = program.as_ptr();
                    libc::execve(c"/bin/sh".as_ptr(), prepared.shell.as_ptr(), prepared.env.as_ptr());
                    return ("exec", errno());
                }
                other => worst = other,
            }
        }
        ("exec", worst)
    }
}
