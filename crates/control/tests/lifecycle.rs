//! States and the calls that change them, one by one and against each other.

mod common;

use common::{House, run};
use isopod_control::Control;
use isopod_model::{
    EndReason, Entropy, Error, SandboxId, SandboxState,
    exec::ExecState,
    sandbox::{CreateSandbox, Tier, UpdateSandbox},
};
use isopod_testkit::SeededEntropy;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Start,
    Stop,
    Pause,
    Resume,
    Keepalive,
    Update,
    Exec,
    Delete,
}

const CALLS: [Call; 8] = [
    Call::Start,
    Call::Stop,
    Call::Pause,
    Call::Resume,
    Call::Keepalive,
    Call::Update,
    Call::Exec,
    Call::Delete,
];

async fn make(
    control: &Control,
    me: &isopod_control::Caller,
    id: &SandboxId,
    call: Call,
) -> Result<(), Error> {
    let id = id.as_str();
    match call {
        Call::Start => control.start(me, id).await.map(drop),
        Call::Stop => control.stop(me, id).await.map(drop),
        Call::Pause => control.pause(me, id).await.map(drop),
        Call::Resume => control.resume(me, id).await.map(drop),
        Call::Keepalive => control.keepalive(me, id).await.map(drop),
        Call::Update => {
            let update = UpdateSandbox { keep_alive: Some(true), ..UpdateSandbox::default() };
            control.update(me, id, update).await.map(drop)
        }
        Call::Exec => run(&control.data(me, id).await?, &["true"]).await.map(drop),
        Call::Delete => control.delete(me, id).await,
    }
}

#[tokio::test]
async fn every_call_in_every_state() {
    use SandboxState::{Ended, Paused, Running, Stopped};
    let same = |state| (Ok(()), state);
    let wrong = |state| (Err("wrong state"), state);
    let expected = |from, call| match (from, call) {
        (_, Call::Delete) => same(Ended),
        (state, Call::Keepalive | Call::Update) => same(state),
        (Running, Call::Start | Call::Resume | Call::Exec) => same(Running),
        (Running | Paused, Call::Stop) | (Stopped, Call::Stop) => same(Stopped),
        (Running | Paused, Call::Pause) => same(Paused),
        (Paused, Call::Resume) => same(Running),
        (Paused, Call::Start | Call::Exec) => wrong(Paused),
        (Stopped, Call::Start | Call::Exec) => same(Running),
        (Stopped, Call::Pause | Call::Resume) => wrong(Stopped),
        (state, call) => panic!("{state:?} {call:?}"),
    };
    let house = House::new().await;
    for from in [Running, Paused, Stopped] {
        for call in CALLS {
            let id = house.create().await.id;
            match from {
                Paused => make(&house.control, &house.me, &id, Call::Pause).await.expect("is paused"),
                Stopped => make(&house.control, &house.me, &id, Call::Stop).await.expect("is stopped"),
                _ => {}
            }
            let outcome = make(&house.control, &house.me, &id, call).await;
            let outcome = outcome.map_err(|error| match error {
                Error::WrongState { .. } => "wrong state",
                _ => "another error",
            });
            let after = match house.control.get(&house.me, id.as_str()).await {
                Ok(sandbox) => sandbox.state,
                Err(Error::Gone { .. }) => Ended,
                Err(error) => panic!("{error:?}"),
            };
            assert_eq!((outcome, after), expected(from, call), "{from:?} {call:?}");
        }
    }
    house.node.assert_no_violations();
}

#[tokio::test]
async fn an_ended_sandbox_is_gone_with_its_ending_and_its_name_is_free() {
    let house = House::new().await;
    let sandbox = house.create_named("mine").await;
    let data = house.data(&sandbox.id).await;
    house.control.delete(&house.me, "mine").await.expect("is deleted");
    assert!(house.node.ids().is_empty());
    for call in CALLS.into_iter().filter(|call| *call != Call::Delete) {
        match make(&house.control, &house.me, &sandbox.id, call).await {
            Err(Error::Gone { ending, .. }) => {
                assert_eq!((ending.reason, ending.by.as_str()), (EndReason::Killed, "caller"), "{call:?}");
            }
            other => panic!("{call:?}: {other:?}"),
        }
    }
    let late = run(&data, &["true"]).await;
    assert!(matches!(late, Err(Error::Gone { .. })), "a data plane from before: {late:?}");
    let late = data.exec_list(None, 10).await;
    assert!(matches!(late, Err(Error::Gone { .. })), "{late:?}");
    house.control.delete(&house.me, sandbox.id.as_str()).await.expect("again is Ok");
    let kinds = house.kinds(&sandbox.id).await;
    assert_eq!(kinds, ["sandbox.created", "sandbox.started", "sandbox.deleting", "sandbox.ended"]);
    let unknown = house.control.get(&house.me, "mine").await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })), "{unknown:?}");
    assert_ne!(house.create_named("mine").await.id, sandbox.id);
    let hostile = house.control.get(&house.me, &"x/../".repeat(10_000)).await;
    assert!(matches!(hostile, Err(Error::NotFound { ref id, .. }) if id.len() < 200));
}

