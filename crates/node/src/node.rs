//! The node: its sandboxes, its tier, and what happens to both.

use crate::{
    NodeSettings, doctor,
    sandbox::Sandbox,
    tiers::container::{
        ContainerTier, Opened,
        launcher::{Inventory, Notice},
        shell::Shell,
        slot::{self, Ready},
    },
    upkeep,
};
use isopod_model::{Clock, EndReason, Ending, Entropy, Error, Result, SandboxId};
use isopod_node_api::{HostReport, NodeEvent, SandboxSpec, unknown_sandbox};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::TaskTracker;

/// The node of this machine.
pub struct LocalNode {
    pub(crate) settings: NodeSettings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) report: HostReport,
    /// None while a dead launcher is being replaced.
    tier: RwLock<Option<Arc<ContainerTier>>>,
    sandboxes: RwLock<HashMap<SandboxId, Arc<Sandbox>>>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    /// Removals and other work that a shutdown waits for.
    pub(crate) background: TaskTracker,
    pub(crate) teardowns: AtomicU64,
    /// The launcher may leave: this node does too.
    pub(crate) closing: AtomicBool,
    _lock: OwnedFd,
}

impl std::fmt::Debug for LocalNode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LocalNode").field("data_dir", &self.settings.data_dir).finish_non_exhaustive()
    }
}

