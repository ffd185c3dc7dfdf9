//! Starting one command: fork, become the user, exec.

use isopod_guest::{
    frames::{FromAgent, encode},
    socket,
};
use std::{
    ffi::{CString, c_char},
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    ptr,
};

/// How far a payload's chance of being chosen by the OOM killer is raised above its agent's.
const OOM_SCORE: &[u8] = b"500";

/// One command.
pub(crate) struct Order<'a> {
    pub(crate) exec: &'a str,
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
    cwd: CString,
    _owned: Vec<CString>,
}

fn text(value: &str) -> io::Result<CString> {
    CString::new(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn pointers(values: &[CString]) -> Vec<*const c_char> {
    values.iter().map(|value| value.as_ptr()).chain([ptr::null()]).collect()
}

/// Everything that allocates, before the fork: candidate programs along PATH, argument and environment vectors.
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
    let owned = argv.into_iter().chain(env).collect();
    Ok(Prepared { programs, argv: argv_pointers, env: env_pointers, cwd: text(order.cwd)?, _owned: owned })
}

/// Starts a command with `fds` as its standard output, standard error and (if `stdin`) standard input.
///
/// # Errors
/// When the frame's strings or descriptors are not as promised, or the process limit is reached. What fails after the
/// fork is reported to the server by the child itself as [`FromAgent::Failed`], and ends with 126 or 127.
pub(crate) fn spawn(order: &Order<'_>, fds: &[OwnedFd], report: BorrowedFd<'_>) -> io::Result<i32> {
    if fds.len() != 2 + usize::from(order.stdin) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    let prepared = prepare(order)?;
    // SAFETY: this process has one thread, so the child may go on as it is; it only execs or exits.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let (step, errno) = become_command(order, &prepared, fds);
            let frame = FromAgent::Failed { exec: order.exec.to_owned(), step: step.to_owned(), errno };
            if let Ok(bytes) = encode(&frame) {
                let _ = socket::send(report, &bytes, &[], false);
            }
            let code = if errno == libc::ENOENT && step == "exec" { 127 } else { 126 };
            // SAFETY: ends the child without running the agent's destructors.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Runs in the child; returns only on failure, with the step and its errno.
fn become_command(order: &Order<'_>, prepared: &Prepared, fds: &[OwnedFd]) -> (&'static str, i32) {
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
                    let mut argv = vec![c"/bin/sh".as_ptr(), program.as_ptr()];
                    argv.extend_from_slice(&prepared.argv[1..]);
                    libc::execve(c"/bin/sh".as_ptr(), argv.as_ptr(), prepared.env.as_ptr());
                    return ("exec", errno());
                }
                other => worst = other,
            }
        }
        ("exec", worst)
    }
}
