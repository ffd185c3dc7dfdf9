//! Making, starting, stopping and removing.

use super::{FakeNode, FakeSandbox};
use isopod_model::{EndReason, Ending, Error, Result, SandboxId, SandboxState, Timestamp};
use isopod_node_api::{SandboxSpec, SandboxStats, SandboxStatus};
use std::collections::{BTreeMap, HashMap};
use tokio::sync::watch;

impl FakeSandbox {
    pub(super) fn end_shell(&mut self, at: Timestamp, reason: EndReason, ending: Ending) {
        for exec in self.execs.values_mut() {
            exec.end(at, reason, None, Some(9));
        }
        self.running = false;
        self.paused = false;
        self.ending = Some(ending);
        self.note(at, "sandbox.stopped", serde_json::Value::Null);
    }

    pub(super) fn status(&self) -> SandboxStatus {
        SandboxStatus {
            id: self.spec.id.clone(),
            running: self.running,
            tier: self.spec.tier,
            running_execs: self.execs.values().filter(|exec| exec.is_running()).count() as u64,
            last_active_at: self.last_active_at,
            ending: self.ending.clone(),
        }
    }
}

impl FakeNode {
    pub(super) fn create_sandbox(&self, spec: SandboxSpec) -> Result<()> {
        let now = self.clock.now();
        let known = {
            let state = self.lock();
            let offered = state.report.tiers.iter().any(|tier| tier.tier == spec.tier && tier.available);
            if state.sandboxes.contains_key(&spec.id) {
                Err(format!("{} was created twice", spec.id))
            } else if !offered {
                Err(format!("{:?} is not offered", spec.tier))
            } else if !state.report.templates.contains_key(&spec.template) {
                Err(format!("template {:?} was not resolved", spec.template))
            } else if spec.limits.check(state.report.most).is_err() {
                Err(format!("{:?} were not checked", spec.limits))
            } else {
                Ok(())
            }
        };
        known.map_err(|what| self.violation(what))?;
        let mut sandbox = FakeSandbox {
            spec: spec.clone(),
            running: true,
            paused: false,
            last_active_at: now,
            ending: None,
            execs: BTreeMap::new(),
            keys: HashMap::new(),
            files: BTreeMap::new(),
            writes: 0,
            log: Vec::new(),
            log_changed: watch::channel(0).0,
        };
        sandbox.note(now, "sandbox.created", serde_json::Value::Null);
        self.lock().sandboxes.insert(spec.id, sandbox);
        Ok(())
    }

    pub(super) fn start_shell(&self, id: &SandboxId) -> Result<()> {
        let now = self.clock.now();
        self.with(id, |sandbox| {
            if !sandbox.running {
                sandbox.running = true;
                sandbox.ending = None;
                sandbox.last_active_at = now;
                sandbox.note(now, "sandbox.started", serde_json::Value::Null);
            }
            Ok(())
        })
    }

    pub(super) fn stop_shell(&self, id: &SandboxId, ending: Ending) -> Result<()> {
        let now = self.clock.now();
        self.with(id, |sandbox| {
            if sandbox.running {
                sandbox.end_shell(now, EndReason::Killed, ending);
            }
            Ok(())
        })
    }

    pub(super) fn freeze(&self, id: &SandboxId, paused: bool) -> Result<()> {
        let refused = self.with(id, |sandbox| {
            if !sandbox.running {
                return Err(Error::WrongState { state: SandboxState::Stopped, hint: "start it first" });
            }
            let refused = sandbox.paused == paused;
            sandbox.paused = paused;
            Ok(refused)
        })?;
        if refused {
            return Err(self.violation(format!("{id} was paused ({paused}) twice")));
        }
        Ok(())
    }

    pub(super) fn remove(&self, id: &SandboxId, ending: Ending) {
        let now = self.clock.now();
        let removed = self.lock().sandboxes.remove(id);
        if let Some(mut sandbox) = removed {
            sandbox.end_shell(now, EndReason::Killed, ending);
        }
    }

    pub(super) fn figures(&self, id: &SandboxId) -> Result<SandboxStats> {
        self.with(id, |sandbox| {
            let running = u64::from(sandbox.running);
            Ok(SandboxStats {
                memory_bytes: running * 1_048_576,
                memory_peak_bytes: running * 2_097_152,
                cpu_us: running * 1000,
                pids: running,
                disk_bytes: sandbox.files.values().map(|file| file.content.len() as u64).sum(),
                execs_total: sandbox.execs.len() as u64,
                execs_running: sandbox.status().running_execs,
                oom_kills: 0,
            })
        })
    }

    pub(super) fn end_all(&self, stop_sandboxes: bool) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.shut_down = Some(stop_sandboxes);
        if stop_sandboxes {
            let ending = Ending::new(EndReason::Killed, now, "server", "the server was told to stop them");
            for sandbox in state.sandboxes.values_mut().filter(|sandbox| sandbox.running) {
                sandbox.end_shell(now, EndReason::Killed, ending.clone());
            }
        }
    }
}
