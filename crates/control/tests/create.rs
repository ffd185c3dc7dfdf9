//! Making sandboxes: what is decided, what is refused, and that a failure leaves nothing.

mod common;

use common::House;
use isopod_control::{Caller, ControlSettings, ListFilter};
use isopod_model::{
    EndReason, Error, SandboxState,
    limits::LimitsRequest,
    sandbox::{CreateSandbox, Tier, TierRequest},
};
use std::collections::BTreeMap;

fn named(name: &str) -> CreateSandbox {
    CreateSandbox { name: Some(name.to_owned()), ..CreateSandbox::default() }
}

#[tokio::test]
async fn a_sandbox_is_what_was_asked_for() {
    let house = House::new().await;
    let request = CreateSandbox {
        limits: Some(LimitsRequest { memory_mib: Some(64), ..LimitsRequest::default() }),
        env: BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]),
        labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]),
        metadata: Some(serde_json::json!({"a": 1})),
        timeout_s: Some(60),
        ..named("mine")
    };
    let sandbox = house.control.create(&house.me, request).await.expect("is created");
    assert_eq!(sandbox.state, SandboxState::Running);
    assert_eq!((sandbox.tier, sandbox.requested_tier), (Tier::Container, TierRequest::Auto));
    assert_eq!((sandbox.template.as_str(), sandbox.resolved_template.as_str()), ("base", "host"));
    assert_eq!((sandbox.limits.memory_mib, sandbox.limits.pids), (64, 256));
    assert_eq!(sandbox.idle_timeout_s, Some(300));
    let lifetime = sandbox.expires_at.expect("was asked for").duration_since(sandbox.created_at);
    assert_eq!(lifetime.as_secs(), 60);
    let spec = house.node.spec(&sandbox.id).expect("is on the node");
    assert_eq!((spec.template.as_str(), spec.limits), ("host", sandbox.limits));
    assert_eq!(spec.env["TOKEN"], "s3cret");
    assert!(
        !serde_json::to_string(&sandbox).expect("is JSON").contains("s3cret"),
        "its environment is not shown"
    );
    assert_eq!(house.control.get(&house.me, "mine").await, Ok(sandbox.clone()));
    assert_eq!(house.control.get(&house.me, sandbox.id.as_str()).await, Ok(sandbox.clone()));
    assert_eq!(house.kinds(&sandbox.id).await, ["sandbox.created", "sandbox.started"]);
    house.node.assert_no_violations();
}

