//! The frames between server, launcher and agent: one postcard-encoded value per SOCK_SEQPACKET message.
//!
//! File descriptors travel beside a frame as SCM_RIGHTS, in the order that its documentation names. The server trusts
//! the launcher; neither trusts the agent, whose frames may hold anything.

use serde::{Deserialize, Serialize};

/// The version of these frames. The first frame of a connection carries it; a launcher that outlived its server is
/// replaced only when it is idle, so a newer server must go on speaking to it or refuse with a clear error.
pub const VERSION: u32 = 1;

/// The longest frame that is ever sent or accepted, in bytes.
pub const MAX_FRAME: usize = 160 * 1024;

/// The most descriptors that travel with one frame.
pub const MAX_FDS: usize = 32;

/// The exit code of a launcher that found another one on its data directory.
pub const LOCKED: i32 = 3;

/// Descriptors of one exec that the launcher keeps, by their place in [`ToLauncher::Hold`].
pub mod held {
    /// The read end of standard output.
    pub const STDOUT: u8 = 0;
    /// The read end of standard error.
    pub const STDERR: u8 = 1;
    /// The write end of standard input.
    pub const STDIN: u8 = 2;
}

/// The layers that a slot's root file system is made of; paths are the host's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layers {
    /// First uid and gid of the sandbox on disk; 65,536 belong to it.
    pub uid_base: u32,
    /// Read-only layers of `/`, the topmost first.
    pub root_lowers: Vec<String>,
    /// Read-only layers of `/usr`, the topmost first.
    pub usr_lowers: Vec<String>,
    /// The slot's directory in the volume; holds `upper`, `work` and `work-usr`.
    pub slot_directory: String,
}

/// What one sandbox is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartSpec {
    /// The sandbox's id, which becomes its host name.
    pub sandbox: String,
    /// The slot prepared for it.
    pub slot: u32,
    /// First uid and gid on disk.
    pub uid_base: u32,
    /// Directory with `meminfo`, `cpuinfo` and `sys/` as the sandbox shall see them.
    pub view: String,
    /// CPUs of the host that it may run on.
    pub cpus: Vec<u32>,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Whether a v2 cgroup directory was sent.
    pub into_cgroup: bool,
}

/// From the server to the launcher.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToLauncher {
    /// The first frame. Descriptors: the server's directory in each hierarchy of control groups, with `ephemeral` only.
    /// Answer: [`FromLauncher::Hello`], then the inventory up to [`FromLauncher::InventoryEnd`].
    Hello {
        /// [`VERSION`] of the server.
        version: u32,
        /// End every sandbox when the server goes away, and remove its control groups.
        ephemeral: bool,
    },
    /// Mounts the volume. Descriptors: the detached mount. Answer: [`FromLauncher::Volume`].
    AttachVolume,
    /// Makes the root file system of a slot ahead of its use. Answer: [`FromLauncher::Prepared`] or `Failed`.
    Prepare {
        /// Echoed in the answer.
        call: u64,
        /// The slot.
        slot: u32,
        /// What it is made of.
        layers: Layers,
    },
    /// Throws away what was prepared for a slot. No answer.
    Discard {
        /// The slot.
        slot: u32,
    },
    /// Starts a sandbox on a prepared slot. Descriptors: its network namespace; with `into_cgroup` the directory of its
    /// v2 cgroup; then the `tasks` file of each v1 cgroup to join. Answer: [`FromLauncher::Started`] or `Failed`. What
    /// fails later, inside, comes from the agent socket as [`FromAgent::Failed`] with an empty exec.
    Start {
        /// Echoed in the answer.
        call: u64,
        /// What to start.
        spec: StartSpec,
    },
    /// Keeps descriptors of an exec until `Release`. Descriptors: those named by `slots`. No answer.
    Hold {
        /// The sandbox.
        sandbox: String,
        /// The exec.
        exec: String,
        /// What each descriptor is (see [`held`]).
        slots: Vec<u8>,
    },
    /// Closes descriptors of an exec: those named, or all. No answer.
    Release {
        /// The sandbox.
        sandbox: String,
        /// The exec.
        exec: String,
        /// One descriptor only.
        slot: Option<u8>,
    },
    /// The server leaves for good: a launcher without sandboxes leaves at once instead of waiting for the next server.
    Leave,
    /// Closes everything of a dead sandbox and forgets it. No answer.
    Forget {
        /// The sandbox.
        sandbox: String,
    },
}

