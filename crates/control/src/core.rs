//! What the parts of the room share: finding sandboxes, and taking steps that are saved.

use crate::{
    Caller, ControlSettings, ExecMeter, check, metrics,
    registry::{GateGuard, Live, Registry, Slot, gone},
};
use isopod_model::{Clock, Ending, Entropy, Error, Result, SandboxId, SandboxState, Timestamp};
use isopod_node_api::Node;
use isopod_store::{NewEvent, Record, Store, Transition};
use std::{
    future::Future,
    sync::{Arc, atomic::AtomicI64},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Seconds after which a full node may have room again.
const RETRY_AFTER_S: u64 = 5;

pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) settings: ControlSettings,
    pub(crate) registry: Registry,
    pub(crate) meter: ExecMeter,
    /// When retention is due next, in milliseconds.
    pub(crate) retention_at: AtomicI64,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// A sandbox as it was found.
pub(crate) enum Found {
    Live(Arc<Live>),
    Ended(Box<Record>),
}

impl Core {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        node: Arc<dyn Node>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: ControlSettings,
    ) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            store,
            node,
            clock,
            entropy,
            settings,
            registry: Registry::default(),
            meter: ExecMeter::new(stop.clone()),
            retention_at: AtomicI64::new(i64::MIN),
            tasks: TaskTracker::new(),
            stop,
        })
    }

    /// The current moment in whole milliseconds, as the store keeps it.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// Finds a sandbox of the caller by its id, or a live one by its name.
    pub(crate) async fn find(&self, caller: &Caller, id_or_name: &str) -> Result<Found> {
        let unknown = || Error::NotFound { what: "sandbox", id: check::shown(id_or_name) };
        let Ok(id) = id_or_name.parse::<SandboxId>() else {
            let live = self.registry.by_name(&caller.owner, id_or_name).ok_or_else(unknown)?;
            return Ok(Found::Live(live));
        };
        if let Some(live) = self.registry.get(&id) {
            return if live.owner == caller.owner { Ok(Found::Live(live)) } else { Err(unknown()) };
        }
        match self.store.get(&id).await? {
            Some(record) if record.owner == caller.owner && record.sandbox.state == SandboxState::Ended => {
                Ok(Found::Ended(Box::new(record)))
            }
            _ => Err(unknown()),
        }
    }

    /// Finds a sandbox that has not ended.
    pub(crate) async fn find_live(&self, caller: &Caller, id_or_name: &str) -> Result<Arc<Live>> {
        match self.find(caller, id_or_name).await? {
            Found::Live(live) if live.state() == SandboxState::Ended => Err(live.gone()),
            Found::Live(live) => Ok(live),
            Found::Ended(record) => Err(gone(&record)),
        }
    }

    /// Refuses new work once the room closes.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(Error::Unavailable { reason: "the server is shutting down".to_owned() });
        }
        Ok(())
    }

    /// Runs work to its end even if the caller goes away meanwhile.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.tasks
            .spawn(work)
            .await
            .unwrap_or_else(|error| Err(Error::internal(format!("a lifecycle task: {error}"))))
    }

    /// A place for one more shell.
    pub(crate) async fn slot(&self) -> Result<Slot> {
        let most = self.most_sandboxes().await;
        self.registry.slot(most).ok_or_else(|| Error::NoCapacity {
            reason: format!("{most} sandboxes run, which is all that this host is set to"),
            retry_after_s: RETRY_AFTER_S,
        })
    }

    pub(crate) async fn most_sandboxes(&self) -> u64 {
        match self.settings.max_sandboxes {
            Some(most) => most,
            None => self.node.report().await.max_sandboxes,
        }
    }

    /// Saves a step along the lifecycle table, then makes it visible.
    pub(crate) async fn step(
        &self,
        live: &Live,
        gate: &mut GateGuard,
        to: SandboxState,
        kind: &'static str,
        ending: Option<Ending>,
    ) -> Result<()> {
        self.step_with(live, gate, to, kind, ending, serde_json::json!({})).await
    }

    /// Like [`Core::step`], with data of the event's own.
    pub(crate) async fn step_with(
        &self,
        live: &Live,
        gate: &mut GateGuard,
        to: SandboxState,
        kind: &'static str,
        ending: Option<Ending>,
        mut data: serde_json::Value,
    ) -> Result<()> {
        let at = self.now();
        let from = live.state();
        if let Some(ending) = &ending {
            data["ending"] = serde_json::to_value(ending).map_err(Error::internal)?;
        }
        let thaws = from == SandboxState::Paused;
        let transition = Transition {
            id: live.id.clone(),
            from: vec![from],
            to,
            started_at: (to == SandboxState::Running && !thaws).then_some(at),
            ending,
            event: NewEvent { at, kind, data },
        };
        let record = self.store.transition(&transition).await?;
        live.set(record);
        if !matches!(to, SandboxState::Running | SandboxState::Paused) {
            gate.slot = None;
        }
        if to == SandboxState::Ended {
            self.registry.remove(live);
            let sandbox = live.sandbox();
            // What never ran was not counted as created either.
            if let (Some(ending), Some(_)) = (sandbox.ending, sandbox.started_at) {
                metrics::sandbox_ended(ending.reason);
            }
        }
        tracing::info!(sandbox = %live.id, from = from.as_str(), to = to.as_str(), "{kind}");
        Ok(())
    }
}