#[tokio::test]
async fn to_a_stranger_it_does_not_exist() {
    let house = House::new().await;
    let sandbox = house.create_named("mine").await;
    let stranger = Caller { owner: "somebody".to_owned() };
    for id in [sandbox.id.as_str(), "mine"] {
        let unknown = Error::NotFound { what: "sandbox", id: id.to_owned() };
        assert_eq!(house.control.get(&stranger, id).await, Err(unknown.clone()));
        assert_eq!(house.control.delete(&stranger, id).await, Err(unknown.clone()));
        assert_eq!(house.control.stop(&stranger, id).await, Err(unknown.clone()));
        assert_eq!(house.control.events(&stranger, id, 0, 10).await, Err(unknown.clone()));
        assert_eq!(house.control.data(&stranger, id).await.err(), Some(unknown));
    }
    let page = house.control.list(&stranger, ListFilter::default()).await.expect("is read");
    assert!(page.items.is_empty());
    let theirs = house.control.create(&stranger, named("mine")).await.expect("names are per owner");
    assert_ne!(theirs.id, sandbox.id);
    house.control.delete(&house.me, "mine").await.expect("is deleted");
    let unknown = Error::NotFound { what: "sandbox", id: sandbox.id.to_string() };
    assert_eq!(house.control.get(&stranger, sandbox.id.as_str()).await, Err(unknown), "not even its end");
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_the_node_is_asked() {
    let house = House::new().await;
    let refused = [
        CreateSandbox { template: Some("nope".to_owned()), ..CreateSandbox::default() },
        CreateSandbox { tier: TierRequest::Wasm, ..CreateSandbox::default() },
        CreateSandbox { always_on: true, ..CreateSandbox::default() },
        CreateSandbox {
            limits: Some(LimitsRequest { cpus: Some(1e9), ..LimitsRequest::default() }),
            ..CreateSandbox::default()
        },
        named("files"),
    ];
    let mut errors = Vec::new();
    for request in refused {
        errors.push(house.control.create(&house.me, request).await.expect_err("is refused").to_string());
    }
    assert_eq!(errors[0], "template: \"nope\" is unknown; available: host");
    assert_eq!(errors[1], "tier wasm is not available here: this fake has no engine");
    assert_eq!(errors[2], "always_on (mission row L4) is not built yet");
    assert!(errors[3].starts_with("limits.cpus: 1000000000 is not between"), "{}", errors[3]);
    assert_eq!(errors[4], "name: is reserved");
    assert_eq!(house.node.calls("create"), 0);
    assert_eq!(house.control.counts(), isopod_control::StateCounts::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_callers_for_one_name_one_makes_it() {
    let house = House::new().await;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (control, me) = (house.control.clone(), house.me.clone());
        callers.spawn(async move { control.get_or_create(&me, "shared", CreateSandbox::default()).await });
    }
    let outcomes: Vec<_> = callers.join_all().await.into_iter().map(|one| one.expect("is there")).collect();
    assert_eq!(outcomes.iter().filter(|(created, _)| *created).count(), 1);
    assert!(outcomes.iter().all(|(_, sandbox)| sandbox.id == outcomes[0].1.id));
    assert!(outcomes.iter().all(|(_, sandbox)| sandbox.state == SandboxState::Running));
    assert_eq!((house.node.calls("create"), house.node.ids().len()), (1, 1));
    let other = house.control.get_or_create(&house.me, "x", named("y")).await;
    assert!(matches!(other, Err(Error::Invalid { .. })), "{other:?}");
    house.node.assert_no_violations();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn if_the_first_of_them_fails_the_next_one_makes_it() {
    let house = House::new().await;
    house.node.fail_next("create", Error::Unavailable { reason: "the launcher is away".to_owned() });
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (control, me) = (house.control.clone(), house.me.clone());
        callers.spawn(async move { control.get_or_create(&me, "shared", CreateSandbox::default()).await });
    }
    let outcomes = callers.join_all().await;
    assert_eq!(outcomes.iter().filter(|one| one.is_err()).count(), 1, "who made the attempt hears of it");
    assert_eq!(outcomes.iter().filter(|one| matches!(one, Ok((true, _)))).count(), 1);
    assert_eq!(house.node.ids().len(), 1);
}

#[tokio::test]
async fn a_failure_leaves_nothing() {
    let house = House::with(ControlSettings { max_sandboxes: Some(1), ..ControlSettings::default() }).await;
    let failures: [(&str, &dyn Fn()); 3] = [
        ("node", &|| house.node.fail_next("create", Error::internal("told to fail"))),
        ("insert", &|| house.store.fail_next("insert")),
        ("running", &|| house.store.fail_next("to running")),
    ];
    for (name, fail) in failures {
        fail();
        let error = house.control.create(&house.me, named("mine")).await.expect_err("fails");
        assert!(matches!(error, Error::Internal { .. }), "{name}: {error:?}");
        assert!(house.node.ids().is_empty(), "{name}: nothing on the node");
        assert_eq!(house.control.counts(), isopod_control::StateCounts::default(), "{name}");
        let unknown = house.control.get(&house.me, "mine").await;
        assert!(matches!(unknown, Err(Error::NotFound { .. })), "{name}: {unknown:?}");
        let page = house.control.list(&house.me, ListFilter::default()).await.expect("is read");
        assert!(page.items.is_empty(), "{name}");
    }
    let ended = ListFilter { state: Some(SandboxState::Ended), ..ListFilter::default() };
    let ended = house.control.list(&house.me, ended).await.expect("is read").items;
    assert_eq!(ended.len(), 2, "what was saved has its end on record");
    assert!(
        ended.iter().all(|one| one.ending.as_ref().is_some_and(|end| end.reason == EndReason::Interrupted))
    );
    house.create_named("mine").await;
}

#[tokio::test]
async fn what_cannot_be_undone_at_once_is_undone_later() {
    let house = House::new().await;
    house.store.fail_next("to running");
    house.store.fail_next("to deleting");
    house.control.create(&house.me, named("mine")).await.expect_err("fails");
    assert_eq!(house.node.ids().len(), 1, "is still there");
    let during = house.control.get_or_create(&house.me, "mine", CreateSandbox::default()).await;
    assert!(matches!(during, Err(Error::Unavailable { .. })), "{during:?}");
    house.control.settle().await;
    assert!(house.node.ids().is_empty());
    house.create_named("mine").await;
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_leave_half_a_sandbox() {
    let house = House::new().await;
    let mut hold = house.node.hold("create");
    let (control, me) = (house.control.clone(), house.me.clone());
    let caller = tokio::spawn(async move { control.create(&me, named("mine")).await });
    hold.reached().await;
    caller.abort();
    assert!(caller.await.expect_err("it went away").is_cancelled());
    hold.release();
    let (created, sandbox) =
        house.control.get_or_create(&house.me, "mine", CreateSandbox::default()).await.expect("is there");
    assert!(!created && sandbox.state == SandboxState::Running);
    assert_eq!(house.node.ids(), [sandbox.id]);
}

#[tokio::test]
async fn a_full_node_says_so() {
    let house = House::with(ControlSettings { max_sandboxes: Some(2), ..ControlSettings::default() }).await;
    assert_eq!(house.control.report().await.max_sandboxes, 2);
    let first = house.create().await;
    let second = house.create().await;
    let full = house.control.create(&house.me, CreateSandbox::default()).await;
    assert!(matches!(full, Err(Error::NoCapacity { retry_after_s: 1.., .. })), "{full:?}");
    house.control.stop(&house.me, first.id.as_str()).await.expect("is stopped");
    let third = house.create().await;
    let start = house.control.start(&house.me, first.id.as_str()).await;
    assert!(matches!(start, Err(Error::NoCapacity { .. })), "a stopped one has no place: {start:?}");
    let exec = common::run(&house.data(&first.id).await, &["true"]).await;
    assert!(matches!(exec, Err(Error::NoCapacity { .. })), "{exec:?}");
    house.control.pause(&house.me, second.id.as_str()).await.expect("is paused");
    let full = house.control.create(&house.me, CreateSandbox::default()).await;
    assert!(matches!(full, Err(Error::NoCapacity { .. })), "a paused one keeps its place: {full:?}");
    house.control.delete(&house.me, third.id.as_str()).await.expect("is deleted");
    house.control.start(&house.me, first.id.as_str()).await.expect("there is room again");
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let house = House::new().await;
    for number in 0..5 {
        let labels = BTreeMap::from([("parity".to_owned(), (number % 2).to_string())]);
        let request = CreateSandbox { labels, ..CreateSandbox::default() };
        house.control.create(&house.me, request).await.expect("is created");
        house.clock.advance(std::time::Duration::from_millis(1));
    }
    let even = |cursor| ListFilter {
        labels: vec![("parity".to_owned(), "0".to_owned())],
        cursor,
        limit: 2,
        ..ListFilter::default()
    };
    let first = house.control.list(&house.me, even(None)).await.expect("is read");
    assert_eq!(first.items.len(), 2);
    assert!(first.items[0].id > first.items[1].id, "newest first");
    let second = house.control.list(&house.me, even(first.next_cursor)).await.expect("is read");
    assert_eq!((second.items.len(), second.next_cursor), (1, None));
    let running = ListFilter { state: Some(SandboxState::Running), limit: 5, ..ListFilter::default() };
    let whole = house.control.list(&house.me, running).await.expect("is read");
    assert_eq!((whole.items.len(), whole.next_cursor), (5, None), "a full last page is the last one");
    for bad in [
        ListFilter { limit: 0, ..ListFilter::default() },
        ListFilter { limit: 1001, ..ListFilter::default() },
        ListFilter { cursor: Some("' OR 1=1".to_owned()), ..ListFilter::default() },
        ListFilter { labels: vec![("x".into(), "\0".into())], ..ListFilter::default() },
    ] {
        let error = house.control.list(&house.me, bad.clone()).await;
        assert!(matches!(error, Err(Error::Invalid { .. })), "{bad:?}");
    }
}
