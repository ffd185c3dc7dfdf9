//! PID 1 of a sandbox: starts commands, reaps everything, reports each exit until it is acknowledged.
//!
//! It is single-threaded, has nothing of the host, and runs under the sandbox's own seccomp filter and limits; the
//! server treats what it says as hostile. It must never block on its socket: while the server is away, exits are kept.

mod spawn;
mod tree;

use isopod_guest::{
    frames::{FromAgent, ToAgent, decode, encode},
    socket,
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    process::exit,
};

/// The descriptor that the launcher leaves the agent's socket on.
const SOCKET: i32 = 3;

struct Agent {
    socket: OwnedFd,
    spawner: spawn::Spawner,
    running: BTreeMap<i32, String>,
    ended: BTreeMap<String, i32>,
    /// A frame could not be sent; an inventory follows as soon as there is room.
    behind: bool,
}

fn main() {
    // SAFETY: prctl with these options reads no memory; the socket was left open on this number by the launcher.
    let socket = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // Not dumpable: guests with the same uid can neither trace this process nor open its /proc entries.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::prctl(libc::PR_SET_NAME, c"isopod-agent".as_ptr(), 0, 0, 0);
        // No guest may inherit the way to the server.
        libc::fcntl(SOCKET, libc::F_SETFD, libc::FD_CLOEXEC);
        OwnedFd::from_raw_fd(SOCKET)
    };
    let signals = match block_signals() {
        Ok(signals) => signals,
        Err(_) => exit(70),
    };
    let mut agent = Agent {
        socket,
        spawner: spawn::Spawner::new(),
        running: BTreeMap::new(),
        ended: BTreeMap::new(),
        behind: false,
    };
    agent.send(&FromAgent::Ready);
    // Before the first command, but nobody needs to wait for it.
    name_host();
    let mut buffer = socket::buffer();
    loop {
        let mut polls = [
            libc::pollfd {
                fd: agent.socket.as_raw_fd(),
                events: libc::POLLIN | if agent.behind { libc::POLLOUT } else { 0 },
                revents: 0,
            },
            libc::pollfd { fd: signals.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: `polls` is an array of two initialised pollfds.
        unsafe { libc::poll(polls.as_mut_ptr(), 2, -1) };
        if polls[1].revents != 0 {
            drain(signals.as_fd());
            agent.reap();
        }
        if polls[0].revents & libc::POLLOUT != 0 && agent.behind {
            agent.inventory();
        }
        if polls[0].revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0 {
            match socket::receive(agent.socket.as_fd(), &mut buffer, false) {
                Ok(Some((length, fds))) => {
                    if let Ok(frame) = decode::<ToAgent>(&buffer[..length]) {
                        agent.handle(frame, fds);
                    }
                }
                // Launcher and server are both gone: nobody can reach this sandbox any more.
                Ok(None) => exit(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => exit(71),
            }
        }
    }
}

impl Agent {
    fn handle(&mut self, frame: ToAgent, fds: Vec<OwnedFd>) {
        match frame {
            ToAgent::Exec { exec, argv, env, cwd, uid, gid, stdin } => {
                let order = spawn::Order { argv: &argv, env: &env, cwd: &cwd, uid, gid, stdin };
                match self.spawner.spawn(&order, &fds) {
                    Ok((pid, failure)) => {
                        if let Some((step, errno)) = failure {
                            self.send(&FromAgent::Failed { exec: exec.clone(), step: step.into(), errno });
                        }
                        self.running.insert(pid, exec);
                    }
                    Err(error) => {
                        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                        self.send(&FromAgent::Failed { exec: exec.clone(), step: "fork".into(), errno });
                        self.end(exec, 126 << 8);
                    }
                }
            }
            ToAgent::Signal { exec, signal, tree } => {
                if let Some((&pid, _)) = self.running.iter().find(|(_, name)| **name == exec) {
                    tree::signal(pid, signal, tree);
                }
            }
            ToAgent::Acknowledge { exec } => {
                self.ended.remove(&exec);
            }
            ToAgent::List => self.inventory(),
        }
    }

    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid int for waitpid to fill.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            if let Some(exec) = self.running.remove(&pid) {
                self.end(exec, status);
            }
        }
    }

    fn end(&mut self, exec: String, status: i32) {
        self.ended.insert(exec.clone(), status);
        self.send(&FromAgent::Exited { exec, status });
    }

    fn inventory(&mut self) {
        self.behind = false;
        let frame = FromAgent::Inventory {
            running: self.running.values().cloned().collect(),
            ended: self.ended.iter().map(|(exec, status)| (exec.clone(), *status)).collect(),
        };
        self.send(&frame);
    }

    fn send(&mut self, frame: &FromAgent) {
        let sent = encode(frame).and_then(|bytes| socket::send(self.socket.as_fd(), &bytes, &[], false));
        if sent.is_err() {
            self.behind = true;
        }
    }
}

/// Blocks SIGCHLD and ignores the rest that can be ignored; exits come through the returned descriptor.
fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a descriptor that is ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Makes the sandbox's own name resolve, unless somebody inside has arranged that already.
fn name_host() {
    let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") else { return };
    let known = std::fs::read_to_string("/etc/hostname").is_ok_and(|known| known == name);
    if !known {
        let name = name.trim();
        let hosts =
            format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{name}\n");
        let _ = std::fs::write("/etc/hosts", hosts);
        let _ = std::fs::write("/etc/hostname", format!("{name}\n"));
    }
}

fn drain(fd: BorrowedFd<'_>) {
    let mut space = [0u8; 1024];
    // SAFETY: reads into a buffer of the given length.
    while unsafe { libc::read(fd.as_raw_fd(), space.as_mut_ptr().cast(), space.len()) } > 0 {}
}
