//! The server's end of the launcher: finding or starting it, asking it, hearing of deaths.

use super::packets::Packets;
use crate::GuestPrograms;
use isopod_guest::{
    frames::{FromLauncher, LOCKED, Layers, StartSpec, ToLauncher, VERSION},
    socket,
};
use isopod_model::{Error, Result};
use rustix::fs::{MemfdFlags, SealFlags};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// The host's ends of a running container.
#[derive(Debug)]
pub struct Descriptors {
    /// Socket of its agent.
    pub agent: OwnedFd,
    /// Its agent as a process.
    pub pidfd: OwnedFd,
    /// Its root directory.
    pub root: OwnedFd,
    /// PID of its agent on the host.
    pub pid: i32,
}

/// A container that outlived an earlier server.
#[derive(Debug)]
pub struct Survivor {
    /// Its slot.
    pub slot: u32,
    /// Its descriptors.
    pub descriptors: Descriptors,
    /// Kept descriptors of its execs.
    pub held: HashMap<String, HashMap<u8, OwnedFd>>,
}

/// What a launcher had when we came.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Root directory of the volume, if it is mounted.
    pub volume: Option<OwnedFd>,
    /// Containers by sandbox id.
    pub survivors: HashMap<String, Survivor>,
}

/// What the launcher says unasked.
#[derive(Debug)]
pub enum Notice {
    /// A container's agent died with this wait status.
    Died {
        /// The sandbox.
        sandbox: String,
        /// The agent's wait status.
        status: i32,
    },
    /// The launcher is gone, and all its containers with it.
    Lost,
}

