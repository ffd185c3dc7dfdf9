//! Making the store and the node agree: after a restart, and on what happens on the node unasked.

use crate::{
    core::Core,
    registry::{GateGuard, Live},
};
use isopod_model::{EndReason, Ending, Result, SandboxId, SandboxState};
use isopod_node_api::{NodeEvent, SandboxStatus, tokio_events};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::broadcast::error::RecvError;

impl Core {
    /// Loads what the store holds and settles each difference to what the node has.
    pub(crate) async fn reconcile(&self) -> Result<()> {
        let mut statuses: HashMap<SandboxId, SandboxStatus> =
            self.node.inspect().await.into_iter().map(|status| (status.id.clone(), status)).collect();
        for record in self.store.live().await? {
            let status = statuses.remove(&record.sandbox.id);
            let up = status.as_ref().is_some_and(|status| status.running);
            let slot = up.then(|| self.registry.slot_regardless());
            let (live, mut gate) = self.registry.insert(record, slot)?;
            self.settle_difference(&live, &mut gate, status).await?;
        }
        for id in statuses.into_keys() {
            let ending = self.ending(EndReason::Interrupted, "server", "nothing is known of it");
            tracing::warn!(sandbox = %id, "the node has a sandbox that nothing is known of; it is removed");
            if let Err(error) = self.node.delete(&id, ending).await {
                tracing::error!(sandbox = %id, ?error, "could not be removed; the next start tries again");
            }
        }
        Ok(())
    }

    async fn settle_difference(
        &self,
        live: &Live,
        gate: &mut GateGuard,
        status: Option<SandboxStatus>,
    ) -> Result<()> {
        use SandboxState::{Creating, Deleting, Paused, Running, Stopped};
        match (live.state(), status) {
            (Deleting, _) => self.remove_or_later(live, gate, "its removal was interrupted").await,
            (Creating, None) => {
                let why = "the server ended while it was being created";
                self.remove_or_later(live, gate, why).await
            }
            (_, None) => self.remove_or_later(live, gate, "the node does not have its files any more").await,
            (Creating | Stopped, Some(status)) if status.running => {
                self.step(live, gate, Running, "sandbox.started", None).await
            }
            (Creating | Running | Paused, Some(status)) if !status.running => {
                self.died(live, gate, status.ending).await
            }
            _ => Ok(()),
        }
    }

    /// Removes a sandbox; if the node cannot now, the sweep tries again.
    async fn remove_or_later(&self, live: &Live, gate: &mut GateGuard, why: &str) -> Result<()> {
        let ending = self.ending(EndReason::Interrupted, "server", why);
        match self.remove(live, gate, ending).await {
            Err(error) if live.state() == SandboxState::Deleting => {
                tracing::warn!(sandbox = %live.id, ?error, "could not be removed; it is tried again");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Follows what happens on the node until the room closes.
    pub(crate) async fn follow_node(self: Arc<Self>, mut events: tokio_events::Receiver) {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(NodeEvent::Died { id, ending }) => {
                    if let Some(live) = self.registry.get(&id) {
                        self.look_after(live, Some(ending));
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events of the node were missed; all sandboxes are looked at");
                    self.look_after_all().await;
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn look_after_all(self: &Arc<Self>) {
        for status in self.node.inspect().await {
            if let (false, Some(live)) = (status.running, self.registry.get(&status.id)) {
                self.look_after(live, status.ending);
            }
        }
    }

    /// Notes in the background that a shell died, unless it is up again by the time its gate is free.
    fn look_after(self: &Arc<Self>, live: Arc<Live>, ending: Option<Ending>) {
        let core = self.clone();
        self.tasks.spawn(async move {
            let mut gate = live.enter().await;
            if !matches!(live.state(), SandboxState::Running | SandboxState::Paused) {
                return;
            }
            let outcome = match core.node.status(&live.id).await {
                Ok(status) if status.running => Ok(()),
                Ok(status) => core.died(&live, &mut gate, status.ending.or(ending)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::error!(sandbox = %live.id, ?error, "the death of its shell could not be noted");
            }
        });
    }
}