impl LocalNode {
    /// Opens the node of a data directory: takes back what runs, notes what died, sweeps what a crash left.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when another server has the directory or this host lacks something; the text says what
    /// to do.
    pub async fn open(
        settings: NodeSettings,
        clock: Arc<dyn Clock>,
        _entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>> {
        let mut settings = settings;
        // Templates and views are read by every sandbox, whatever the operator's mask.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        for directory in ["", "sandboxes", "trash", "views"] {
            let path = settings.data_dir.join(directory);
            fs::create_dir_all(&path)
                .map_err(|error| Error::Unavailable { reason: format!("{}: {error}", path.display()) })?;
        }
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&settings.data_dir, fs::Permissions::from_mode(0o700))
            .map_err(Error::internal)?;
        settings.data_dir = fs::canonicalize(&settings.data_dir).map_err(Error::internal)?;
        let lock = lock(&settings)?;
        let loaded = load(&settings, &clock).await;
        let taken: BTreeSet<u32> = loaded.iter().map(|sandbox| sandbox.record.slot).collect();
        let Opened { tier, inventory, notices } = ContainerTier::open(&settings, taken).await?;
        let mut report = doctor::doctor();
        if let Some(most) = settings.max_sandboxes {
            report.max_sandboxes = most;
        }
        let node = Arc::new(Self {
            report,
            clock,
            tier: RwLock::new(Some(Arc::clone(&tier))),
            sandboxes: RwLock::new(
                loaded.into_iter().map(|sandbox| (sandbox.id().clone(), sandbox)).collect(),
            ),
            events: broadcast::Sender::new(1024),
            background: TaskTracker::new(),
            teardowns: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            _lock: lock,
            settings,
        });
        node.reconcile(&tier, inventory).await;
        upkeep::empty_trash(&node).await;
        let sweeper = Arc::clone(&tier);
        tokio::task::spawn_blocking(move || sweeper.slots.sweep())
            .await
            .map_err(Error::internal)?
            .map_err(Error::internal)?;
        node.attend(tier, notices);
        upkeep::start(&node);
        Ok(node)
    }

    /// What ran on is taken back; what did not is noted as lost; what nobody claims is ended.
    async fn reconcile(&self, tier: &ContainerTier, inventory: Inventory) {
        let mut survivors = inventory.survivors;
        for sandbox in self.all() {
            match survivors.remove(sandbox.id().as_str()) {
                Some(survivor) => match tier.adopt(&sandbox.place, &sandbox.record.spec, survivor).await {
                    Ok(shell) => sandbox.set_shell(Some(shell)),
                    Err(error) => {
                        tracing::error!(sandbox = %sandbox.id(), ?error, "a running container could not be taken back");
                        tier.forget(sandbox.id().as_str()).await;
                        sandbox.lost();
                    }
                },
                None => sandbox.lost(),
            }
        }
        for sandbox in survivors.keys() {
            tier.forget(sandbox).await;
        }
    }

    /// Listens to the launcher and keeps its pool full, for as long as both live.
    fn attend(self: &Arc<Self>, tier: Arc<ContainerTier>, notices: mpsc::UnboundedReceiver<Notice>) {
        let pool = Arc::clone(&tier);
        let filling = tokio::spawn(async move { pool.slots.keep_full().await });
        tokio::spawn(attend(Arc::downgrade(self), tier, notices, filling));
    }

    pub(crate) fn tier(&self) -> Result<Arc<ContainerTier>> {
        let tier = self.tier.read().unwrap_or_else(PoisonError::into_inner).clone();
        tier.ok_or_else(|| Error::Unavailable { reason: "the launcher is being replaced; try again".into() })
    }

    fn set_tier(&self, tier: Option<Arc<ContainerTier>>) {
        *self.tier.write().unwrap_or_else(PoisonError::into_inner) = tier;
    }

    pub(crate) fn all(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn find(&self, id: &SandboxId) -> Result<Arc<Sandbox>> {
        let found = self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        found.ok_or_else(|| unknown_sandbox(id))
    }

    fn map_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<SandboxId, Arc<Sandbox>>> {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, id: &SandboxId) -> PathBuf {
        self.settings.data_dir.join("sandboxes").join(id.as_str())
    }

    pub(crate) async fn create_sandbox(&self, spec: SandboxSpec) -> Result<()> {
        let (tier, id, directory) = (self.tier()?, spec.id.clone(), self.path_of(&spec.id));
        let ready = tier.slots.take().await?;
        let (slot, clock) = (ready.slot, Arc::clone(&self.clock));
        let made = async {
            let limits = spec.limits;
            // Both to their end, whatever the other says: what is left behind is removed below.
            let (made, furnished) =
                tokio::join!(Sandbox::make(directory, spec, slot, clock), tier.furnish(limits, &ready));
            let (sandbox, furnished) = (Arc::new(made?), furnished?);
            let _life = sandbox.life.lock().await;
            // Known before it starts: a container may die the moment it is up.
            self.map_mut().insert(sandbox.id().clone(), Arc::clone(&sandbox));
            sandbox.start(&tier, ready, furnished).await
        };
        match made.await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.map_mut().remove(&id);
                let _ = fs::remove_dir_all(self.path_of(&id));
                tier.slots.give_back(slot).await;
                Err(error)
            }
        }
    }

    pub(crate) async fn start_sandbox(&self, id: &SandboxId) -> Result<()> {
        let sandbox = self.find(id)?;
        let _life = sandbox.life.lock().await;
        if sandbox.shell().is_some() {
            return Ok(());
        }
        let tier = self.tier()?;
        let ready: Ready = tier.slots.around(sandbox.record.slot).await?;
        let furnished = tier.furnish(sandbox.record.spec.limits, &ready).await?;
        sandbox.start(&tier, ready, furnished).await
    }

    pub(crate) async fn stop_sandbox(&self, sandbox: &Sandbox, ending: Ending) {
        if let Some(shell) = sandbox.shell() {
            shell.ask_end(ending);
            shell.kill();
            shell.dead().await;
        }
    }

    pub(crate) async fn delete_sandbox(self: &Arc<Self>, id: &SandboxId, ending: Ending) -> Result<()> {
        let Ok(sandbox) = self.find(id) else { return Ok(()) };
        let _life = sandbox.life.lock().await;
        self.stop_sandbox(&sandbox, ending).await;
        if self.map_mut().remove(id).is_none() {
            return Ok(());
        }
        let trash = sandbox.discard(&self.settings.data_dir.join("trash")).map_err(Error::internal)?;
        let (node, slot) = (Arc::clone(self), sandbox.record.slot);
        node.teardowns.fetch_add(1, Ordering::Relaxed);
        self.background.spawn(async move {
            if let Ok(tier) = node.tier() {
                tier.slots.give_back(slot).await;
            }
            let _ = tokio::task::spawn_blocking(move || fs::remove_dir_all(trash)).await;
            node.teardowns.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(())
    }

    /// Whose death a notice means. A sandbox without a shell may be on its way up: it is waited for.
    async fn dead_shell(&self, sandbox: &str) -> Option<(Arc<Sandbox>, Arc<Shell>)> {
        let sandbox = self.find(&sandbox.parse().ok()?).ok()?;
        let mut shell = sandbox.shell();
        if shell.is_none() {
            let _life = sandbox.life.lock().await;
            shell = sandbox.shell();
        }
        shell.map(|shell| (sandbox, shell))
    }

    /// A container died: its execs get their ends, its surroundings go, and whoever did not ask for it is told.
    async fn died(&self, sandbox: &Arc<Sandbox>, shell: Arc<Shell>, status: Option<i32>) {
        let (ending, asked) = shell.died(status).await;
        shell.forget().await;
        sandbox.note("sandbox.stopped", serde_json::to_value(&ending).unwrap_or_default());
        sandbox.ended(&shell, ending.clone());
        if !asked {
            let _ = self.events.send(NodeEvent::Died { id: sandbox.id().clone(), ending });
        }
        // A sandbox that was deleted meanwhile has given its groups away with its slot.
        let _life = sandbox.life.lock().await;
        if sandbox.shell().is_none() && self.find(sandbox.id()).is_ok() {
            let group = shell.cgroup().clone();
            let cleared = tokio::task::spawn_blocking(move || {
                if status.is_none() {
                    // Nobody reaped it: what was frozen has not died with its launcher.
                    group.kill();
                }
                slot::remove_group(&group);
            });
            let _ = cleared.await;
        }
    }

    /// The launcher died, and with it every container and every mount: a new one is started, files are as they were.
    async fn reopen(self: &Arc<Self>) {
        tracing::error!("the launcher died; its containers are gone, their files are kept");
        for sandbox in self.all() {
            if let Some(shell) = sandbox.shell() {
                self.died(&sandbox, shell, None).await;
            }
        }
        self.set_tier(None);
        let taken: BTreeSet<u32> = self.all().iter().map(|sandbox| sandbox.record.slot).collect();
        loop {
            match ContainerTier::open(&self.settings, taken.clone()).await {
                Ok(Opened { tier, notices, .. }) => {
                    self.set_tier(Some(Arc::clone(&tier)));
                    let sweeper = Arc::clone(&tier);
                    let _ = tokio::task::spawn_blocking(move || sweeper.slots.sweep()).await;
                    self.attend(tier, notices);
                    return;
                }
                Err(error) => {
                    tracing::error!(?error, "a new launcher could not be started; trying again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    pub(crate) fn ending_by_operator(&self, detail: &str) -> Ending {
        Ending::new(EndReason::Killed, self.clock.now(), "operator", detail)
    }
}

async fn attend(
    node: Weak<LocalNode>,
    tier: Arc<ContainerTier>,
    mut notices: mpsc::UnboundedReceiver<Notice>,
    filling: tokio::task::JoinHandle<()>,
) {
    while let Some(notice) = notices.recv().await {
        let Some(node) = node.upgrade() else { break };
        match notice {
            Notice::Died { sandbox, status } => {
                let (work, tier) = (Arc::clone(&node), Arc::clone(&tier));
                node.background.spawn(async move {
                    match work.dead_shell(&sandbox).await {
                        Some((sandbox, shell)) => work.died(&sandbox, shell, Some(status)).await,
                        None => tier.forget(&sandbox).await,
                    }
                });
            }
            Notice::Lost => {
                filling.abort();
                let _ = filling.await;
                // Every descriptor of the old volume must go before it can be mounted again.
                drop(tier);
                if !node.closing.load(Ordering::Relaxed) {
                    node.reopen().await;
                }
                return;
            }
        }
    }
    filling.abort();
}

fn lock(settings: &NodeSettings) -> Result<OwnedFd> {
    let file = fs::File::options().create(true).append(true).open(settings.data_dir.join("server.lock"));
    let file = file.map_err(Error::internal)?;
    match file.try_lock() {
        Ok(()) => Ok(file.into()),
        Err(_) => Err(Error::Unavailable {
            reason: format!(
                "another isopod server uses {}; stop it, or choose another --data-dir",
                settings.data_dir.display()
            ),
        }),
    }
}

async fn load(settings: &NodeSettings, clock: &Arc<dyn Clock>) -> Vec<Arc<Sandbox>> {
    let mut loaded = Vec::new();
    for entry in fs::read_dir(settings.data_dir.join("sandboxes")).into_iter().flatten().flatten() {
        match Sandbox::load(entry.path(), Arc::clone(clock)).await {
            Ok(sandbox) => loaded.push(Arc::new(sandbox)),
            // Without a whole record it was being made when the server died: nobody was told of it.
            Err(Error::FileNotFound { .. }) => {
                let _ = fs::remove_dir_all(entry.path());
            }
            Err(error) => {
                tracing::error!(path = %entry.path().display(), ?error, "a sandbox directory cannot be read")
            }
        }
    }
    loaded
}
