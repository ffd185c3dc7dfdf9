//! The public face of the room.

use crate::{Caller, ControlSettings, DataPlane, ListFilter};
use isopod_model::{
    Clock, Entropy, Result,
    event::Event,
    page::Page,
    sandbox::{CreateSandbox, Sandbox, Tier, UpdateSandbox},
};
use isopod_node_api::{HostReport, Node, NodeStats};
use isopod_store::Store;
use std::sync::Arc;

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
pub struct Control {}

#[allow(unused_variables, clippy::missing_errors_doc)]
impl Control {
    /// Opens the room: makes store and node agree, then starts the background tasks.
    pub async fn open(
        store: Arc<dyn Store>,
        node: Arc<dyn Node>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: ControlSettings,
    ) -> Result<Arc<Self>> {
        todo!()
    }
    /// Makes a sandbox.
    pub async fn create(&self, caller: &Caller, request: CreateSandbox) -> Result<Sandbox> {
        todo!()
    }
    /// The caller's sandbox of that name, made if there is none; whether it was made.
    pub async fn get_or_create(
        &self,
        caller: &Caller,
        name: &str,
        request: CreateSandbox,
    ) -> Result<(bool, Sandbox)> {
        todo!()
    }
    /// One sandbox; `Gone` for ended ids.
    pub async fn get(&self, caller: &Caller, id_or_name: &str) -> Result<Sandbox> {
        todo!()
    }
    /// A page of sandboxes, newest first.
    pub async fn list(&self, caller: &Caller, filter: ListFilter) -> Result<Page<Sandbox>> {
        todo!()
    }
    /// Changes labels, metadata and times.
    pub async fn update(&self, caller: &Caller, id: &str, update: UpdateSandbox) -> Result<Sandbox> {
        todo!()
    }
    /// Ends a sandbox and removes its files; Ok again on an ended id.
    pub async fn delete(&self, caller: &Caller, id: &str) -> Result<()> {
        todo!()
    }
    /// Starts a stopped sandbox.
    pub async fn start(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        todo!()
    }
    /// Ends the shell and keeps the files.
    pub async fn stop(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        todo!()
    }
    /// Freezes all processes.
    pub async fn pause(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        todo!()
    }
    /// Thaws them.
    pub async fn resume(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        todo!()
    }
    /// Counts as activity; moves `expires_at` when a timeout was set.
    pub async fn keepalive(&self, caller: &Caller, id: &str) -> Result<Sandbox> {
        todo!()
    }
    /// Moves it into a heavier tier.
    pub async fn promote(&self, caller: &Caller, id: &str, tier: Tier) -> Result<Sandbox> {
        todo!()
    }
    /// Moves it into a lighter tier.
    pub async fn demote(&self, caller: &Caller, id: &str, tier: Tier) -> Result<Sandbox> {
        todo!()
    }
    /// Lifecycle events after a position, also of ended sandboxes until retention.
    pub async fn events(&self, caller: &Caller, id: &str, after: i64, limit: u32) -> Result<Vec<Event>> {
        todo!()
    }
    /// The data plane of a sandbox.
    pub async fn data(&self, caller: &Caller, id_or_name: &str) -> Result<DataPlane> {
        todo!()
    }
    /// What the node's host can and cannot do.
    pub async fn report(&self) -> HostReport {
        todo!()
    }
    /// Figures of the node.
    pub async fn node_stats(&self) -> NodeStats {
        todo!()
    }
    /// How many sandboxes there are in each state.
    pub fn counts(&self) -> StateCounts {
        todo!()
    }
    /// Ends the background tasks and lets go of the node.
    pub async fn shutdown(&self, stop_sandboxes: bool) {
        todo!()
    }
}
