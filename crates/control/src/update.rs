//! What callers may change of a sandbox.

use crate::{check, core::Core, registry::Live};
use isopod_model::{Result, SandboxState, sandbox::UpdateSandbox};
use isopod_store::{NewEvent, Record, Update};
use std::sync::atomic::Ordering;

fn present(record: &Record) -> Update {
    let sandbox = &record.sandbox;
    Update {
        labels: sandbox.labels.clone(),
        metadata: sandbox.metadata.clone(),
        timeout_s: record.timeout_s,
        expires_at: sandbox.expires_at,
        idle_timeout_s: sandbox.idle_timeout_s,
        keep_alive: sandbox.keep_alive,
    }
}

impl Core {
    pub(crate) async fn update(&self, live: &Live, request: UpdateSandbox) -> Result<()> {
        check::update(&request)?;
        let _gate = live.enter().await;
        if matches!(live.state(), SandboxState::Deleting | SandboxState::Ended) {
            return Err(live.gone());
        }
        let now = self.now();
        let mut update = present(&live.record());
        let mut changed = Vec::new();
        if let Some(labels) = request.labels {
            changed.push("labels");
            for (key, value) in labels {
                match value {
                    Some(value) => update.labels.insert(key, value),
                    None => update.labels.remove(&key),
                };
            }
            check::labels(&update.labels)?;
        }
        if let Some(metadata) = request.metadata {
            changed.push("metadata");
            update.metadata = Some(metadata);
        }
        if let Some(seconds) = request.timeout_s {
            changed.push("timeout_s");
            update.timeout_s = (seconds > 0).then_some(seconds);
            update.expires_at = update.timeout_s.map(|seconds| self.after(now, seconds)).transpose()?;
        }
        if let Some(seconds) = request.idle_timeout_s {
            changed.push("idle_timeout_s");
            update.idle_timeout_s = (seconds > 0).then_some(seconds);
        }
        if let Some(keep_alive) = request.keep_alive {
            changed.push("keep_alive");
            update.keep_alive = keep_alive;
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.save(live, &update, serde_json::json!({ "changed": changed })).await?;
        live.look_at.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Counts as activity, and moves the end if a time to live was asked for.
    pub(crate) async fn keepalive(&self, live: &Live) -> Result<()> {
        let _gate = live.enter().await;
        if matches!(live.state(), SandboxState::Deleting | SandboxState::Ended) {
            return Err(live.gone());
        }
        let now = self.now();
        live.touch(now);
        let record = live.record();
        let Some(seconds) = record.timeout_s else { return Ok(()) };
        let expires_at = self.after(now, seconds)?;
        let update = Update { expires_at: Some(expires_at), ..present(&record) };
        let data = serde_json::json!({ "changed": ["expires_at"], "expires_at": expires_at });
        self.save(live, &update, data).await
    }

    /// Only with the gate.
    async fn save(&self, live: &Live, update: &Update, data: serde_json::Value) -> Result<()> {
        let event = NewEvent { at: self.now(), kind: "sandbox.updated", data };
        live.set(self.store.update(&live.id, update, &event).await?);
        Ok(())
    }
}
