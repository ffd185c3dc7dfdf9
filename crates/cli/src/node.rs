//! How this process opens the node it carries.

use crate::{
    failure::{Failure, Outcome},
    guest_programs,
    system::{SystemClock, SystemEntropy},
};
use isopod_node::{GuestPrograms, LocalNode, NodeSettings};
use isopod_node_api::{HostReport, Node};
use std::{path::PathBuf, sync::Arc};

/// What differs between the node of a server and that of one run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where everything lives.
    pub(crate) data_dir: PathBuf,
    /// Size of the volume.
    pub(crate) disk_mib: Option<u64>,
    /// How many namespaces and subvolumes to keep ready.
    pub(crate) pool: usize,
    /// How many sandboxes may run.
    pub(crate) max_sandboxes: Option<u64>,
    /// Nothing outlives this process.
    pub(crate) ephemeral: bool,
}

/// Opens the node.
///
/// # Errors
/// What the node says, such as another server on the same data directory.
pub(crate) async fn open(options: Options) -> Outcome<Arc<dyn Node>> {
    let settings = NodeSettings {
        data_dir: options.data_dir,
        disk_mib: options.disk_mib,
        pool: options.pool,
        max_sandboxes: options.max_sandboxes,
        ephemeral: options.ephemeral,
        guest: GuestPrograms { launcher: guest_programs::LAUNCHER, agent: guest_programs::AGENT },
    };
    let node = LocalNode::open(settings, Arc::new(SystemClock), Arc::new(SystemEntropy::open()?)).await?;
    Ok(node.seam())
}

/// What this host can do, found out without opening a node.
pub(crate) fn doctor() -> HostReport {
    isopod_node::doctor()
}

/// Refuses to go on without the rights that making namespaces, mounts and cgroups takes.
///
/// # Errors
/// When this process is not root.
pub(crate) fn require_root(command: &str) -> Outcome<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::hinted(
        "this needs root: Isopod makes namespaces, mounts and cgroups",
        format_args!("run `sudo isopod {command} …`, or as root"),
    ))
}
