//! A node in memory.

mod exec;
mod fault;
mod file;
mod lifecycle;
mod seam;

use exec::FakeExec;
use file::FakeFile;
use isopod_model::{
    Clock, Ending, Error, ExecId, Result, SandboxId, SandboxState, Timestamp, event::Event,
    exec::ExecRequest, limits::Limits, sandbox::Tier,
};
use isopod_node_api::{HostCheck, HostReport, NodeEvent, SandboxSpec, TierReport, unknown_sandbox};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::{broadcast, watch};

pub use fault::Hold;

/// Few on purpose: a test that kills many sandboxes at once makes the reader lose events.
const EVENTS_KEPT: usize = 16;

/// A node in memory, strict about how it is used.
///
/// Commands are scripts: `echo WORD…`, `true`, `false`, `exit N`, `sleep` (until it is ended), `cat` (its standard
/// input), `fail TEXT` (on standard error, exit 1), `yes N` (N bytes), `printenv NAME`; `/bin/bash -c` runs one of
/// them, split at blanks; anything else exits 127.
pub struct FakeNode {
    /// Itself, for what goes on after a call.
    me: Weak<Self>,
    clock: Arc<dyn Clock>,
    state: Mutex<NodeState>,
    events: broadcast::Sender<NodeEvent>,
}

struct NodeState {
    report: HostReport,
    sandboxes: HashMap<SandboxId, FakeSandbox>,
    faults: Vec<(&'static str, Error)>,
    holds: Vec<fault::Held>,
    calls: HashMap<&'static str, u64>,
    violations: Vec<String>,
    shut_down: Option<bool>,
}

struct FakeSandbox {
    spec: SandboxSpec,
    running: bool,
    paused: bool,
    last_active_at: Timestamp,
    ending: Option<Ending>,
    execs: BTreeMap<ExecId, FakeExec>,
    keys: HashMap<String, (ExecRequest, ExecId)>,
    files: BTreeMap<String, FakeFile>,
    writes: u64,
    log: Vec<Event>,
    log_changed: watch::Sender<u64>,
}

impl FakeNode {
    /// A node that offers the container tier, the template `host`, and room for 1000 sandboxes.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let tier = |tier, available, reason: &str| TierReport { tier, available, reason: reason.to_owned() };
        let report = HostReport {
            tiers: vec![
                tier(Tier::Wasm, false, "this fake has no engine"),
                tier(Tier::Container, true, ""),
                tier(Tier::Microvm, false, "this fake has no /dev/kvm"),
            ],
            checks: vec![HostCheck {
                name: "user namespaces".to_owned(),
                verdict: "ok".to_owned(),
                found: "pretended".to_owned(),
                remedy: String::new(),
            }],
            most: Limits { memory_mib: 8192, cpus: 4.0, disk_mib: 40_960, pids: 4096 },
            max_sandboxes: 1000,
            templates: BTreeMap::from([("host".to_owned(), "a pretended host".to_owned())]),
        };
        let state = NodeState {
            report,
            sandboxes: HashMap::new(),
            faults: Vec::new(),
            holds: Vec::new(),
            calls: HashMap::new(),
            violations: Vec::new(),
            shut_down: None,
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            clock,
            state: Mutex::new(state),
            events: broadcast::channel(EVENTS_KEPT).0,
        })
    }

    /// Changes what the node says of its host.
    pub fn set_report(&self, change: impl FnOnce(&mut HostReport)) {
        change(&mut self.lock().report);
    }

    /// The ids of everything on the node, sorted.
    pub fn ids(&self) -> Vec<SandboxId> {
        let mut ids: Vec<_> = self.lock().sandboxes.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// The spec that a sandbox was created with.
    pub fn spec(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.lock().sandboxes.get(id).map(|sandbox| sandbox.spec.clone())
    }

    /// With which wish it was shut down, if it was.
    pub fn shut_down(&self) -> Option<bool> {
        self.lock().shut_down
    }

    fn me(&self) -> Arc<Self> {
        self.me.upgrade().expect("it is being used, so it is there")
    }

    fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a sandbox, whatever state it is in.
    fn with<T>(&self, id: &SandboxId, look: impl FnOnce(&mut FakeSandbox) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        look(state.sandboxes.get_mut(id).ok_or_else(|| unknown_sandbox(id))?)
    }

    /// Looks at a sandbox that must have its shell; counts as activity.
    fn with_shell<T>(&self, id: &SandboxId, look: impl FnOnce(&mut FakeSandbox) -> Result<T>) -> Result<T> {
        let now = self.clock.now();
        self.with(id, |sandbox| {
            if !sandbox.running {
                return Err(Error::WrongState { state: SandboxState::Stopped, hint: "start it first" });
            }
            if sandbox.paused {
                return Err(Error::WrongState { state: SandboxState::Paused, hint: "resume it first" });
            }
            sandbox.last_active_at = now;
            look(sandbox)
        })
    }

    /// Remembers that the seam was used wrongly.
    fn violation(&self, what: String) -> Error {
        self.lock().violations.push(what.clone());
        Error::internal(what)
    }
}

impl FakeSandbox {
    fn note(&mut self, at: Timestamp, kind: &str, data: serde_json::Value) {
        let seq = i64::try_from(self.log.len()).unwrap_or(i64::MAX) + 1;
        let sandbox_id = self.spec.id.clone();
        self.log.push(Event { seq, at, sandbox_id, kind: kind.to_owned(), data });
        self.log_changed.send_modify(|version| *version += 1);
    }
}
