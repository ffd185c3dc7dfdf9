//! What becomes due by itself: ends of time, idle stops, retention.

mod common;

use common::{House, argv, run};
use isopod_control::ListFilter;
use isopod_model::{
    EndReason, Error, SandboxState,
    sandbox::{CreateSandbox, Sandbox, UpdateSandbox},
};
use isopod_node_api::FileContext;

async fn create_idle(house: &House, idle_timeout_s: u64, keep_alive: bool) -> Sandbox {
    let idle_timeout_s = Some(idle_timeout_s);
    let request = CreateSandbox { idle_timeout_s, keep_alive, ..CreateSandbox::default() };
    house.control.create(&house.me, request).await.expect("is created")
}

#[tokio::test]
async fn a_sandbox_ends_when_its_time_runs_out() {
    let house = House::new().await;
    let short = house.create_for(60).await;
    let long = house.create_for(600).await;
    let stopped = house.create_for(60).await;
    house.control.stop(&house.me, stopped.id.as_str()).await.expect("is stopped");
    let paused = house.create_for(60).await;
    house.control.pause(&house.me, paused.id.as_str()).await.expect("is paused");
    house.pass(59).await;
    assert_eq!(house.state(&short.id).await, SandboxState::Running);
    house.pass(1).await;
    for id in [&short.id, &stopped.id, &paused.id] {
        match house.control.get(&house.me, id.as_str()).await {
            Err(Error::Gone { ending, .. }) => {
                assert_eq!((ending.reason, ending.by.as_str()), (EndReason::Timeout, "ttl"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(house.state(&long.id).await, SandboxState::Running);
    assert_eq!(house.node.ids(), [long.id]);
    house.node.assert_no_violations();
}

#[tokio::test]
async fn keepalive_and_update_move_the_end() {
    let house = House::new().await;
    let sandbox = house.create_for(60).await;
    let forever = house.create().await;
    for _ in 0..3 {
        house.pass(50).await;
        let after = house.control.keepalive(&house.me, sandbox.id.as_str()).await.expect("lives");
        let left = after.expires_at.expect("is set").duration_since(isopod_model::Clock::now(&*house.clock));
        assert_eq!(left.as_secs(), 60);
        let other = house.control.keepalive(&house.me, forever.id.as_str()).await.expect("lives");
        assert_eq!(other.expires_at, None);
    }
    let update = UpdateSandbox { timeout_s: Some(1000), ..UpdateSandbox::default() };
    house.control.update(&house.me, sandbox.id.as_str(), update).await.expect("lives");
    house.pass(999).await;
    house.control.get(&house.me, sandbox.id.as_str()).await.expect("lives");
    house.pass(1).await;
    assert!(matches!(house.control.get(&house.me, sandbox.id.as_str()).await, Err(Error::Gone { .. })));
}

#[tokio::test]
async fn time_that_runs_out_during_the_making_ends_it_afterwards() {
    let house = House::new().await;
    let mut hold = house.node.hold("create");
    let (control, me) = (house.control.clone(), house.me.clone());
    let creating = tokio::spawn(async move {
        let request = CreateSandbox { timeout_s: Some(1), ..CreateSandbox::default() };
        control.create(&me, request).await
    });
    hold.reached().await;
    house.pass(10).await;
    hold.release();
    let sandbox = creating.await.expect("no panic").expect("is created");
    house.control.settle().await;
    assert!(matches!(house.control.get(&house.me, sandbox.id.as_str()).await, Err(Error::Gone { .. })));
    assert!(house.node.ids().is_empty());
}

#[tokio::test]
async fn the_background_looks_by_itself() {
    let house = House::new().await;
    let sandbox = house.create_for(60).await;
    house.clock.advance(std::time::Duration::from_secs(61));
    // Nobody settles: the background's own second does it.
    while house.control.get(&house.me, sandbox.id.as_str()).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_idle_sandbox_is_stopped_and_started_by_the_next_call() {
    let house = House::new().await;
    let sandbox = create_idle(&house, 100, false).await;
    let never = create_idle(&house, 0, false).await;
    let kept = create_idle(&house, 100, true).await;
    let data = house.data(&sandbox.id).await;
    house.pass(99).await;
    run(&data, &["true"]).await.expect("runs");
    house.pass(99).await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running, "an exec counts");
    house.control.keepalive(&house.me, sandbox.id.as_str()).await.expect("lives");
    house.pass(99).await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running, "a keepalive counts");
    house.pass(1).await;
    let stopped = house.control.get(&house.me, sandbox.id.as_str()).await.expect("is there");
    assert_eq!(stopped.state, SandboxState::Stopped);
    let ending = stopped.ending.expect("says why");
    assert_eq!((ending.reason, ending.by.as_str()), (EndReason::Killed, "idle"));
    assert!(ending.detail.contains("files are kept"), "{}", ending.detail);
    for id in [&never.id, &kept.id] {
        assert_eq!(house.state(id).await, SandboxState::Running);
    }
    data.file_list("/workspace", &FileContext::default(), false).await.expect("a file call starts it");
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running);
    let update = UpdateSandbox { keep_alive: Some(false), ..UpdateSandbox::default() };
    house.control.update(&house.me, kept.id.as_str(), update).await.expect("is changed");
    house.pass(1000).await;
    assert_eq!(house.state(&kept.id).await, SandboxState::Stopped, "what may be idle now is looked at again");
    house.node.assert_no_violations();
}

#[tokio::test]
async fn a_running_exec_keeps_it_up() {
    let house = House::new().await;
    let sandbox = create_idle(&house, 100, false).await;
    let data = house.data(&sandbox.id).await;
    let exec = run(&data, &["sleep"]).await.expect("runs");
    for _ in 0..5 {
        house.pass(150).await;
        assert_eq!(house.state(&sandbox.id).await, SandboxState::Running);
    }
    data.exec_signal(&exec.id, 9, true).await.expect("is ended");
    house.pass(99).await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running);
    house.pass(1).await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Stopped);
}

#[tokio::test]
async fn a_call_that_has_begun_is_not_cut_off() {
    let house = House::new().await;
    let sandbox = create_idle(&house, 100, false).await;
    let data = house.data(&sandbox.id).await;
    let mut hold = house.node.hold("exec");
    let exec = tokio::spawn(async move { run(&data, &["true"]).await });
    hold.reached().await;
    house.pass(1000).await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running);
    assert_eq!(house.node.calls("stop"), 0);
    hold.release();
    exec.await.expect("no panic").expect("runs");
}

