//! A room with a real store, a node in memory, and time that stands still.
#![allow(dead_code, reason = "each test binary uses its own part")]

mod store;

use isopod_control::{Caller, Control, ControlSettings, DataPlane};
use isopod_model::{
    SandboxId, SandboxState,
    exec::{Exec, ExecRequest},
    sandbox::{CreateSandbox, Sandbox},
};
use isopod_testkit::{FakeNode, ManualClock, SeededEntropy};
use std::{sync::Arc, time::Duration};

pub(crate) use store::FaultyStore;

pub(crate) struct House {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) control: Arc<Control>,
    pub(crate) settings: ControlSettings,
    pub(crate) me: Caller,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(ControlSettings::default()).await
    }

    pub(crate) async fn with(settings: ControlSettings) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = ManualClock::new();
        let node = FakeNode::new(clock.clone());
        let (store, control) = open(directory.path(), &clock, &node, &settings, 1).await;
        Self { directory, clock, node, store, control, settings, me: Caller::local() }
    }

    /// As after the death of the process: what was in memory is gone, node and file are there. `between` happens
    /// while no server is there.
    pub(crate) async fn again(self, between: impl AsyncFnOnce(&FakeNode, &FaultyStore)) -> Self {
        let Self { directory, clock, node, store, control, settings, me } = self;
        drop(control);
        between(&node, &store).await;
        let (store, control) = open(directory.path(), &clock, &node, &settings, 2).await;
        Self { directory, clock, node, store, control, settings, me }
    }

    pub(crate) async fn create(&self) -> Sandbox {
        self.control.create(&self.me, CreateSandbox::default()).await.expect("is created")
    }

    pub(crate) async fn create_named(&self, name: &str) -> Sandbox {
        let request = CreateSandbox { name: Some(name.to_owned()), ..CreateSandbox::default() };
        self.control.create(&self.me, request).await.expect("is created")
    }

    pub(crate) async fn create_for(&self, timeout_s: u64) -> Sandbox {
        let request = CreateSandbox { timeout_s: Some(timeout_s), ..CreateSandbox::default() };
        self.control.create(&self.me, request).await.expect("is created")
    }

    pub(crate) async fn state(&self, id: &SandboxId) -> SandboxState {
        self.control.get(&self.me, id.as_str()).await.expect("is there").state
    }

    pub(crate) async fn data(&self, id: &SandboxId) -> DataPlane {
        self.control.data(&self.me, id.as_str()).await.expect("is there")
    }

    /// Time passes, and what became due is done.
    pub(crate) async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.control.settle().await;
    }

    /// Waits until a sandbox is in a state; the caller's test hangs if it never is.
    pub(crate) async fn until(&self, id: &SandboxId, state: SandboxState) {
        while self.state(id).await != state {
            tokio::task::yield_now().await;
        }
    }

    /// The kinds of a sandbox's events, in order.
    pub(crate) async fn kinds(&self, id: &SandboxId) -> Vec<String> {
        let events = self.control.events(&self.me, id.as_str(), 0, 1000).await.expect("are read");
        events.into_iter().map(|event| event.kind).collect()
    }
}

async fn open(
    data: &std::path::Path,
    clock: &Arc<ManualClock>,
    node: &Arc<FakeNode>,
    settings: &ControlSettings,
    seed: u64,
) -> (Arc<FaultyStore>, Arc<Control>) {
    let store = FaultyStore::open(data).await;
    let entropy = SeededEntropy::new(seed);
    let control = Control::open(store.clone(), node.clone(), clock.clone(), entropy, settings.clone());
    let control = control.await.expect("opens");
    // The first look of the background is over, so that later ones happen when the test says.
    control.settle().await;
    (store, control)
}

pub(crate) fn argv(words: &[&str]) -> ExecRequest {
    let argv = words.iter().map(|word| (*word).to_owned()).collect();
    ExecRequest { argv: Some(argv), ..ExecRequest::default() }
}

pub(crate) async fn run(data: &DataPlane, words: &[&str]) -> isopod_model::Result<Exec> {
    data.exec(argv(words), None).await
}
