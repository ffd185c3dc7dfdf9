//! What is counted.
//!
//! `sandbox_active` is kept by the registry's slots: sandboxes that are being created, run or are paused.

use isopod_model::{
    EndReason, Error, ExecId, SandboxId,
    exec::{Exec, ExecState},
    sandbox::Tier,
};
use isopod_node_api::{Node, WaitFor};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Programs that have a `command_class` of their own; every other is `other`, so that labels stay bounded.
const CLASSES: [&str; 22] = [
    "awk", "bash", "cargo", "cat", "curl", "echo", "find", "gcc", "git", "go", "grep", "ls", "make", "node",
    "npm", "pip", "python", "python3", "sed", "sh", "tar", "true",
];
/// How long one wait for an exec's end lasts before the next one begins.
const WAIT: Duration = Duration::from_secs(3600);

/// Says what each figure means, to the recorder that is installed.
pub(crate) fn describe() {
    describe_counter!("sandbox_created_total", "Sandboxes created.");
    describe_gauge!("sandbox_active", "Sandboxes that are being created, run or are paused.");
    describe_histogram!("sandbox_create_duration_seconds", Unit::Seconds, "Time to create a sandbox.");
    describe_counter!("sandbox_ended_total", "Sandboxes that ended, by reason.");
    describe_counter!("sandbox_exec_total", "Execs started.");
    describe_histogram!("sandbox_exec_duration_seconds", Unit::Seconds, "Time from start to end of an exec.");
}

pub(crate) fn sandbox_created(tier: Tier, template: &str, took: Duration) {
    counter!("sandbox_created_total", "tier" => tier.as_str(), "template" => template.to_owned())
        .increment(1);
    histogram!("sandbox_create_duration_seconds", "tier" => tier.as_str()).record(took.as_secs_f64());
}

pub(crate) fn sandbox_ended(reason: EndReason) {
    counter!("sandbox_ended_total", "reason" => reason.as_str()).increment(1);
}

/// The class of a program: its name if it is a common one.
fn command_class(program: &str) -> &'static str {
    let name = program.rsplit('/').next().unwrap_or_default();
    CLASSES.into_iter().find(|class| *class == name).unwrap_or("other")
}

/// Counts execs, and measures each one's duration when it ends, whoever waits for it or nobody.
///
/// An exec that outlives this process was counted by it, and its duration is measured by nobody.
#[derive(Debug, Clone)]
pub struct ExecMeter {
    stop: CancellationToken,
}

impl ExecMeter {
    /// A meter that waits for no exec's end any more once `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop }
    }

    /// Counts an exec that was just started on `node`.
    pub(crate) fn started(&self, node: &Arc<dyn Node>, exec: &Exec, program: &str) {
        let class = command_class(program);
        counter!("sandbox_exec_total", "tier" => exec.tier.as_str(), "command_class" => class).increment(1);
        if exec.state == ExecState::Ended {
            return ended(exec);
        }
        let (node, stop) = (node.clone(), self.stop.clone());
        let (sandbox, exec) = (exec.sandbox_id.clone(), exec.id.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = measure(node.as_ref(), &sandbox, &exec) => {}
            }
        });
    }
}

async fn measure(node: &dyn Node, sandbox: &SandboxId, exec: &ExecId) {
    loop {
        match node.exec_wait(sandbox, exec, WaitFor::Exit, WAIT).await {
            Ok(exec) => return ended(&exec),
            Err(Error::WaitTimeout { .. }) => {}
            // It went away together with its sandbox, after it had been killed.
            Err(_) => return,
        }
    }
}

fn ended(exec: &Exec) {
    let seconds = exec.duration_ms / 1000.0;
    histogram!("sandbox_exec_duration_seconds", "tier" => exec.tier.as_str()).record(seconds);
}

#[cfg(test)]
mod tests {
    use super::command_class;

    #[test]
    fn classes_are_bounded() {
        assert_eq!(command_class("/usr/bin/python3"), "python3");
        assert_eq!(command_class("git"), "git");
        for other in ["", "/", "python3.11-evil", "../../bash/", "\u{1f980}"] {
            assert_eq!(command_class(other), "other");
        }
    }
}