/// From the launcher to the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromLauncher {
    /// The answer to `Hello`.
    Hello {
        /// [`VERSION`] of the launcher.
        version: u32,
        /// Whether the volume is mounted. Descriptors if so: its root directory.
        volume: bool,
    },
    /// A sandbox that is up or whose end nobody has heard of yet. Descriptors: agent socket, pidfd, root directory.
    Sandbox {
        /// Its id.
        sandbox: String,
        /// Its slot.
        slot: u32,
        /// First uid and gid on disk.
        uid_base: u32,
        /// PID of its agent on the host.
        pid: i32,
    },
    /// Descriptors held for an exec.
    Held {
        /// The sandbox.
        sandbox: String,
        /// The exec.
        exec: String,
        /// What each descriptor is.
        slots: Vec<u8>,
    },
    /// The inventory is complete.
    InventoryEnd,
    /// The volume is mounted. Descriptors: its root directory.
    Volume,
    /// The slot is ready.
    Prepared {
        /// The call answered.
        call: u64,
    },
    /// The sandbox is up. Descriptors: agent socket, pidfd, root directory.
    Started {
        /// The call answered.
        call: u64,
        /// PID of its agent on the host.
        pid: i32,
    },
    /// The call failed; nothing of it is left.
    Failed {
        /// The call answered (0 for `AttachVolume`).
        call: u64,
        /// The step that failed.
        step: String,
        /// The errno of that step.
        errno: i32,
    },
    /// The agent of a sandbox is dead, and with it everything inside.
    Died {
        /// The sandbox.
        sandbox: String,
        /// Its wait status.
        status: i32,
    },
}

/// From the server to an agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToAgent {
    /// Runs a command. Descriptors: standard output, standard error, and standard input if `stdin`.
    Exec {
        /// The exec's id.
        exec: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Environment, `NAME=value`.
        env: Vec<String>,
        /// Working directory.
        cwd: String,
        /// User inside.
        uid: u32,
        /// Group inside.
        gid: u32,
        /// Whether standard input was sent; `/dev/null` otherwise.
        stdin: bool,
    },
    /// Sends a signal to an exec's first process, or to it and all its descendants.
    Signal {
        /// The exec.
        exec: String,
        /// The signal.
        signal: i32,
        /// All descendants too.
        tree: bool,
    },
    /// The exit was recorded; the agent may forget it.
    Acknowledge {
        /// The exec.
        exec: String,
    },
    /// Asks for [`FromAgent::Inventory`].
    List,
}

/// From an agent to the server. Hostile: only the form is certain after decoding.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromAgent {
    /// The agent serves.
    Ready,
    /// A command could not be started; its exit follows.
    Failed {
        /// The exec.
        exec: String,
        /// Where: `exec`, `cwd`, `fork`, `user`.
        step: String,
        /// The errno.
        errno: i32,
    },
    /// An exec's first process was reaped. Repeated in inventories until acknowledged.
    Exited {
        /// The exec.
        exec: String,
        /// Its wait status.
        status: i32,
    },
    /// What runs and what has ended unacknowledged.
    Inventory {
        /// Execs whose first process lives.
        running: Vec<String>,
        /// Ended ones with their wait status.
        ended: Vec<(String, i32)>,
    },
}

/// Encodes a frame.
///
/// # Errors
/// When it is longer than [`MAX_FRAME`].
pub fn encode<T: Serialize>(frame: &T) -> std::io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(frame).map_err(std::io::Error::other)?;
    if bytes.len() > MAX_FRAME {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the frame is too long"));
    }
    Ok(bytes)
}

/// Decodes a frame; the whole message must be one value.
///
/// # Errors
/// When it is not a frame of this version.
pub fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> std::io::Result<T> {
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((frame, [])) => Ok(frame),
        Ok(_) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "bytes after the frame")),
        Err(error) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused_and_never_panics() {
        let good = encode(&FromAgent::Exited { exec: "ex1".into(), status: 256 }).expect("short");
        assert!(matches!(decode::<FromAgent>(&good), Ok(FromAgent::Exited { status: 256, .. })));
        for cut in 0..good.len() {
            assert!(decode::<FromAgent>(&good[..cut]).is_err());
        }
        let mut long = good;
        long.push(0);
        assert!(decode::<FromAgent>(&long).is_err());
        // A length that claims more than there is must not allocate it.
        assert!(decode::<FromAgent>(&[3, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..(seed % 64))
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33) as u8
                })
                .collect();
            let _ = decode::<FromAgent>(&bytes);
            let _ = decode::<ToAgent>(&bytes);
            seed = seed.wrapping_add(1);
        }
    }
}