#[tokio::test]
async fn a_delete_during_a_create_waits_and_wins() {
    let house = House::new().await;
    let mut hold = house.node.hold("create");
    let (control, me) = (house.control.clone(), house.me.clone());
    let creating = tokio::spawn(async move { control.create(&me, CreateSandbox::default()).await });
    hold.reached().await;
    // The row is saved beside the node's work, so it may take a moment to be seen.
    let listed = loop {
        let page = house.control.list(&house.me, Default::default()).await.expect("is read");
        if let Some(sandbox) = page.items.into_iter().next() {
            break sandbox;
        }
    };
    assert_eq!(listed.state, SandboxState::Creating);
    let (control, me, id) = (house.control.clone(), house.me.clone(), listed.id.clone());
    let deleting = tokio::spawn(async move { control.delete(&me, id.as_str()).await });
    let data = house.data(&listed.id).await;
    let exec = tokio::spawn(async move { run(&data, &["true"]).await });
    hold.release();
    creating.await.expect("no panic").expect("is created first");
    deleting.await.expect("no panic").expect("is deleted then");
    let exec = exec.await.expect("no panic");
    assert!(matches!(exec, Ok(_) | Err(Error::Gone { .. })), "{exec:?}");
    assert!(house.node.ids().is_empty());
    house.node.assert_no_violations();
}

#[tokio::test]
async fn a_stop_during_an_exec_ends_it() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let data = house.data(&sandbox.id).await;
    let exec = run(&data, &["sleep"]).await.expect("is started");
    let waiting = tokio::spawn({
        let (data, id) = (data.clone(), exec.id.clone());
        async move { data.exec_result(&id).await }
    });
    let stopped = house.control.stop(&house.me, sandbox.id.as_str()).await.expect("is stopped");
    assert_eq!(stopped.state, SandboxState::Stopped);
    assert_eq!(stopped.ending.expect("is noted").by, "caller");
    let result = waiting.await.expect("no panic").expect("has a result").exec;
    assert_eq!((result.state, result.reason), (ExecState::Ended, Some(EndReason::Killed)));
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Stopped, "asking for the result wakes nothing");
    let again = run(&data, &["echo", "hello"]).await.expect("starts it");
    assert_eq!(data.exec_result(&again.id).await.expect("has a result").stdout, "hello\n");
    let sandbox = house.control.get(&house.me, sandbox.id.as_str()).await.expect("is there");
    assert!(sandbox.state == SandboxState::Running && sandbox.ending.is_none());
    let kinds = house.kinds(&sandbox.id).await;
    assert_eq!(kinds, ["sandbox.created", "sandbox.started", "sandbox.stopped", "sandbox.started"]);
}

#[tokio::test]
async fn a_removal_that_fails_is_finished_later() {
    let house = House::new().await;
    let sandbox = house.create_named("mine").await;
    house.node.fail_next("delete", Error::Unavailable { reason: "the launcher is away".to_owned() });
    let failed = house.control.delete(&house.me, "mine").await;
    assert!(matches!(failed, Err(Error::Unavailable { .. })), "{failed:?}");
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Deleting);
    let exec = run(&house.data(&sandbox.id).await, &["true"]).await;
    assert!(matches!(exec, Err(Error::Gone { .. })), "{exec:?}");
    house.pass(10).await;
    assert!(matches!(house.control.get(&house.me, sandbox.id.as_str()).await, Err(Error::Gone { .. })));
    assert!(house.node.ids().is_empty());
}

#[tokio::test]
async fn updates_change_what_they_name() {
    let house = House::new().await;
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    let request = CreateSandbox { labels, timeout_s: Some(60), ..CreateSandbox::default() };
    let sandbox = house.control.create(&house.me, request).await.expect("is created");
    let update = UpdateSandbox {
        labels: Some(BTreeMap::from([("a".into(), None), ("c".into(), Some("3".into()))])),
        timeout_s: Some(0),
        idle_timeout_s: Some(0),
        ..UpdateSandbox::default()
    };
    let after = house.control.update(&house.me, sandbox.id.as_str(), update).await.expect("is changed");
    let keys: Vec<_> = after.labels.keys().map(String::as_str).collect();
    assert_eq!(
        (keys.as_slice(), after.expires_at, after.idle_timeout_s),
        (["b", "c"].as_slice(), None, None)
    );
    house.node.assert_no_violations();
    let stored = isopod_store::Store::get(&*house.store, &sandbox.id).await.expect("is read");
    assert_eq!(stored.expect("is there").sandbox, after);
    let bad = UpdateSandbox { timeout_s: Some(u64::MAX), ..UpdateSandbox::default() };
    let bad = house.control.update(&house.me, sandbox.id.as_str(), bad).await;
    assert!(matches!(bad, Err(Error::Invalid { ref field, .. }) if field == "timeout_s"), "{bad:?}");
    house.store.fail_next("update");
    let lost = UpdateSandbox { keep_alive: Some(true), ..UpdateSandbox::default() };
    house.control.update(&house.me, sandbox.id.as_str(), lost).await.expect_err("could not be saved");
    assert_eq!(house.control.get(&house.me, sandbox.id.as_str()).await, Ok(after), "so it is not shown");
}

