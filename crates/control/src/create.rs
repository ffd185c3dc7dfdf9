//! Making sandboxes.

use crate::{
    Caller, check,
    core::Core,
    metrics,
    placement::{self, Placement},
    registry::{GateGuard, Live},
};
use isopod_model::{
    EndReason, Ending, Error, Result, SandboxId, SandboxState, name,
    sandbox::{CreateSandbox, Sandbox},
};
use isopod_node_api::SandboxSpec;
use isopod_store::{NewEvent, Record};
use std::{sync::Arc, time::Duration};

/// Seconds without anything running until a sandbox is stopped, unless its caller says otherwise.
const IDLE_TIMEOUT_S: u64 = 300;

impl Core {
    pub(crate) async fn create(self: &Arc<Self>, caller: &Caller, request: CreateSandbox) -> Result<Sandbox> {
        let began = tokio::time::Instant::now();
        check::create(&request)?;
        let report = self.node.report().await;
        let placement = placement::place(&request, &self.settings.default_template, &report)?;
        let record = self.record(caller, request, placement)?;
        // Before the question of room: who asks for a name that is taken should hear of that.
        if let Some(name) = &record.sandbox.name
            && let Some(holder) = self.registry.by_name(&caller.owner, name)
        {
            return Err(Error::NameTaken { name: name.clone(), id: holder.id.to_string() });
        }
        let slot = self.slot().await?;
        self.check_open()?;
        let (live, gate) = self.registry.insert(record, Some(slot))?;
        let (core, making) = (self.clone(), live.clone());
        self.finish(async move { core.make(&making, gate).await }).await?;
        let sandbox = live.sandbox();
        metrics::sandbox_created(sandbox.tier, &sandbox.resolved_template, began.elapsed());
        Ok(sandbox)
    }

    pub(crate) async fn get_or_create(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
        mut request: CreateSandbox,
    ) -> Result<(bool, Sandbox)> {
        name::check(name)?;
        if request.name.as_deref().is_some_and(|other| other != name) {
            return Err(Error::invalid("name", "differs from the name in the path"));
        }
        request.name = Some(name.to_owned());
        loop {
            if let Some(live) = self.registry.by_name(&caller.owner, name) {
                // Whoever makes or removes it has its gate.
                drop(live.enter().await);
                match live.state() {
                    SandboxState::Ended => continue,
                    SandboxState::Creating | SandboxState::Deleting => {
                        let reason = format!("the sandbox {} of that name is being removed", live.id);
                        return Err(Error::Unavailable { reason });
                    }
                    _ => return Ok((false, live.sandbox())),
                }
            }
            match self.create(caller, request.clone()).await {
                Ok(sandbox) => return Ok((true, sandbox)),
                Err(Error::NameTaken { .. }) if self.registry.by_name(&caller.owner, name).is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn record(&self, caller: &Caller, request: CreateSandbox, placement: Placement) -> Result<Record> {
        let now = self.now();
        let expires_at = request.timeout_s.map(|seconds| self.after(now, seconds)).transpose()?;
        let idle_timeout_s = request.idle_timeout_s.unwrap_or(IDLE_TIMEOUT_S);
        let sandbox = Sandbox {
            id: SandboxId::new(self.clock.as_ref(), self.entropy.as_ref()),
            name: request.name,
            state: SandboxState::Creating,
            tier: placement.tier,
            requested_tier: request.tier,
            template: placement.template,
            resolved_template: placement.resolved_template,
            instance_type: request.instance_type.unwrap_or_default(),
            limits: placement.limits,
            labels: request.labels,
            metadata: request.metadata,
            promotion: request.promotion,
            created_at: now,
            started_at: None,
            expires_at,
            idle_timeout_s: (idle_timeout_s > 0).then_some(idle_timeout_s),
            keep_alive: request.keep_alive,
            ending: None,
        };
        Ok(Record { sandbox, owner: caller.owner.clone(), env: request.env, timeout_s: request.timeout_s })
    }

    /// The moment so many seconds after another.
    pub(crate) fn after(
        &self,
        moment: isopod_model::Timestamp,
        seconds: u64,
    ) -> Result<isopod_model::Timestamp> {
        moment.checked_add(Duration::from_secs(seconds)).map_err(Error::internal)
    }

    /// Makes what the record says, in the store and on the node at once. After an error there is neither.
    async fn make(&self, live: &Live, mut gate: GateGuard) -> Result<()> {
        let record = live.record();
        let sandbox = &record.sandbox;
        let spec = SandboxSpec {
            id: sandbox.id.clone(),
            tier: sandbox.tier,
            template: sandbox.resolved_template.clone(),
            limits: sandbox.limits,
            env: record.env.clone(),
        };
        let data = serde_json::json!({ "tier": sandbox.tier, "template": sandbox.resolved_template });
        let event = NewEvent { at: sandbox.created_at, kind: "sandbox.created", data };
        let (saved, made) = tokio::join!(self.store.insert(&record, &event), self.node.create(spec));
        match (saved, made) {
            (Ok(()), Ok(())) => {
                let started =
                    self.step(live, &mut gate, SandboxState::Running, "sandbox.started", None).await;
                if let Err(error) = started {
                    self.unmake(live, &mut gate, "it could not be saved").await;
                    return Err(error);
                }
                Ok(())
            }
            (Ok(()), Err(error)) => {
                self.unmake(live, &mut gate, &error.to_string()).await;
                Err(error)
            }
            (Err(error), made) => {
                let ending = self.ending(EndReason::Interrupted, "server", "it could not be saved");
                if made.is_ok()
                    && let Err(left) = self.node.delete(&live.id, ending.clone()).await
                {
                    tracing::error!(sandbox = %live.id, error = ?left, "a sandbox that was not saved is left");
                }
                self.forget(live, &mut gate, ending);
                Err(error)
            }
        }
    }

    /// Ends a sandbox whose making failed; what cannot be ended now is tried again by the sweep.
    async fn unmake(&self, live: &Live, gate: &mut GateGuard, why: &str) {
        gate.slot = None;
        let detail = format!("it could not be created: {why}");
        let ending = self.ending(EndReason::Interrupted, "server", detail);
        if let Err(error) = self.remove(live, gate, ending).await {
            tracing::error!(sandbox = %live.id, ?error, "a sandbox that could not be created is left for later");
        }
    }

    /// Takes a sandbox that was never saved out of memory.
    fn forget(&self, live: &Live, gate: &mut GateGuard, ending: Ending) {
        let mut record = (*live.record()).clone();
        record.sandbox.state = SandboxState::Ended;
        record.sandbox.ending = Some(ending);
        live.set(record);
        gate.slot = None;
        self.registry.remove(live);
    }

    /// An ending that happens now.
    pub(crate) fn ending(&self, reason: EndReason, by: &str, detail: impl Into<String>) -> Ending {
        Ending::new(reason, self.now(), by, detail)
    }
}
