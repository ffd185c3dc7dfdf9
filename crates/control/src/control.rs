//! The public face of the room.

use crate::{
    Caller, ControlSettings, DataPlane, ListFilter, check,
    core::{Core, Found},
    metrics,
    registry::{Live, gone},
    tiers::Direction,
    waker::LiveWaker,
};
use isopod_model::{
    Clock, EndReason, Entropy, Error, Result, SandboxId, SandboxState,
    event::Event,
    page::Page,
    sandbox::{CreateSandbox, Sandbox, Tier, UpdateSandbox},
};
use isopod_node_api::{HostReport, Node, NodeStats};
use isopod_store::{ListQuery, Store};
use std::{future::Future, sync::Arc};

/// How many sandboxes there are in each state that is not the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Being made.
    pub creating: u64,
    /// With a shell.
    pub running: u64,
    /// Frozen.
    pub paused: u64,
    /// Without a shell.
    pub stopped: u64,
    /// Being removed.
    pub deleting: u64,
}

/// Decides for callers, and keeps the store and the node in agreement.
///
/// Every call may come concurrently, and may be dropped: what it began is finished all the same. To a stranger a
/// sandbox is `NotFound`; to its owner an ended one is `Gone` with its ending.
pub struct Control {
    core: Arc<Core>,
}

impl Control {
    /// Opens the room: makes store and node agree, then starts the background tasks. Needs a tokio runtime.
    ///
    /// # Errors
    /// Faults of the store.
    pub async fn open(
        store: Arc<dyn Store>,
        node: Arc<dyn Node>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: ControlSettings,
    ) -> Result<Arc<Self>> {
        metrics::describe();
        let core = Core::new(store, node, clock, entropy, settings);
        // Listened to from before the look, so that nothing falls between the two.
        let events = core.node.events();
        core.reconcile().await?;
        core.tasks.spawn(core.clone().follow_node(events));
        core.tasks.spawn(core.clone().sweep_forever());
        Ok(Arc::new(Self { core }))
    }

    /// Makes a sandbox.
    ///
    /// # Errors
    /// `Invalid`, `NotBuilt`, `NameTaken`, `TierUnavailable`, `NoCapacity`, and what the node says; nothing of the
    /// sandbox is left then.
    pub async fn create(&self, caller: &Caller, request: CreateSandbox) -> Result<Sandbox> {
        self.core.create(caller, request).await
    }

    /// The caller's live sandbox of that name, made if there is none; whether it was made. Of concurrent callers one
    /// makes it and the others get it.
    ///
    /// # Errors
    /// Those of [`Control::create`]; `Unavailable` while one of that name cannot be removed.
    pub async fn get_or_create(
        &self,
        caller: &Caller,
        name: &str,
        request: CreateSandbox,
    ) -> Result<(bool, Sandbox)> {
        self.core.get_or_create(caller, name, request).await
    }

    /// One sandbox by its id, or a live one by its name.
    ///
    /// # Errors
    /// `NotFound`; `Gone` for the id of an ended one.
    pub async fn get(&self, caller: &Caller, id_or_name: &str) -> Result<Sandbox> {
        Ok(self.core.find_live(caller, id_or_name).await?.sandbox())
    }

