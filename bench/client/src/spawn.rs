//! Starting processes as a host does without a sandbox.

use crate::Outcome;
use std::{
    ffi::{CString, c_char},
    io, ptr, thread,
    time::{Duration, Instant},
};

/// How a process is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `fork` and `execve`.
    Fork,
    /// `posix_spawn`, which glibc makes of a clone that shares memory.
    PosixSpawn,
}

impl How {
    pub(crate) fn parse(word: &str) -> Outcome<Self> {
        match word {
            "fork" => Ok(Self::Fork),
            "posix_spawn" => Ok(Self::PosixSpawn),
            other => Err(format!("no such way to start a process: {other}").into()),
        }
    }
}

struct Command {
    words: Vec<CString>,
}

impl Command {
    fn new(words: &[&str]) -> Outcome<Self> {
        let words = words.iter().map(|word| CString::new(*word)).collect::<Result<Vec<_>, _>>()?;
        if words.is_empty() { Err("no program".into()) } else { Ok(Self { words }) }
    }

    fn pointers(&self) -> Vec<*mut c_char> {
        self.words.iter().map(|word| word.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    }

    /// Starts it with `environment`; its process id.
    fn start(
        &self,
        how: How,
        argv: &[*mut c_char],
        environment: *const *mut c_char,
    ) -> io::Result<libc::pid_t> {
        if how == How::Fork {
            // SAFETY: takes no pointers.
            return match unsafe { libc::fork() } {
                -1 => Err(io::Error::last_os_error()),
                // SAFETY: the child only calls execve and _exit, with NUL-terminated strings made before.
                0 => unsafe {
                    libc::execve(argv[0], argv.as_ptr().cast(), environment.cast());
                    libc::_exit(127)
                },
                pid => Ok(pid),
            };
        }
        let mut pid = 0;
        // SAFETY: both vectors end with null; without attributes and actions everything is inherited.
        let error = unsafe {
            libc::posix_spawn(&raw mut pid, argv[0], ptr::null(), ptr::null(), argv.as_ptr(), environment)
        };
        if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

/// Waits for the end of a child; its wait status.
fn wait(pid: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid int for waitpid to fill.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}

/// Runs a program `count` times in each of `threads` threads, with a pause after each; the time of each run from its
/// start to its reaping.
pub(crate) fn many(
    how: How,
    count: usize,
    threads: usize,
    gap: Duration,
    program: &[&str],
) -> Outcome<Vec<Duration>> {
    let one = || -> Result<Vec<Duration>, String> {
        let command = Command::new(program).map_err(|error| error.to_string())?;
        let argv = command.pointers();
        let environment =
            [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin".as_ptr().cast_mut(), ptr::null_mut()];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            let ended = command.start(how, &argv, environment.as_ptr()).and_then(wait);
            times.push(begun.elapsed());
            thread::sleep(gap);
            match ended {
                Ok(0) => {}
                Ok(status) => {
                    return Err(format!("{} ended with the wait status {status}", program.join(" ")));
                }
                Err(error) => return Err(format!("{}: {error}", program.join(" "))),
            }
        }
        Ok(times)
    };
    if threads <= 1 {
        return Ok(one()?);
    }
    let all: Result<Vec<_>, String> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect()
    });
    Ok(all?.into_iter().flatten().collect())
}

/// Starts a program with this process's own environment; its process id.
pub(crate) fn start(program: &[&str]) -> Outcome<libc::pid_t> {
    let command = Command::new(program)?;
    // SAFETY: nobody changes the environment of this process.
    let environment = unsafe { ENVIRON };
    Ok(command.start(How::PosixSpawn, &command.pointers(), environment)?)
}

unsafe extern "C" {
    #[link_name = "environ"]
    static ENVIRON: *const *mut c_char;
}