#[tokio::test]
async fn a_call_during_an_idle_stop_waits_and_starts_it_again() {
    let house = House::new().await;
    let sandbox = create_idle(&house, 100, false).await;
    let data = house.data(&sandbox.id).await;
    let mut hold = house.node.hold("stop");
    house.clock.advance(std::time::Duration::from_secs(101));
    let settling = tokio::spawn({
        let control = house.control.clone();
        async move { control.settle().await }
    });
    hold.reached().await;
    let exec = tokio::spawn(async move { data.exec(argv(&["true"]), None).await });
    for _ in 0..50 {
        tokio::task::yield_now().await;
        assert_eq!(house.node.calls("exec"), 0, "no call reaches a sandbox that is being stopped");
    }
    hold.release();
    settling.await.expect("no panic");
    exec.await.expect("no panic").expect("runs after the start");
    assert_eq!((house.node.calls("stop"), house.node.calls("start"), house.node.calls("exec")), (1, 1, 1));
}

#[tokio::test]
async fn what_is_past_its_retention_is_removed() {
    let house = House::new().await;
    let old = house.create_named("old").await;
    house.control.delete(&house.me, "old").await.expect("is deleted");
    house.pass(6 * 24 * 3600).await;
    let young = house.create_named("young").await;
    house.control.delete(&house.me, "young").await.expect("is deleted");
    assert!(matches!(house.control.get(&house.me, old.id.as_str()).await, Err(Error::Gone { .. })));
    house.pass(24 * 3600 + 1).await;
    assert!(matches!(house.control.get(&house.me, old.id.as_str()).await, Err(Error::NotFound { .. })));
    assert!(matches!(house.control.get(&house.me, young.id.as_str()).await, Err(Error::Gone { .. })));
    let ended = ListFilter { state: Some(SandboxState::Ended), ..ListFilter::default() };
    assert_eq!(house.control.list(&house.me, ended).await.expect("is read").items.len(), 1);
}
