//! The container tier: native Linux processes under namespaces, seccomp and control groups, without a daemon.
//!
//! The launcher makes containers and keeps their descriptors, so that they outlive this server; a slot is what a
//! container needs around it; a shell is a running container as the node holds it.

pub mod cgroup;
pub mod exec;
#[cfg(test)]
mod hostile_agent;
pub mod launcher;
pub mod network;
mod packets;
mod pump;
pub mod shell;
pub mod slot;

use crate::{
    NodeSettings,
    images::{self, host},
    log::SandboxLog,
    volume::{self, Subvolumes},
};
use isopod_guest::frames::StartSpec;
use isopod_model::{Clock, Error, Result, limits::Limits};
use isopod_node_api::SandboxSpec;
use launcher::{Inventory, Launcher, Notice};
use shell::{Shell, Surroundings};
use slot::{Ready, Slots};
use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;

/// The tier on this machine, with one launcher.
#[derive(Debug)]
pub struct ContainerTier {
    data: PathBuf,
    launcher: Arc<Launcher>,
    /// Slots and their pool.
    pub slots: Slots,
    /// Quota'd directories.
    pub subvolumes: Arc<Subvolumes>,
    cgroups: Arc<cgroup::Cgroups>,
    cpus: Vec<u32>,
}

/// What opening the tier gave.
pub struct Opened {
    /// The tier.
    pub tier: Arc<ContainerTier>,
    /// What the launcher had already.
    pub inventory: Inventory,
    /// What it says from now on.
    pub notices: mpsc::UnboundedReceiver<Notice>,
}

