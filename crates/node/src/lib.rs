//! Runs sandboxes on one machine. Knows neither users nor the platform's database.
//!
//! [`LocalNode`] is the `Node` of this machine: a map of sandboxes, each with a directory of its own, and the tiers
//! they live in. What a sandbox is in is `tiers/`; what it leaves behind is `journal/`, `log/` and `files/`.

mod doctor;
mod exec;
pub mod files;
pub mod images;
pub mod journal;
pub mod log;
mod node;
mod output;
mod sandbox;
mod seam;
pub mod tiers;
mod upkeep;
pub mod volume;

pub use doctor::doctor;
pub use node::LocalNode;

use std::path::PathBuf;

/// The two guest programs, as the build made them.
#[derive(Debug, Clone, Copy)]
pub struct GuestPrograms {
    /// Starts containers and keeps their descriptors.
    pub launcher: &'static [u8],
    /// PID 1 of a container.
    pub agent: &'static [u8],
}

/// What a node is opened with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Size of the volume that sandboxes write to, in MiB; most of what the host has free when absent.
    pub disk_mib: Option<u64>,
    /// How many slots to keep ready.
    pub pool: usize,
    /// How many sandboxes may run at once; computed from the host when absent.
    pub max_sandboxes: Option<u64>,
    /// End every sandbox when this process goes away, however it goes.
    pub ephemeral: bool,
    /// The guest programs.
    pub guest: GuestPrograms,
}

/// What a failed step on the host means for the caller: a full disk passes, the rest is a fault.
fn host_fault(step: &str, error: &std::io::Error) -> isopod_model::Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            isopod_model::Error::NoCapacity { reason: "the node's disk is full".into(), retry_after_s: 30 }
        }
        _ => isopod_model::Error::internal(format!("{step}: {error}")),
    }
}
