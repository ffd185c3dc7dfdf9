//! Slots: what a container needs around it, made ahead of its use where possible.
//!
//! A slot is a number; from it follow the range of uids, the subvolume, and the control groups. It belongs to one
//! sandbox for its whole life and is handed out again only after everything of it is gone.

use super::{
    cgroup::{Cgroup, Cgroups},
    launcher::Launcher,
    network,
};
use crate::{images::host::HostTemplate, volume::Subvolumes};
use isopod_guest::frames::{Layers, ToLauncher};
use isopod_model::{Error, Result};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Uids and gids on disk start here: above what users, subuid ranges and systemd-nspawn use.
const FIRST_UID: u32 = 0x8000_0000;
/// Uids and gids of one sandbox.
const UIDS: u32 = 65_536;
/// How long nobody must take a slot before the pool is filled again, unless it is nearly empty.
const QUIET: Duration = Duration::from_millis(20);
/// How many slots there are.
pub const SLOTS: u32 = 0x7ffe;

/// A slot's name, of its subvolume and of its control groups.
pub fn name(slot: u32) -> String {
    format!("s{slot}")
}

/// First uid and gid of a slot.
pub fn uid_base(slot: u32) -> u32 {
    FIRST_UID + slot * UIDS
}

/// What a container is started on.
#[derive(Debug)]
pub struct Ready {
    /// The slot.
    pub slot: u32,
    /// Its groups.
    pub cgroup: Cgroup,
    /// Its network namespace.
    pub network: OwnedFd,
}

/// Everything that slots are made from.
#[derive(Debug)]
pub struct Slots {
    pub(super) launcher: Arc<Launcher>,
    pub(super) subvolumes: Arc<Subvolumes>,
    pub(super) cgroups: Arc<Cgroups>,
    template: Arc<HostTemplate>,
    taken: Mutex<BTreeSet<u32>>,
    waiting: Mutex<VecDeque<Ready>>,
    networks: Mutex<Vec<OwnedFd>>,
    wanted: usize,
    refill: tokio::sync::Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    done.map_err(|error| crate::host_fault(step, &error))
}

impl Slots {
    /// `taken`: slots of sandboxes that exist; `wanted`: how many to keep ready.
    pub fn new(
        launcher: Arc<Launcher>,
        subvolumes: Arc<Subvolumes>,
        cgroups: Arc<Cgroups>,
        template: Arc<HostTemplate>,
        taken: BTreeSet<u32>,
        wanted: usize,
    ) -> Self {
        let (waiting, networks) = (Mutex::default(), Mutex::default());
        let refill = tokio::sync::Notify::new();
        Self {
            launcher,
            subvolumes,
            cgroups,
            template,
            taken: Mutex::new(taken),
            waiting,
            networks,
            wanted,
            refill,
        }
    }

    /// How many slots and how many single network namespaces wait.
    pub fn waiting(&self) -> (usize, usize) {
        let slots = lock(&self.waiting).len();
        (slots, slots + lock(&self.networks).len())
    }

