//! The fake node refuses and remembers what a caller of the seam must not do.

use isopod_model::{
    Clock, EndReason, Ending, Error, ExecId, SandboxId, SandboxState, exec::ExecRequest,
    limits::InstanceType, sandbox::Tier,
};
use isopod_node_api::{Node, NodeEvent, SandboxSpec};
use isopod_testkit::{FakeNode, ManualClock, SeededEntropy};
use std::{collections::BTreeMap, sync::Arc};

struct House {
    clock: Arc<ManualClock>,
    entropy: Arc<SeededEntropy>,
    node: Arc<FakeNode>,
}

impl House {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self { node: FakeNode::new(clock.clone()), clock, entropy: SeededEntropy::new(1) }
    }

    fn spec(&self) -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::new(&*self.clock, &*self.entropy),
            tier: Tier::Container,
            template: "host".to_owned(),
            limits: InstanceType::Lite.limits(),
            env: BTreeMap::new(),
        }
    }

    fn exec_id(&self) -> ExecId {
        ExecId::new(&*self.clock, &*self.entropy)
    }

    fn ending(&self) -> Ending {
        Ending::new(EndReason::Killed, self.clock.now(), "caller", "as it was asked for")
    }

    fn was_misused(&self) -> bool {
        let node = self.node.clone();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.assert_no_violations())).is_err()
    }
}

fn shell(text: &str) -> ExecRequest {
    ExecRequest { shell: Some(text.to_owned()), ..ExecRequest::default() }
}

#[tokio::test]
async fn specs_that_were_not_decided_are_violations() {
    for change in [
        (|spec| spec.tier = Tier::Wasm) as fn(&mut SandboxSpec),
        |spec| spec.template = "base".to_owned(),
        |spec| spec.limits.cpus = 1e9,
    ] {
        let house = House::new();
        let mut spec = house.spec();
        change(&mut spec);
        assert!(matches!(house.node.create(spec).await, Err(Error::Internal { .. })));
        assert!(house.was_misused());
    }
    let house = House::new();
    let spec = house.spec();
    house.node.create(spec.clone()).await.expect("is created");
    house.node.assert_no_violations();
    assert!(matches!(house.node.create(spec).await, Err(Error::Internal { .. })));
    assert!(house.was_misused());
}

#[tokio::test]
async fn execs_that_were_not_checked_are_violations() {
    let house = House::new();
    let spec = house.spec();
    house.node.create(spec.clone()).await.expect("is created");
    let bad = ExecRequest { timeout_ms: Some(0), ..shell("true") };
    house.node.exec(&spec.id, house.exec_id(), bad, None).await.expect_err("is refused");
    assert!(house.was_misused());
}

#[tokio::test]
async fn only_what_runs_runs_execs() {
    let house = House::new();
    let spec = house.spec();
    let exec = |text: &'static str| house.node.exec(&spec.id, house.exec_id(), shell(text), None);
    assert!(matches!(exec("true").await, Err(Error::NotFound { what: "sandbox", .. })));
    house.node.create(spec.clone()).await.expect("is created");
    let echo = exec("echo hello world").await.expect("runs");
    let result = house.node.exec_result(&spec.id, &echo.id).await.expect("has ended");
    assert_eq!((result.stdout.as_str(), result.exec.exit_code), ("hello world\n", Some(0)));
    let sleep = exec("sleep 10").await.expect("runs");
    house.node.stop(&spec.id, house.ending()).await.expect("is stopped");
    let result = house.node.exec_result(&spec.id, &sleep.id).await.expect("has ended");
    assert_eq!((result.exec.reason, result.exec.exit_code), (Some(EndReason::Killed), Some(137)));
    assert!(matches!(exec("true").await, Err(Error::WrongState { state: SandboxState::Stopped, .. })));
    house.node.start(&spec.id).await.expect("is started");
    house.node.pause(&spec.id).await.expect("is paused");
    assert!(matches!(exec("true").await, Err(Error::WrongState { state: SandboxState::Paused, .. })));
    house.node.assert_no_violations();
    house.node.pause(&spec.id).await.expect_err("twice");
    assert!(house.was_misused());
}

#[tokio::test]
async fn faults_enter_through_the_seam() {
    let house = House::new();
    let spec = house.spec();
    let mut events = house.node.events();
    house.node.fail_next("create", Error::internal("told to fail"));
    house.node.create(spec.clone()).await.expect_err("fails once");
    house.node.create(spec.clone()).await.expect("and not twice");
    assert_eq!(house.node.calls("create"), 2);
    house.node.kill(&spec.id);
    let Ok(NodeEvent::Died { id, ending }) = events.recv().await else { panic!("it is told") };
    assert_eq!((id, ending.reason), (spec.id.clone(), EndReason::Oom));
    let mut hold = house.node.hold("start");
    let start = tokio::spawn({
        let (node, id) = (house.node.clone(), spec.id.clone());
        async move { node.start(&id).await }
    });
    hold.reached().await;
    assert!(!house.node.status(&spec.id).await.expect("is there").running);
    hold.release();
    start.await.expect("no panic").expect("is started");
    house.node.shutdown(false).await;
    assert!(!house.was_misused());
    house.node.start(&spec.id).await.expect("works");
    assert!(house.was_misused(), "nothing may come after the shutdown");
}
