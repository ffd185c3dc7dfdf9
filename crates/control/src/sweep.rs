//! What becomes due by itself: the end of a sandbox's time, idleness, removals to be finished, retention.

use crate::{core::Core, registry::Live};
use isopod_model::{EndReason, Result, SandboxState, Timestamp};
use std::{
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

const TICK: Duration = Duration::from_secs(1);
/// After a failed step, and while a call keeps an idle sandbox from being stopped.
const LATER_MS: i64 = 5_000;
const RETENTION_EVERY_MS: i64 = 3_600_000;

/// What is due for one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Expire,
    Idle,
    /// A removal that failed, or a making that could not be undone.
    Remove,
}

/// A background step for one sandbox, under way until this is dropped.
struct Step(Arc<Live>);

impl Drop for Step {
    fn drop(&mut self) {
        self.0.in_sweep.store(false, SeqCst);
    }
}

impl Core {
    /// Looks once a second until the room closes.
    pub(crate) async fn sweep_forever(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => drop(self.tick()),
            }
        }
    }

    /// Begins everything that is due now.
    pub(crate) fn tick(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let now = self.now();
        let mut begun = Vec::new();
        for live in self.registry.all() {
            let Some(due) = due(&live, now) else { continue };
            if live.in_sweep.swap(true, SeqCst) {
                continue;
            }
            let step = Step(live);
            let core = self.clone();
            begun.push(self.tasks.spawn(async move {
                let live = &step.0;
                if let Err(error) = core.settle(live, due).await {
                    tracing::warn!(sandbox = %live.id, ?due, ?error, "is tried again");
                    live.look_at.store(core.now().as_millisecond() + LATER_MS, SeqCst);
                }
            }));
        }
        if self.retention_at.load(Relaxed) <= now.as_millisecond() {
            self.retention_at.store(now.as_millisecond() + RETENTION_EVERY_MS, Relaxed);
            let core = self.clone();
            begun.push(self.tasks.spawn(async move { core.retain(now).await }));
        }
        begun
    }

    /// Returns once no background step is under way.
    pub(crate) async fn steps_done(&self) {
        while self.registry.all().iter().any(|live| live.in_sweep.load(SeqCst)) {
            tokio::task::yield_now().await;
        }
    }

    async fn settle(&self, live: &Live, due: Due) -> Result<()> {
        match due {
            Due::Expire => {
                let mut gate = live.enter().await;
                // It may have got more time while this waited.
                if !expired(live, self.now()) {
                    return Ok(());
                }
                let ending = self.ending(EndReason::Timeout, "ttl", "its time (timeout_s) ran out");
                self.remove(live, &mut gate, ending).await
            }
            Due::Idle => self.stop_if_idle(live).await,
            Due::Remove => {
                let Some(mut gate) = live.try_enter() else { return Ok(()) };
                if !matches!(live.state(), SandboxState::Creating | SandboxState::Deleting) {
                    return Ok(());
                }
                let ending = self.ending(EndReason::Interrupted, "server", "it could not be created");
                self.remove(live, &mut gate, ending).await
            }
        }
    }

    async fn stop_if_idle(&self, live: &Live) -> Result<()> {
        let mut gate = live.enter().await;
        let sandbox = live.sandbox();
        let Some(idle_s) = sandbox.idle_timeout_s.filter(|_| !sandbox.keep_alive) else {
            // Never, unless an update says otherwise.
            live.look_at.store(i64::MAX, SeqCst);
            return Ok(());
        };
        if sandbox.state != SandboxState::Running {
            return Ok(());
        }
        let status = self.node.status(&live.id).await?;
        if !status.running {
            return self.died(live, &mut gate, status.ending).await;
        }
        let now = self.now().as_millisecond();
        let idle_ms = i64::try_from(idle_s).unwrap_or(i64::MAX).saturating_mul(1000);
        let active_at = if status.running_execs > 0 { now } else { status.last_active_at.as_millisecond() };
        let idle_at = active_at.max(live.active_at.load(SeqCst)).saturating_add(idle_ms);
        if idle_at > now {
            live.look_at.store(idle_at, SeqCst);
            return Ok(());
        }
        let Some(_closed) = live.close_for_idle() else {
            live.look_at.store(now + LATER_MS, SeqCst);
            return Ok(());
        };
        let detail = format!(
            "nothing ran for {idle_s} s; its files are kept, and the next exec or file call starts it"
        );
        let ending = self.ending(EndReason::Killed, "idle", detail).with("idle_timeout_s", idle_s);
        self.halt(live, &mut gate, ending).await
    }

    async fn retain(&self, now: Timestamp) {
        let Ok(before) = now.checked_sub(self.settings.retention) else { return };
        match self.store.sweep(before).await {
            Ok(swept) if swept != isopod_store::Swept::default() => {
                tracing::info!(swept.sandboxes, swept.events, "records past their retention were removed");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(?error, "records past their retention could not be removed"),
        }
    }
}

fn expired(live: &Live, now: Timestamp) -> bool {
    live.record().sandbox.expires_at.is_some_and(|expires_at| expires_at <= now)
}

fn due(live: &Live, now: Timestamp) -> Option<Due> {
    let later = live.look_at.load(SeqCst) > now.as_millisecond();
    match live.state() {
        SandboxState::Ended => None,
        SandboxState::Creating | SandboxState::Deleting => {
            (!later && live.try_enter().is_some()).then_some(Due::Remove)
        }
        _ if expired(live, now) => Some(Due::Expire),
        SandboxState::Running if !later => Some(Due::Idle),
        _ => None,
    }
}