    /// Keeps the pool full until this future is dropped.
    pub async fn keep_full(&self) {
        loop {
            let missing = self.wanted.saturating_sub(lock(&self.waiting).len());
            let networks = (self.wanted / 2).saturating_sub(lock(&self.networks).len());
            let made = if missing > 0 {
                self.make_new().await.map(|ready| lock(&self.waiting).push_back(ready))
            } else if networks > 0 {
                blocking("network namespace", network::namespace)
                    .await
                    .map(|made| lock(&self.networks).push(made))
            } else {
                self.refill.notified().await;
                self.wait_for_quiet().await;
                continue;
            };
            if let Err(error) = made {
                tracing::warn!(?error, "a slot could not be made ahead of its use");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Filling competes with the sandbox that is starting for launcher and processors: it waits for a moment without
    /// takers while there is still something to take.
    async fn wait_for_quiet(&self) {
        let mut rest = lock(&self.waiting).len();
        while rest > self.wanted / 4 && tokio::time::timeout(QUIET, self.refill.notified()).await.is_ok() {
            rest = lock(&self.waiting).len();
        }
    }

    /// A slot for a new sandbox: from the pool, or made now.
    ///
    /// # Errors
    /// [`Error::NoCapacity`] when all slots are taken; else what failed.
    pub async fn take(&self) -> Result<Ready> {
        let ready = lock(&self.waiting).pop_front();
        self.refill.notify_one();
        match ready {
            Some(ready) => Ok(ready),
            None => self.make_new().await,
        }
    }

    async fn make_new(&self) -> Result<Ready> {
        let slot = {
            let mut taken = lock(&self.taken);
            let free = (0..SLOTS).find(|slot| !taken.contains(slot));
            let free =
                free.ok_or(Error::NoCapacity { reason: "all slots are taken".into(), retry_after_s: 5 })?;
            taken.insert(free);
            free
        };
        let files = move |subvolumes: &Subvolumes| {
            make_directories(subvolumes, slot)?;
            fresh_work_directories(subvolumes, slot)
        };
        match self.furnish(slot, files).await {
            Ok(ready) => Ok(ready),
            Err(error) => {
                self.give_back(slot).await;
                Err(error)
            }
        }
    }

    /// What a sandbox that exists needs to start again: everything but its files.
    ///
    /// # Errors
    /// What failed.
    pub async fn around(&self, slot: u32) -> Result<Ready> {
        let files = move |subvolumes: &Subvolumes| {
            // A sandbox that is full could not start again: its limit comes back before anything runs in it.
            subvolumes.set_limit(&name(slot), u64::MAX)?;
            // A volatile overlay refuses the work directory of one that did not end cleanly.
            fresh_work_directories(subvolumes, slot)
        };
        self.furnish(slot, files).await
    }

    /// Makes ready what is around a slot: its root file system, once `files` has made its directories ready, and
    /// beside that its control groups and its network namespace.
    async fn furnish(
        &self,
        slot: u32,
        files: impl FnOnce(&Subvolumes) -> io::Result<()> + Send + 'static,
    ) -> Result<Ready> {
        let pooled = lock(&self.networks).pop();
        self.refill.notify_one();
        let (cgroups, subvolumes) = (Arc::clone(&self.cgroups), Arc::clone(&self.subvolumes));
        let root = async {
            blocking("directories", move || files(&subvolumes)).await?;
            self.launcher.prepare(slot, self.layers(slot)).await
        };
        let rest = blocking("surroundings", move || {
            Ok((cgroups.create(&name(slot))?, pooled.map_or_else(network::namespace, Ok)?))
        });
        // Both to their end, so that nothing is still being made when what failed is removed.
        match tokio::join!(root, rest) {
            (Ok(()), Ok((cgroup, network))) => Ok(Ready { slot, cgroup, network }),
            (Err(error), _) | (_, Err(error)) => {
                let _ = self.launcher.tell(&ToLauncher::Discard { slot }, &[]).await;
                Err(error)
            }
        }
    }

    fn layers(&self, slot: u32) -> Layers {
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        Layers {
            uid_base: uid_base(slot),
            root_lowers: vec![text(&self.template.root_layer)],
            usr_lowers: self.template.usr_layers.iter().map(|path| text(path)).collect(),
            slot_directory: name(slot),
        }
    }

    /// Removes everything of a slot whose processes are dead, and makes its number free.
    pub async fn give_back(&self, slot: u32) {
        let _ = self.launcher.tell(&ToLauncher::Discard { slot }, &[]).await;
        let (cgroups, subvolumes) = (Arc::clone(&self.cgroups), Arc::clone(&self.subvolumes));
        let removed = blocking("removal", move || {
            let group = cgroups.adopt(&name(slot));
            remove_group(&group);
            match subvolumes.delete(&name(slot)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            }
        });
        match removed.await {
            Ok(()) => {
                lock(&self.taken).remove(&slot);
            }
            // The number stays taken; the sweep of the next start tries again.
            Err(error) => tracing::warn!(slot, ?error, "a slot could not be removed"),
        }
    }

    /// Removes subvolumes and control groups that no sandbox has: what a crash left.
    ///
    /// # Errors
    /// When the volume cannot be read.
    pub fn sweep(&self) -> io::Result<()> {
        let taken = lock(&self.taken).clone();
        let ours = |found: &str| {
            found
                .strip_prefix('s')
                .and_then(|number| number.parse().ok())
                .is_some_and(|slot| taken.contains(&slot))
        };
        for found in self.cgroups.list().iter().filter(|found| !ours(found)) {
            let group = self.cgroups.adopt(found);
            group.kill();
            remove_group(&group);
        }
        for found in self.subvolumes.list()?.iter().filter(|found| !ours(found)) {
            if let Err(error) = self.subvolumes.delete(found) {
                tracing::warn!(found, %error, "a leftover subvolume could not be removed");
            }
        }
        Ok(())
    }

    /// Empties the pool.
    pub async fn drain(&self) {
        let waiting: Vec<Ready> = lock(&self.waiting).drain(..).collect();
        lock(&self.networks).clear();
        for ready in waiting {
            self.give_back(ready.slot).await;
        }
    }
}

/// Removes a dead container's groups. A process leaves its group a moment after its parent has seen it die: tries for a
/// second.
pub fn remove_group(group: &Cgroup) {
    for _ in 0..200 {
        if group.remove().is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    tracing::warn!(?group, "a control group could not be removed");
}

const WORK_DIRECTORIES: [&str; 2] = ["work", "work-usr"];

/// The directories of a new sandbox in `upper/`, with the owners that they have inside.
fn make_directories(subvolumes: &Subvolumes, slot: u32) -> io::Result<()> {
    use rustix::fs::{AtFlags, Gid, Mode, Uid};
    let root = subvolumes.create(&name(slot), u64::MAX)?;
    let base = uid_base(slot);
    let made = [
        ("upper", 0, 0o755),
        ("upper/usr", 0, 0o755),
        ("upper/home", 0, 0o755),
        ("upper/home/user", 1000, 0o755),
        ("upper/workspace", 1000, 0o755),
        ("upper/tmp", 0, 0o1777),
    ];
    for (path, uid, mode) in made {
        rustix::fs::mkdirat(root.as_fd(), path, Mode::from_raw_mode(0o700))?;
        let (owner, group) = (Uid::from_raw(base + uid), Gid::from_raw(base + uid));
        rustix::fs::chownat(root.as_fd(), path, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(root.as_fd(), path, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}

/// Empty `work` directories; those of an earlier mount hold nothing but the kernel's leftovers.
fn fresh_work_directories(subvolumes: &Subvolumes, slot: u32) -> io::Result<()> {
    use rustix::fs::Mode;
    let root = subvolumes.open(&name(slot))?;
    for directory in WORK_DIRECTORIES {
        match std::fs::remove_dir_all(format!("/proc/self/fd/{}/{directory}", root.as_raw_fd())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        rustix::fs::mkdirat(root.as_fd(), directory, Mode::from_raw_mode(0o700))?;
    }
    Ok(())
}
