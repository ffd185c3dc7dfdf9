//! The launcher: one small single-threaded process per data directory that starts sandboxes and outlives the server.
//!
//! It is the parent of every agent and keeps the host's ends of their descriptors, so that nothing in a sandbox dies
//! with the server. All mounts live in its own mount namespace: when it dies they are gone, whatever killed it. It
//! leaves when no server is connected and no sandbox is left.
//!
//! Called as `launcher <data directory> <descriptor of the agent program>`; becomes a daemon at once.

mod child;
mod filter;
mod seccomp;
mod slot;
mod sys;
mod world;

use isopod_guest::{
    frames::{FromLauncher, LOCKED, ToLauncher, VERSION, decode, encode},
    socket,
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::PathBuf,
    process::exit,
};

/// Why a launcher does not start where another one is.
const ANOTHER: &str = "another launcher has this data directory";

/// One sandbox whose agent was started here.
struct Sandbox {
    slot: u32,
    uid_base: u32,
    pid: i32,
    agent: OwnedFd,
    pidfd: OwnedFd,
    root: OwnedFd,
    held: BTreeMap<String, BTreeMap<u8, OwnedFd>>,
    died: Option<i32>,
}

struct Launcher {
    world: world::World,
    listener: OwnedFd,
    server: Option<OwnedFd>,
    ephemeral: bool,
    /// Control groups to remove when an ephemeral server goes away.
    groups: Vec<OwnedFd>,
    prepared: BTreeMap<u32, slot::Prepared>,
    sandboxes: BTreeMap<String, Sandbox>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(data), Some(agent)) =
        (arguments.next(), arguments.next().and_then(|text| text.parse::<i32>().ok()))
    else {
        eprintln!("usage: launcher <data directory> <descriptor of the agent program>");
        exit(2);
    };
    // SAFETY: the server left the agent program open on this number for us.
    let agent = unsafe { OwnedFd::from_raw_fd(agent) };
    match start(PathBuf::from(data), agent) {
        Ok(mut launcher) => launcher.serve(),
        Err((step, error)) => {
            eprintln!("launcher: {step}: {error}");
            exit(if step == ANOTHER { LOCKED } else { 1 });
        }
    }
}

fn start(data: PathBuf, agent: OwnedFd) -> Result<Launcher, (&'static str, io::Error)> {
    let path = data.join("launcher.sock");
    let at = |step| move |error| (step, error);
    let lock =
        fs::File::options().create(true).append(true).open(data.join("launcher.lock")).map_err(at("lock"))?;
    lock.try_lock().map_err(|error| (ANOTHER, error.into()))?;
    // Holds the lock for as long as this process and the agents it is still to fork live.
    let lock: OwnedFd = lock.into();
    let _ = fs::remove_file(&path);
    let world = world::World::make(&data, agent, lock).map_err(|error| ("mount namespace", error))?;
    let listener = world::listen(&path).map_err(at("socket"))?;
    world::become_daemon().map_err(at("daemon"))?;
    Ok(Launcher {
        world,
        listener,
        server: None,
        ephemeral: false,
        groups: Vec::new(),
        prepared: BTreeMap::new(),
        sandboxes: BTreeMap::new(),
    })
}

