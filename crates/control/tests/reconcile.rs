//! Starting again: what the store holds and what the node has are made to agree.

mod common;

use common::{House, run};
use isopod_model::{EndReason, Ending, Error, SandboxId, SandboxState, sandbox::CreateSandbox};
use isopod_node_api::{Node, SandboxSpec};
use isopod_store::{NewEvent, Store, Transition};

async fn gone(house: &House, id: &SandboxId) -> Ending {
    match house.control.get(&house.me, id.as_str()).await {
        Err(Error::Gone { ending, .. }) => *ending,
        other => panic!("{other:?}"),
    }
}

fn ending() -> Ending {
    let now = isopod_model::Timestamp::UNIX_EPOCH;
    Ending::new(EndReason::Killed, now, "operator", "by hand")
}

#[tokio::test]
async fn what_ran_runs_on() {
    let house = House::new().await;
    let running = house.create_named("running").await;
    let paused = house.create().await;
    let paused = house.control.pause(&house.me, paused.id.as_str()).await.expect("is paused");
    let stopped = house.create().await;
    let stopped = house.control.stop(&house.me, stopped.id.as_str()).await.expect("is stopped");
    let exec = run(&house.data(&running.id).await, &["sleep"]).await.expect("runs");
    let house = house.again(async |_, _| {}).await;
    for sandbox in [&running, &paused, &stopped] {
        assert_eq!(house.control.get(&house.me, sandbox.id.as_str()).await.as_ref(), Ok(sandbox));
    }
    assert_eq!(house.control.get(&house.me, "running").await, Ok(running.clone()), "names too");
    let record = house.data(&running.id).await.exec_get(&exec.id).await.expect("is there");
    assert_eq!(record.ended_at, None);
    let taken = CreateSandbox { name: Some("running".into()), ..CreateSandbox::default() };
    let taken = house.control.create(&house.me, taken).await;
    assert!(matches!(taken, Err(Error::NameTaken { .. })), "{taken:?}");
    assert_eq!(house.kinds(&running.id).await.len(), 2, "nothing happened to it");
    house.node.assert_no_violations();
}

#[tokio::test]
async fn what_died_meanwhile_is_stopped_with_its_ending() {
    let house = House::new().await;
    let running = house.create().await;
    let paused = house.create().await;
    house.control.pause(&house.me, paused.id.as_str()).await.expect("is paused");
    let house = house
        .again(async |node, _| {
            node.kill_silently(&running.id).expect("was up");
            node.kill_silently(&paused.id).expect("was up");
        })
        .await;
    for id in [&running.id, &paused.id] {
        let sandbox = house.control.get(&house.me, id.as_str()).await.expect("is there");
        assert_eq!(sandbox.state, SandboxState::Stopped);
        assert_eq!(sandbox.ending.expect("says why").reason, EndReason::Oom);
    }
    assert_eq!(house.control.counts().stopped, 2);
}

#[tokio::test]
async fn what_the_node_lost_has_ended() {
    let house = House::new().await;
    let sandbox = house.create_named("lost").await;
    let house =
        house.again(async |node, _| node.delete(&sandbox.id, ending()).await.expect("is removed")).await;
    assert_eq!(gone(&house, &sandbox.id).await.reason, EndReason::Interrupted);
    house.create_named("lost").await;
}

#[tokio::test]
async fn what_was_being_made_is_settled() {
    let house = House::new().await;
    let (unknown, made) = (house.create().await, house.create_named("made").await);
    let house = house
        .again(async |node, store| {
            // As if the server had died before the last step of each.
            store.rewrite_state(&unknown.id, SandboxState::Creating).await;
            store.rewrite_state(&made.id, SandboxState::Creating).await;
            node.delete(&unknown.id, ending()).await.expect("is removed");
        })
        .await;
    assert_eq!(gone(&house, &unknown.id).await.reason, EndReason::Interrupted);
    let made = house.control.get(&house.me, "made").await.expect("is there");
    assert_eq!(made.state, SandboxState::Running);
    run(&house.data(&made.id).await, &["true"]).await.expect("runs");
}

#[tokio::test]
async fn a_removal_is_finished_with_its_first_ending() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let house = house
        .again(async |_, store| {
            let event = NewEvent { at: ending().at, kind: "sandbox.deleting", data: serde_json::Value::Null };
            let transition = Transition {
                id: sandbox.id.clone(),
                from: vec![SandboxState::Running],
                to: SandboxState::Deleting,
                started_at: None,
                ending: Some(ending()),
                event,
            };
            store.transition(&transition).await.expect("is in the table");
        })
        .await;
    assert_eq!(gone(&house, &sandbox.id).await, ending());
    assert!(house.node.ids().is_empty());
}

#[tokio::test]
async fn a_removal_that_fails_at_the_start_is_finished_later() {
    let house = House::new().await;
    let sandbox = house.create().await;
    house.store.fail_next("to ended");
    house.control.delete(&house.me, sandbox.id.as_str()).await.expect_err("could not be saved");
    let house = house
        .again(async |node, _| {
            for _ in 0..2 {
                node.fail_next("delete", Error::Unavailable { reason: "busy".into() });
            }
        })
        .await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Deleting);
    house.pass(60).await;
    assert_eq!(gone(&house, &sandbox.id).await.by, "caller");
}

#[tokio::test]
async fn what_nobody_knows_of_is_removed() {
    let house = House::new().await;
    let known = house.create().await;
    let ended = house.create().await;
    let spec = house.node.spec(&ended.id).expect("is there");
    house.control.delete(&house.me, ended.id.as_str()).await.expect("is deleted");
    let house = house
        .again(async |node, _| {
            let stranger: SandboxId = "sb00000000000000000000".parse().expect("has the form");
            node.create(SandboxSpec { id: stranger, ..spec.clone() }).await.expect("is created");
            node.create(spec.clone()).await.expect("an ended one came back");
        })
        .await;
    assert_eq!(house.node.ids(), [known.id]);
}

#[tokio::test]
async fn time_ran_out_while_nobody_was_there() {
    let house = House::new().await;
    let sandbox = house.create_for(60).await;
    let clock = house.clock.clone();
    let house = house.again(async |_, _| clock.advance(std::time::Duration::from_secs(61))).await;
    assert_eq!(gone(&house, &sandbox.id).await.by, "ttl");
    assert!(house.node.ids().is_empty());
}

#[tokio::test]
async fn shutdown_lets_go_or_stops() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let data = house.data(&sandbox.id).await;
    house.control.shutdown(false).await;
    assert_eq!(house.node.shut_down(), Some(false));
    assert!(house.node.status(&sandbox.id).await.expect("is there").running, "it runs on");
    let late = house.control.create(&house.me, CreateSandbox::default()).await;
    assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
    drop(data);

    let house = House::new().await;
    let sandbox = house.create().await;
    house.control.shutdown(true).await;
    assert_eq!(house.node.shut_down(), Some(true));
    let stopped = house.control.get(&house.me, sandbox.id.as_str()).await.expect("memory still knows");
    assert_eq!(stopped.state, SandboxState::Stopped);
    assert_eq!(stopped.ending.expect("says why").by, "operator");
}
