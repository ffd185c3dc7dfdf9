//! Starting, stopping, freezing and removing: each under the sandbox's gate, first on the node, then in the store.

use crate::{
    core::Core,
    registry::{GateGuard, Live},
};
use isopod_model::{EndReason, Ending, Error, Result, SandboxState};
use std::sync::Arc;

const RESUME: &str = "resume it first";
const START: &str = "start it first";

impl Core {
    /// Ends the shell because a caller wants it; Ok when it is down.
    pub(crate) async fn stop(&self, live: &Live) -> Result<()> {
        let mut gate = live.enter().await;
        match live.state() {
            SandboxState::Stopped => Ok(()),
            SandboxState::Running | SandboxState::Paused => {
                let detail = "its caller stopped it; its files are kept, and the next call starts it";
                let ending = self.ending(EndReason::Killed, "caller", detail);
                self.halt(live, &mut gate, ending).await
            }
            _ => Err(self.ending_or_gone(live)),
        }
    }

    /// Ends the shell of a running or paused sandbox.
    pub(crate) async fn halt(&self, live: &Live, gate: &mut GateGuard, ending: Ending) -> Result<()> {
        self.node.stop(&live.id, ending.clone()).await?;
        self.step(live, gate, SandboxState::Stopped, "sandbox.stopped", Some(ending)).await
    }

    /// Starts the shell; Ok when it is up. Concurrent callers wait for the one who came first.
    pub(crate) async fn start(&self, live: &Live) -> Result<()> {
        let mut gate = live.enter().await;
        if live.state() == SandboxState::Running {
            self.agree(live, &mut gate).await?;
        }
        match live.state() {
            SandboxState::Running => Ok(()),
            SandboxState::Stopped => {
                let slot = self.slot().await?;
                self.node.start(&live.id).await?;
                self.step(live, &mut gate, SandboxState::Running, "sandbox.started", None).await?;
                gate.slot = Some(slot);
                live.touch(self.now());
                Ok(())
            }
            SandboxState::Paused => Err(Error::WrongState { state: SandboxState::Paused, hint: RESUME }),
            _ => Err(self.ending_or_gone(live)),
        }
    }

    pub(crate) async fn pause(&self, live: &Live) -> Result<()> {
        let mut gate = live.enter().await;
        match live.state() {
            SandboxState::Paused => Ok(()),
            SandboxState::Running => {
                let paused = self.node.pause(&live.id).await;
                self.agree_after(live, &mut gate, paused).await?;
                self.step(live, &mut gate, SandboxState::Paused, "sandbox.paused", None).await
            }
            SandboxState::Stopped => Err(Error::WrongState { state: SandboxState::Stopped, hint: START }),
            _ => Err(self.ending_or_gone(live)),
        }
    }

    pub(crate) async fn resume(&self, live: &Live) -> Result<()> {
        let mut gate = live.enter().await;
        match live.state() {
            SandboxState::Running => Ok(()),
            SandboxState::Paused => {
                let resumed = self.node.resume(&live.id).await;
                self.agree_after(live, &mut gate, resumed).await?;
                live.touch(self.now());
                self.step(live, &mut gate, SandboxState::Running, "sandbox.resumed", None).await
            }
            SandboxState::Stopped => Err(Error::WrongState { state: SandboxState::Stopped, hint: START }),
            _ => Err(self.ending_or_gone(live)),
        }
    }

    /// Ends a sandbox for good, whatever state it is in; Ok when it has ended.
    pub(crate) async fn delete(&self, live: &Live, ending: Ending) -> Result<()> {
        let mut gate = live.enter().await;
        self.remove(live, &mut gate, ending).await
    }

    /// Removes a sandbox; the ending that was noted first is the one that counts.
    pub(crate) async fn remove(&self, live: &Live, gate: &mut GateGuard, ending: Ending) -> Result<()> {
        if live.state() == SandboxState::Ended {
            return Ok(());
        }
        if live.state() != SandboxState::Deleting {
            self.step(live, gate, SandboxState::Deleting, "sandbox.deleting", Some(ending.clone())).await?;
        }
        let noted = live.record().sandbox.ending.clone().unwrap_or(ending);
        self.node.delete(&live.id, noted.clone()).await?;
        self.step(live, gate, SandboxState::Ended, "sandbox.ended", Some(noted)).await
    }

    /// Notes that a shell is down when the node says so.
    pub(crate) async fn agree(&self, live: &Live, gate: &mut GateGuard) -> Result<()> {
        let status = self.node.status(&live.id).await?;
        if status.running || !matches!(live.state(), SandboxState::Running | SandboxState::Paused) {
            return Ok(());
        }
        self.died(live, gate, status.ending).await
    }

    /// Notes that a shell is down.
    pub(crate) async fn died(&self, live: &Live, gate: &mut GateGuard, ending: Option<Ending>) -> Result<()> {
        let ending = ending.unwrap_or_else(|| {
            self.ending(EndReason::Interrupted, "server", "its shell was found dead; its files are kept")
        });
        self.step(live, gate, SandboxState::Stopped, "sandbox.stopped", Some(ending)).await
    }

    /// Passes an outcome on; if it says that the shell is down, notes that first.
    async fn agree_after(&self, live: &Live, gate: &mut GateGuard, outcome: Result<()>) -> Result<()> {
        if let Err(Error::WrongState { state: SandboxState::Stopped, .. }) = &outcome {
            self.agree(live, gate).await?;
        }
        outcome
    }

    /// The error for a sandbox that is on its way out.
    fn ending_or_gone(&self, live: &Live) -> Error {
        match live.state() {
            SandboxState::Creating => {
                Error::Unavailable { reason: format!("sandbox {} could not be created", live.id) }
            }
            _ => live.gone(),
        }
    }

    /// Ends all shells, a few at a time.
    pub(crate) async fn stop_all(self: &Arc<Self>) {
        let mut stops = tokio::task::JoinSet::new();
        for live in self.registry.all() {
            if stops.len() >= 16 {
                stops.join_next().await;
            }
            let core = self.clone();
            stops.spawn(async move {
                let mut gate = live.enter().await;
                if matches!(live.state(), SandboxState::Running | SandboxState::Paused) {
                    let detail = "the server was told to stop its sandboxes; its files are kept";
                    let ending = core.ending(EndReason::Killed, "operator", detail);
                    if let Err(error) = core.halt(&live, &mut gate, ending).await {
                        tracing::error!(sandbox = %live.id, ?error, "could not be stopped");
                    }
                }
            });
        }
        stops.join_all().await;
    }
}