impl ContainerTier {
    /// Finds or starts the launcher, mounts the volume, builds the template. `taken`: slots of sandboxes that exist.
    ///
    /// # Errors
    /// When this host lacks something; the reason says what would help.
    pub async fn open(settings: &NodeSettings, taken: BTreeSet<u32>) -> Result<Opened> {
        let data = &settings.data_dir;
        let cgroups = Arc::new(cgroup::Cgroups::open(&key(data), Some(&data.join("cgroups")))?);
        let groups =
            settings.ephemeral.then(|| cgroups.directories()).transpose().map_err(Error::internal)?;
        let (launcher, mut inventory, notices) = Launcher::connect(data, settings.guest, groups).await?;
        let root = match inventory.volume.take() {
            Some(root) => root,
            None => {
                // A fresh launcher has no containers. What was frozen when an earlier one died is still there, and
                // holds the volume.
                let leftovers = Arc::clone(&cgroups);
                let cleared = tokio::task::spawn_blocking(move || {
                    leftovers.list().iter().for_each(|found| leftovers.adopt(found).kill());
                });
                cleared.await.map_err(Error::internal)?;
                mount_volume(&launcher, settings).await?
            }
        };
        let (skeleton, unused) = (data.join("templates"), inventory.survivors.is_empty());
        let template = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&skeleton)?;
            let directory = skeleton.join("host");
            let template = host::build_skeleton(&directory)?;
            if unused {
                host::remove_outdated(&directory)?;
            }
            Ok::<_, std::io::Error>(template)
        })
        .await
        .map_err(Error::internal)?
        .map_err(|error| Error::Unavailable {
            reason: format!("the template `host` could not be built: {error}"),
        })?;
        let subvolumes = Arc::new(Subvolumes::new(root).map_err(Error::internal)?);
        let slots = Slots::new(
            Arc::clone(&launcher),
            Arc::clone(&subvolumes),
            Arc::clone(&cgroups),
            Arc::new(template),
            taken,
            settings.pool,
        );
        let cpus = host_cpus();
        let tier = Arc::new(Self { data: data.clone(), launcher, slots, subvolumes, cgroups, cpus });
        Ok(Opened { tier, inventory, notices })
    }

    fn surroundings(&self, place: &Place, spec: &SandboxSpec, slot: u32) -> Surroundings {
        Surroundings {
            id: spec.id.clone(),
            slot,
            uid_base: slot::uid_base(slot),
            disk_mib: spec.limits.disk_mib,
            cgroup: self.cgroups.adopt(&slot::name(slot)),
            launcher: Arc::clone(&self.launcher),
            log: Arc::clone(&place.log),
            journals: place.journals.clone(),
            clock: Arc::clone(&place.clock),
        }
    }

    /// Puts limits in force on a slot, before a container starts there.
    ///
    /// # Errors
    /// The file operation's that failed.
    pub async fn furnish(&self, limits: Limits, ready: &Ready) -> Result<Furnished> {
        let slot = ready.slot;
        let view = self.data.join("views").join(format!("{}-{}", limits.memory_mib, limits.visible_cpus()));
        let (subvolumes, path, cgroup) = (Arc::clone(&self.subvolumes), view.clone(), ready.cgroup.clone());
        let doors = tokio::task::spawn_blocking(move || {
            subvolumes.set_limit(&slot::name(slot), limits.disk_mib << 20)?;
            cgroup.limit(&limits)?;
            if !path.exists() {
                images::build_view(&path, limits.memory_mib, limits.visible_cpus())?;
            }
            cgroup.doors()
        });
        let (born_into, tasks) = doors.await.map_err(Error::internal)?.map_err(Error::internal)?;
        Ok(Furnished { view, born_into, tasks })
    }

    /// Starts a container on a slot.
    ///
    /// # Errors
    /// What failed; no process is left, the slot is still the sandbox's.
    pub async fn start(
        &self,
        place: &Place,
        spec: &SandboxSpec,
        ready: Ready,
        furnished: Furnished,
    ) -> Result<Arc<Shell>> {
        let slot = ready.slot;
        let Furnished { view, born_into, tasks } = furnished;
        let start = StartSpec {
            sandbox: spec.id.to_string(),
            slot,
            uid_base: slot::uid_base(slot),
            view: view.to_string_lossy().into_owned(),
            cpus: self.cpus_for(slot, &spec.limits),
            shm_bytes: (spec.limits.memory_mib << 20) / 2,
            into_cgroup: born_into.is_some(),
        };
        let mut fds = vec![ready.network.as_fd()];
        fds.extend(born_into.iter().chain(&tasks).map(AsFd::as_fd));
        let descriptors = self.launcher.start(start, &fds).await?;
        let around = self.surroundings(place, spec, slot);
        let begun = Shell::begin(around, descriptors).await;
        if begun.is_err() {
            let forget = isopod_guest::frames::ToLauncher::Forget { sandbox: spec.id.to_string() };
            let _ = self.launcher.tell(&forget, &[]).await;
        }
        begun
    }

    /// Takes back a container that outlived an earlier server.
    ///
    /// # Errors
    /// When a descriptor cannot be used.
    pub async fn adopt(
        &self,
        place: &Place,
        spec: &SandboxSpec,
        survivor: launcher::Survivor,
    ) -> Result<Arc<Shell>> {
        let mut known = place.log.open_execs();
        for exec in survivor.held.keys().filter_map(|exec| exec.parse().ok()) {
            if known.iter().all(|record| record.exec.id != exec)
                && let Some(record) = place.log.get(&exec).await?
            {
                known.push(record);
            }
        }
        let known = known.into_iter().map(|record| record.exec).collect();
        let around = self.surroundings(place, spec, survivor.slot);
        Shell::adopt(around, survivor.descriptors, survivor.held, known).await
    }

    /// Ends a container that no sandbox claims.
    pub async fn forget(&self, sandbox: &str) {
        let frame = isopod_guest::frames::ToLauncher::Forget { sandbox: sandbox.to_owned() };
        let _ = self.launcher.tell(&frame, &[]).await;
    }

    /// Removes control groups and pool, and lets an unused launcher go; what sandboxes have stays.
    pub async fn close(&self) {
        self.slots.drain().await;
        self.cgroups.close();
        let _ = self.launcher.tell(&isopod_guest::frames::ToLauncher::Leave, &[]).await;
    }

    /// As many CPUs as the limit shows, spread over the host's.
    fn cpus_for(&self, slot: u32, limits: &Limits) -> Vec<u32> {
        let count = (limits.visible_cpus() as usize).min(self.cpus.len());
        (0..count).map(|index| self.cpus[(slot as usize + index) % self.cpus.len()]).collect()
    }
}

/// A slot's limits in force, and the ways in.
#[derive(Debug)]
pub struct Furnished {
    /// Directory that shows the limits.
    view: PathBuf,
    /// Its v2 group.
    born_into: Option<OwnedFd>,
    /// The `tasks` file of each v1 group.
    tasks: Vec<OwnedFd>,
}

/// A sandbox's place on the host that a shell writes to.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its log.
    pub log: Arc<SandboxLog>,
    /// Where its execs' journals are.
    pub journals: PathBuf,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// A short name for a data directory, for what must be unique on the host.
fn key(data: &Path) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(data.as_os_str().as_encoded_bytes());
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CPUs that this process may run on.
fn host_cpus() -> Vec<u32> {
    let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
    let cpus: Vec<u32> = (0..1024).filter(|cpu| set.is_set(*cpu as usize)).collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

async fn mount_volume(launcher: &Launcher, settings: &NodeSettings) -> Result<std::os::fd::OwnedFd> {
    let (image, disk_mib) = (settings.data_dir.join("volume.img"), settings.disk_mib);
    let mount = tokio::task::spawn_blocking(move || {
        let size = volume::image_size(&image, disk_mib.map(|mib| mib << 20))?;
        volume::mount(&image, size)
    });
    let mount = mount.await.map_err(Error::internal)?;
    let mount = mount
        .map_err(|error| Error::Unavailable { reason: format!("the volume cannot be mounted: {error}") })?;
    launcher.attach_volume(mount.as_fd()).await
}