    /// A page of the caller's sandboxes, newest first; ended ones only when asked for by their state.
    ///
    /// # Errors
    /// `Invalid` for `limit`, `cursor` and labels.
    pub async fn list(&self, caller: &Caller, filter: ListFilter) -> Result<Page<Sandbox>> {
        check::limit(filter.limit)?;
        check::label_filters(&filter.labels)?;
        let before = filter.cursor.map(|cursor| cursor.parse::<SandboxId>()).transpose();
        let before = before.map_err(|_| Error::invalid("cursor", "is not one that a page gave"))?;
        let limit = filter.limit as usize;
        let query = ListQuery {
            owner: caller.owner.clone(),
            labels: filter.labels,
            state: filter.state,
            before,
            limit: filter.limit + 1,
        };
        let records = self.core.store.list(&query).await?;
        let more = records.len() > limit;
        let items: Vec<Sandbox> = records.into_iter().take(limit).map(|record| record.sandbox).collect();
        let next_cursor = items.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Page { items, next_cursor })
    }

    /// Changes labels, metadata and times.
    ///
    /// # Errors
    /// `Invalid`, `NotFound`, `Gone`.
    pub async fn update(&self, caller: &Caller, id: &str, update: UpdateSandbox) -> Result<Sandbox> {
        self.change(caller, id, move |core, live| async move { core.update(&live, update).await }).await
    }

    /// Ends a sandbox and removes its files, whatever state it is in; Ok again when it has ended.
    ///
    /// # Errors
    /// `NotFound`; what the node says, and then it is tried again in the background.
    pub async fn delete(&self, caller: &Caller, id: &str) -> Result<()> {
        let Found::Live(live) = self.core.find(caller, id).await? else { return Ok(()) };
        self.core.check_open()?;
        let core = self.core.clone();
        let ending = core.ending(EndReason::Killed, "caller", "its caller deleted it");
        self.core.finish(async move { core.delete(&live, ending).await }).await
    }

    /// Starts a stopped sandbox; Ok when it runs.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `NoCapacity`, `WrongState` while it is paused.
    pub async fn start(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        self.change(caller, id, |core, live| async move { core.start(&live).await }).await
    }

    /// Ends the shell with all its execs and keeps the files; Ok when it is stopped.
    ///
    /// # Errors
    /// `NotFound`, `Gone`.
    pub async fn stop(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        self.change(caller, id, |core, live| async move { core.stop(&live).await }).await
    }

    /// Freezes all processes; Ok when they are frozen.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `WrongState` while it is stopped.
    pub async fn pause(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        self.change(caller, id, |core, live| async move { core.pause(&live).await }).await
    }

    /// Thaws all processes; Ok when they run.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `WrongState` while it is stopped.
    pub async fn resume(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        self.change(caller, id, |core, live| async move { core.resume(&live).await }).await
    }

    /// Counts as activity, and moves `expires_at` to now + `timeout_s` when a timeout was set.
    ///
    /// # Errors
    /// `NotFound`, `Gone`.
    pub async fn keepalive(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        self.change(caller, id, |core, live| async move { core.keepalive(&live).await }).await
    }

    /// Moves a sandbox into a heavier tier; Ok without a change for the present one.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `TierUnavailable`, `Invalid` for a lighter tier, `NotBuilt`.
    pub async fn promote(&self, caller: &Caller, id: &str, tier: Tier) -> Result<Sandbox> {
        let heavier = Direction::Heavier;
        self.change(caller, id, move |core, live| async move { core.move_to(&live, tier, heavier).await })
            .await
    }

    /// Moves a sandbox into a lighter tier; Ok without a change for the present one.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `TierUnavailable`, `Invalid` for a heavier tier, `NotBuilt`.
    pub async fn demote(&self, caller: &Caller, id: &str, tier: Tier) -> Result<Sandbox> {
        let lighter = Direction::Lighter;
        self.change(caller, id, move |core, live| async move { core.move_to(&live, tier, lighter).await })
            .await
    }

    /// Lifecycle events after a position, oldest first; also of ended sandboxes, until retention removes them.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for `limit`.
    pub async fn events(&self, caller: &Caller, id: &str, after: i64, limit: u32) -> Result<Vec<Event>> {
        check::limit(limit)?;
        let id = match self.core.find(caller, id).await? {
            Found::Live(live) => live.id.clone(),
            Found::Ended(record) => record.sandbox.id,
        };
        self.core.store.events(&id, after, limit).await
    }

    /// The data plane of a sandbox; for a live one this is a look into a map.
    ///
    /// # Errors
    /// `NotFound`; `Gone` for the id of an ended one.
    pub async fn data(&self, caller: &Caller, id_or_name: &str) -> Result<DataPlane> {
        let core = &self.core;
        let live = match core.find(caller, id_or_name).await? {
            Found::Live(live) => live,
            Found::Ended(record) => return Err(gone(&record)),
        };
        let id = live.id.clone();
        let waker = Arc::new(LiveWaker { core: core.clone(), live });
        let (clock, entropy) = (core.clock.clone(), core.entropy.clone());
        Ok(DataPlane::new(id, core.node.clone(), waker, clock, entropy, core.meter.clone()))
    }

    /// What the node's host can and cannot do, with the number of sandboxes that is in force.
    pub async fn report(&self) -> HostReport {
        let mut report = self.core.node.report().await;
        if let Some(most) = self.core.settings.max_sandboxes {
            report.max_sandboxes = most;
        }
        report
    }

    /// Figures of the node.
    pub async fn node_stats(&self) -> NodeStats {
        self.core.node.node_stats().await
    }

    /// How many sandboxes there are in each state, of all owners.
    pub fn counts(&self) -> StateCounts {
        let mut counts = StateCounts::default();
        for live in self.core.registry.all() {
            match live.state() {
                SandboxState::Creating => counts.creating += 1,
                SandboxState::Running => counts.running += 1,
                SandboxState::Paused => counts.paused += 1,
                SandboxState::Stopped => counts.stopped += 1,
                SandboxState::Deleting => counts.deleting += 1,
                SandboxState::Ended => {}
            }
        }
        counts
    }

    /// Does at once what is due (ends of time, idle stops, failed removals, retention), and returns when it is done.
    /// The background does the same every second without being asked.
    pub async fn settle(&self) {
        // A step that began before may have looked at an earlier time, so it does not count.
        self.core.steps_done().await;
        for task in self.core.tick() {
            if let Err(error) = task.await {
                tracing::error!(%error, "a background task");
            }
        }
        self.core.steps_done().await;
    }

    /// Closes the room: what was begun is finished, background tasks end, the node and the store let go. With
    /// `stop_sandboxes` all shells are ended first; otherwise they run on. Calls after this are `Unavailable`.
    pub async fn shutdown(&self, stop_sandboxes: bool) {
        self.core.stop.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
        if stop_sandboxes {
            self.core.stop_all().await;
        }
        self.core.node.shutdown(stop_sandboxes).await;
        self.core.store.close().await;
    }

    /// Finds a live sandbox and changes it; the sandbox afterwards.
    async fn change<Work, Changed>(&self, caller: &Caller, id: &str, work: Work) -> Result<Sandbox>
    where
        Work: FnOnce(Arc<Core>, Arc<Live>) -> Changed + Send + 'static,
        Changed: Future<Output = Result<()>> + Send + 'static,
    {
        let live = self.core.find_live(caller, id).await?;
        self.core.check_open()?;
        self.core.finish(work(self.core.clone(), live.clone())).await?;
        Ok(live.sandbox())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}