/// How long a launcher may take to die.
const DYING_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no connection.
enum Refusal {
    /// A launcher that is going away; another one can be started soon.
    Dying(String),
    /// Trying again does not help.
    Final(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

type Answer = io::Result<(FromLauncher, Vec<OwnedFd>)>;

/// A connected launcher.
#[derive(Debug)]
pub struct Launcher {
    packets: Packets,
    calls: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_call: AtomicU64,
}

impl Launcher {
    /// Connects to the launcher of a data directory, starting one if none is there, and takes its inventory. With
    /// `ephemeral` control groups it ends everything when this connection does, and removes those groups.
    ///
    /// # Errors
    /// When none can be started or it speaks other frames.
    pub async fn connect(
        data: &Path,
        programs: GuestPrograms,
        ephemeral: Option<Vec<OwnedFd>>,
    ) -> Result<(Arc<Self>, Inventory, mpsc::UnboundedReceiver<Notice>)> {
        let hello = ToLauncher::Hello { version: VERSION, ephemeral: ephemeral.is_some() };
        let groups: Vec<BorrowedFd<'_>> = ephemeral.iter().flatten().map(AsFd::as_fd).collect();
        let deadline = tokio::time::Instant::now() + DYING_LIMIT;
        let mut buffer = socket::buffer();
        let (packets, inventory) = loop {
            match greet(data, programs, &hello, &groups, &mut buffer).await {
                // One that is just dying still takes connections, and holds its lock to the last.
                Err(Refusal::Dying(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(Refusal::Dying(why)) => return Err(Error::Unavailable { reason: why }),
                Err(Refusal::Final(error)) => return Err(error),
                Ok(greeted) => break greeted,
            }
        };
        let (notices, heard) = mpsc::unbounded_channel();
        let launcher = Arc::new(Self { packets, calls: Mutex::default(), next_call: AtomicU64::new(1) });
        tokio::spawn(Arc::clone(&launcher).listen(buffer, notices));
        Ok((launcher, inventory, heard))
    }

    async fn listen(self: Arc<Self>, mut buffer: Vec<u8>, notices: mpsc::UnboundedSender<Notice>) {
        while let Ok(Some((frame, fds))) = self.packets.receive::<FromLauncher>(&mut buffer).await {
            let call = match &frame {
                FromLauncher::Died { sandbox, status } => {
                    let _ = notices.send(Notice::Died { sandbox: sandbox.clone(), status: *status });
                    continue;
                }
                FromLauncher::Volume => 0,
                FromLauncher::Prepared { call }
                | FromLauncher::Started { call, .. }
                | FromLauncher::Failed { call, .. } => *call,
                _ => continue,
            };
            if let Some(waiting) = self.waiting().remove(&call) {
                let _ = waiting.send(Ok((frame, fds)));
            }
        }
        for (_, waiting) in self.waiting().drain() {
            let _ = waiting.send(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        let _ = notices.send(Notice::Lost);
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        call: u64,
        frame: &ToLauncher,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(FromLauncher, Vec<OwnedFd>)> {
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(call, sender);
        if let Err(error) = self.packets.send(frame, fds).await {
            self.waiting().remove(&call);
            return Err(Error::Unavailable { reason: format!("the launcher is gone ({error}); try again") });
        }
        match answer.await {
            Ok(Ok((FromLauncher::Failed { step, errno, .. }, _))) => {
                Err(Error::internal(format!("launcher: {step}: {}", io::Error::from_raw_os_error(errno))))
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable { reason: "the launcher died; try again".into() }),
        }
    }

    fn call(&self) -> u64 {
        self.next_call.fetch_add(1, Ordering::Relaxed)
    }

    /// Mounts the volume; gives its root directory.
    ///
    /// # Errors
    /// When the launcher cannot.
    pub async fn attach_volume(&self, mount: BorrowedFd<'_>) -> Result<OwnedFd> {
        let (_, mut fds) = self.ask(0, &ToLauncher::AttachVolume, &[mount]).await?;
        fds.pop().ok_or_else(|| Error::internal("the launcher sent no volume"))
    }

    /// Makes a slot's root file system ahead of its use.
    ///
    /// # Errors
    /// When a mount fails.
    pub async fn prepare(&self, slot: u32, layers: Layers) -> Result<()> {
        let call = self.call();
        self.ask(call, &ToLauncher::Prepare { call, slot, layers }, &[]).await.map(|_| ())
    }

    /// Starts a container on a prepared slot. `fds` as [`ToLauncher::Start`] says.
    ///
    /// # Errors
    /// When it cannot be cloned. What fails inside comes from its agent's socket.
    pub async fn start(&self, spec: StartSpec, fds: &[BorrowedFd<'_>]) -> Result<Descriptors> {
        let call = self.call();
        let (frame, fds) = self.ask(call, &ToLauncher::Start { call, spec }, fds).await?;
        match (frame, <[OwnedFd; 3]>::try_from(fds)) {
            (FromLauncher::Started { pid, .. }, Ok([agent, pidfd, root])) => {
                Ok(Descriptors { agent, pidfd, root, pid })
            }
            _ => Err(Error::internal("the launcher answered a start with something else")),
        }
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub async fn tell(&self, frame: &ToLauncher, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.packets.send(frame, fds).await
    }
}

#[cfg(test)]
impl Launcher {
    /// A launcher whose other end the test holds; nobody answers there.
    pub(super) fn without_process() -> (Arc<Self>, OwnedFd) {
        let (ours, theirs) = socket::pair().expect("socketpair");
        let packets = Packets::new(ours).expect("on the runtime");
        (Arc::new(Self { packets, calls: Mutex::default(), next_call: AtomicU64::new(1) }), theirs)
    }
}

/// Connects to a launcher, started when there is none, and hears what it has.
async fn greet(
    data: &Path,
    programs: GuestPrograms,
    hello: &ToLauncher,
    groups: &[BorrowedFd<'_>],
    buffer: &mut [u8],
) -> Result<(Packets, Inventory), Refusal> {
    let path = data.join("launcher.sock");
    let dying = |error: io::Error| Refusal::Dying(format!("the launcher cannot be reached: {error}"));
    let socket = match connect(&path) {
        Ok(socket) => socket,
        Err(_) => {
            spawn(data, programs).await?;
            connect(&path).map_err(dying)?
        }
    };
    let packets = Packets::new(socket).map_err(Error::internal)?;
    packets.send(hello, groups).await.map_err(dying)?;
    let inventory = take_inventory(&packets, buffer).await?;
    Ok((packets, inventory))
}

async fn take_inventory(packets: &Packets, buffer: &mut [u8]) -> Result<Inventory, Refusal> {
    let mut inventory = Inventory::default();
    loop {
        let (frame, mut fds) = match packets.receive::<FromLauncher>(buffer).await {
            Ok(Some(received)) => received,
            Ok(None) => return Err(Refusal::Dying("the launcher left during its inventory".into())),
            Err(error) => return Err(Refusal::Dying(format!("the launcher broke off: {error}"))),
        };
        match frame {
            FromLauncher::Hello { version, volume } => {
                if version != VERSION {
                    let reason = format!(
                        "a launcher of another version ({version}, ours is {VERSION}) still runs sandboxes"
                    );
                    return Err(Error::Unavailable { reason }.into());
                }
                inventory.volume = if volume { fds.pop() } else { None };
            }
            FromLauncher::Sandbox { sandbox, slot, pid, .. } => {
                if let Ok([agent, pidfd, root]) = <[OwnedFd; 3]>::try_from(fds) {
                    let descriptors = Descriptors { agent, pidfd, root, pid };
                    inventory.survivors.insert(sandbox, Survivor { slot, descriptors, held: HashMap::new() });
                }
            }
            FromLauncher::Held { sandbox, exec, slots } => {
                if let Some(survivor) = inventory.survivors.get_mut(&sandbox) {
                    survivor.held.insert(exec, slots.into_iter().zip(fds).collect());
                }
            }
            FromLauncher::InventoryEnd => return Ok(inventory),
            _ => {}
        }
    }
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// A program in memory that nobody can change any more.
fn sealed(name: &str, program: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(program)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Starts a launcher; returns when it listens (its first process leaves then).
async fn spawn(data: &Path, programs: GuestPrograms) -> Result<(), Refusal> {
    let launcher = sealed("isopod-launcher", programs.launcher).map_err(Error::internal)?;
    let agent = sealed("isopod-agent", programs.agent).map_err(Error::internal)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", launcher.as_fd().as_raw_fd()));
    command.arg0("isopod-launcher").arg(data).arg(agent.as_fd().as_raw_fd().to_string());
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let output = command.output();
        drop((launcher, agent));
        output
    })
    .await
    .map_err(Error::internal)?
    .map_err(|error| Error::internal(format!("starting the launcher: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let reason = format!("the launcher did not start: {said}");
    if output.status.code() == Some(LOCKED) {
        return Err(Refusal::Dying(reason));
    }
    Err(Error::Unavailable { reason }.into())
}