#[tokio::test]
async fn tiers_that_are_not_there_are_said_to_be_so() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let id = sandbox.id.as_str();
    assert_eq!(house.control.promote(&house.me, id, Tier::Container).await, Ok(sandbox.clone()));
    assert_eq!(house.control.demote(&house.me, id, Tier::Container).await, Ok(sandbox.clone()));
    let unavailable = house.control.promote(&house.me, id, Tier::Microvm).await;
    assert!(
        matches!(unavailable, Err(Error::TierUnavailable { tier: Tier::Microvm, .. })),
        "{unavailable:?}"
    );
    house.node.set_report(|report| report.tiers.iter_mut().for_each(|tier| tier.available = true));
    let lighter = house.control.promote(&house.me, id, Tier::Wasm).await;
    assert!(matches!(lighter, Err(Error::Invalid { .. })), "{lighter:?}");
    let heavier = house.control.promote(&house.me, id, Tier::Microvm).await;
    assert!(matches!(heavier, Err(Error::NotBuilt { .. })), "{heavier:?}");
}

/// Many callers at once, each with its own sequence of calls on the same sandbox: whatever happens, the events are a
/// walk along the lifecycle table, and node, store and memory agree in the end.
async fn storm(seed: u64) {
    let house = House::new().await;
    let id = house.create_named("stormy").await.id;
    let entropy = SeededEntropy::new(seed);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let calls: Vec<Call> = (0..12)
            .map(|_| {
                // Deletes are rare, so that most storms see more than the first few calls.
                let pick = entropy.bits() % 60;
                if pick == 0 { Call::Delete } else { CALLS[(pick % 7) as usize] }
            })
            .collect();
        let (control, me, id) = (house.control.clone(), house.me.clone(), id.clone());
        let node = house.node.clone();
        let kills = entropy.bits().is_multiple_of(4);
        callers.spawn(async move {
            for call in calls {
                let outcome = make(&control, &me, &id, call).await;
                let expected = matches!(outcome, Ok(()) | Err(Error::WrongState { .. } | Error::Gone { .. }));
                assert!(expected, "{call:?}: {outcome:?}");
                if kills {
                    node.kill_if_running(&id);
                }
                control.settle().await;
            }
        });
    }
    while let Some(outcome) = callers.join_next().await {
        outcome.expect("no call surprises");
    }
    settle_and_check(&house, &id).await;
}

async fn settle_and_check(house: &House, id: &SandboxId) {
    // A shell that was killed last may not have been noted yet; the next exec finds out.
    let _ = make(&house.control, &house.me, id, Call::Resume).await;
    let exec = make(&house.control, &house.me, id, Call::Exec).await;
    let sandbox = match house.control.get(&house.me, id.as_str()).await {
        Ok(sandbox) => sandbox,
        Err(Error::Gone { .. }) => {
            assert!(matches!(exec, Err(Error::Gone { .. })), "{exec:?}");
            assert!(house.node.ids().is_empty(), "what is gone is gone from the node");
            house.create_named("stormy").await
        }
        Err(error) => panic!("{error:?}"),
    };
    if sandbox.id == *id {
        assert_eq!(exec, Ok(()));
        assert_eq!(sandbox.state, SandboxState::Running);
    }
    house.node.assert_no_violations();
    let stored = isopod_store::Store::get(&*house.store, &sandbox.id).await.expect("is read");
    assert_eq!(stored.expect("is there").sandbox, sandbox, "memory shows what is saved");
    let events = house.control.events(&house.me, id.as_str(), 0, 1000).await.expect("are read");
    let mut state = SandboxState::Creating;
    for event in &events {
        let to = match event.kind.as_str() {
            "sandbox.created" | "sandbox.updated" => continue,
            "sandbox.started" | "sandbox.resumed" => SandboxState::Running,
            "sandbox.paused" => SandboxState::Paused,
            "sandbox.stopped" => SandboxState::Stopped,
            "sandbox.deleting" => SandboxState::Deleting,
            "sandbox.ended" => SandboxState::Ended,
            kind => panic!("{kind}"),
        };
        assert!(state.may_become(to), "{state:?} to {to:?} in {events:#?}");
        state = to;
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, max_shrink_iters: 0, ..Default::default() })]
    #[test]
    fn storms_of_calls_keep_to_the_table(seed in 1_u64..1_000_000) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(storm(seed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn double_deletes_are_one_end() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let mut deletes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (control, me, id) = (Arc::clone(&house.control), house.me.clone(), sandbox.id.clone());
        deletes.spawn(async move { control.delete(&me, id.as_str()).await });
    }
    assert!(deletes.join_all().await.into_iter().all(|outcome| outcome == Ok(())));
    assert_eq!(house.node.calls("delete"), 1);
    assert_eq!(house.kinds(&sandbox.id).await.last().map(String::as_str), Some("sandbox.ended"));
}