impl Launcher {
    fn serve(&mut self) -> ! {
        let mut buffer = socket::buffer();
        loop {
            let mut polls = vec![
                poll(Some(self.world.signals.as_fd())),
                poll(if self.server.is_none() { Some(self.listener.as_fd()) } else { None }),
                poll(self.server.as_ref().map(AsFd::as_fd)),
            ];
            // A server has a few seconds to come (back) before an unused launcher leaves.
            let idle = self.server.is_none() && self.sandboxes.is_empty();
            // SAFETY: `polls` holds initialised pollfds.
            let ready =
                unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as u64, if idle { 5000 } else { -1 }) };
            if ready == 0 && idle {
                self.world.clean();
                exit(0);
            }
            if polls[0].revents != 0 {
                self.reap();
            }
            if polls[2].revents != 0 {
                self.receive(&mut buffer);
            }
            if polls[1].revents != 0 && self.server.is_none() {
                self.server = world::accept(self.listener.as_fd()).ok();
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        let Some(server) = &self.server else { return };
        match socket::receive(server.as_fd(), buffer, false) {
            Ok(Some((length, fds))) => match decode::<ToLauncher>(&buffer[..length]) {
                Ok(frame) => self.handle(frame, fds),
                Err(_) => self.server_left(),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.server_left(),
        }
    }

    fn server_left(&mut self) {
        self.server = None;
        self.prepared.clear();
        if self.ephemeral {
            for sandbox in self.sandboxes.values().filter(|sandbox| sandbox.died.is_none()) {
                sandbox.kill();
                // SAFETY: waits for a child of ours, which is dying with all its processes; no status is asked for.
                unsafe { libc::waitpid(sandbox.pid, std::ptr::null_mut(), 0) };
            }
            self.sandboxes.clear();
            world::remove_groups(&self.groups);
            self.world.clean();
            exit(0);
        }
    }

    fn handle(&mut self, frame: ToLauncher, mut fds: Vec<OwnedFd>) {
        match frame {
            ToLauncher::Hello { version: _, ephemeral } => {
                self.ephemeral = ephemeral;
                self.groups = fds;
                self.inventory();
            }
            ToLauncher::AttachVolume => match fds.pop().map(|mount| self.world.attach_volume(&mount)) {
                Some(Ok(())) => self.send_volume(),
                Some(Err(error)) => self.failed(0, "attach volume", &error),
                None => self.failed(0, "attach volume", &io::Error::from_raw_os_error(libc::EBADF)),
            },
            ToLauncher::Prepare { call, slot, layers } => match slot::prepare(&layers) {
                Ok(prepared) => {
                    self.prepared.insert(slot, prepared);
                    self.send(&FromLauncher::Prepared { call }, &[]);
                }
                Err((step, error)) => self.failed(call, step, &error),
            },
            ToLauncher::Discard { slot } => {
                self.prepared.remove(&slot);
            }
            ToLauncher::Start { call, spec } => {
                let Some(prepared) = self.prepared.remove(&spec.slot) else {
                    return self.failed(
                        call,
                        "slot was not prepared",
                        &io::Error::from_raw_os_error(libc::ENOENT),
                    );
                };
                match slot::start(&self.world, &spec, prepared, &fds) {
                    Ok(up) => {
                        let sandbox = Sandbox {
                            slot: spec.slot,
                            uid_base: spec.uid_base,
                            pid: up.pid,
                            agent: up.agent,
                            pidfd: up.pidfd,
                            root: up.root,
                            held: BTreeMap::new(),
                            died: None,
                        };
                        self.send(&FromLauncher::Started { call, pid: up.pid }, &sandbox.descriptors());
                        self.sandboxes.insert(spec.sandbox, sandbox);
                    }
                    Err((step, error)) => self.failed(call, step, &error),
                }
            }
            ToLauncher::Hold { sandbox, exec, slots } => {
                if let Some(sandbox) = self.sandboxes.get_mut(&sandbox) {
                    sandbox.held.entry(exec).or_default().extend(slots.into_iter().zip(fds));
                }
            }
            ToLauncher::Release { sandbox, exec, slot } => {
                if let Some(sandbox) = self.sandboxes.get_mut(&sandbox) {
                    let emptied = match (sandbox.held.get_mut(&exec), slot) {
                        (Some(held), Some(slot)) => {
                            held.remove(&slot);
                            held.is_empty()
                        }
                        _ => true,
                    };
                    if emptied {
                        sandbox.held.remove(&exec);
                    }
                }
            }
            ToLauncher::Leave => {
                if self.sandboxes.is_empty() {
                    self.world.clean();
                    exit(0);
                }
            }
            ToLauncher::Forget { sandbox } => {
                if let Some(sandbox) = self.sandboxes.remove(&sandbox)
                    && sandbox.died.is_none()
                {
                    sandbox.kill();
                }
            }
        }
    }

    fn inventory(&mut self) {
        let volume = self.world.volume_root();
        let fds: Vec<BorrowedFd<'_>> = volume.iter().map(AsFd::as_fd).collect();
        self.send(&FromLauncher::Hello { version: VERSION, volume: volume.is_some() }, &fds);
        for (id, sandbox) in &self.sandboxes {
            let frame = FromLauncher::Sandbox {
                sandbox: id.clone(),
                slot: sandbox.slot,
                uid_base: sandbox.uid_base,
                pid: sandbox.pid,
            };
            self.send(&frame, &sandbox.descriptors());
            for (exec, held) in &sandbox.held {
                let slots = held.keys().copied().collect();
                let fds: Vec<BorrowedFd<'_>> = held.values().map(AsFd::as_fd).collect();
                self.send(&FromLauncher::Held { sandbox: id.clone(), exec: exec.clone(), slots }, &fds);
            }
        }
        self.send(&FromLauncher::InventoryEnd, &[]);
        for (id, sandbox) in &self.sandboxes {
            if let Some(status) = sandbox.died {
                self.send(&FromLauncher::Died { sandbox: id.clone(), status }, &[]);
            }
        }
    }

    fn send_volume(&self) {
        match self.world.volume_root() {
            Some(root) => self.send(&FromLauncher::Volume, &[root.as_fd()]),
            None => self.failed(0, "open volume", &io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    fn failed(&self, call: u64, step: &str, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        self.send(&FromLauncher::Failed { call, step: step.to_owned(), errno }, &[]);
    }

    /// A server that does not read blocks us, one that is gone does not: its end is noticed by the next receive.
    fn send(&self, frame: &FromLauncher, fds: &[BorrowedFd<'_>]) {
        if let Some(server) = &self.server
            && let Ok(bytes) = encode(frame)
        {
            let _ = socket::send(server.as_fd(), &bytes, fds, true);
        }
    }

    fn reap(&mut self) {
        world::drain(self.world.signals.as_fd());
        loop {
            let mut status = 0;
            // SAFETY: `status` is a valid int for waitpid to fill.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let Some((id, sandbox)) = self.sandboxes.iter_mut().find(|(_, sandbox)| sandbox.pid == pid)
            else {
                continue;
            };
            sandbox.died = Some(status);
            let id = id.clone();
            self.send(&FromLauncher::Died { sandbox: id, status }, &[]);
        }
    }
}

impl Sandbox {
    fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.agent.as_fd(), self.pidfd.as_fd(), self.root.as_fd()]
    }

    fn kill(&self) {
        // SAFETY: takes no pointers that it reads.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<u8>(),
                0,
            );
        }
    }
}

fn poll(fd: Option<BorrowedFd<'_>>) -> libc::pollfd {
    libc::pollfd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events: libc::POLLIN, revents: 0 }
}
