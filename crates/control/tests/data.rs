//! The data plane: starting what is stopped, once; files; what the node says of the dead.

mod common;

use common::{House, argv, run};
use futures::StreamExt;
use isopod_model::{EndReason, Error, SandboxState, exec::ExecRequest, file::MakeDirectory};
use isopod_node_api::{FileContext, FileWrite, OutputEvent};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_calls_on_a_stopped_sandbox_start_it_once() {
    let house = House::new().await;
    let sandbox = house.create().await;
    house.control.stop(&house.me, sandbox.id.as_str()).await.expect("is stopped");
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let data = house.data(&sandbox.id).await;
        calls.spawn(async move { run(&data, &["true"]).await });
    }
    assert!(calls.join_all().await.into_iter().all(|outcome| outcome.is_ok()));
    assert_eq!((house.node.calls("start"), house.node.calls("exec")), (1, 50));
    house.node.assert_no_violations();
}

#[tokio::test]
async fn a_dead_shell_is_noted_and_started_by_the_next_call() {
    let house = House::new().await;
    let sandbox = house.create().await;
    house.node.kill(&sandbox.id);
    house.until(&sandbox.id, SandboxState::Stopped).await;
    let ending = house.control.get(&house.me, sandbox.id.as_str()).await.expect("is there").ending;
    assert_eq!(ending.expect("says why").reason, EndReason::Oom);
    let data = house.data(&sandbox.id).await;
    run(&data, &["true"]).await.expect("starts it");

    house.node.kill_silently(&sandbox.id).expect("was up");
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running, "nobody told");
    run(&data, &["true"]).await.expect("the node's answer tells, and starts it");
    let kinds = house.kinds(&sandbox.id).await;
    let lives = kinds.iter().filter(|kind| *kind == "sandbox.stopped").count();
    assert_eq!(lives, 2, "each death is on record: {kinds:?}");

    house.node.kill_silently(&sandbox.id).expect("was up");
    house.pass(301).await;
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Stopped, "the idle look finds out too");
}

#[tokio::test]
async fn an_old_report_of_a_death_does_not_stop_the_next_life() {
    let house = House::new().await;
    let sandbox = house.create().await;
    // The event waits in the channel while this test's only thread goes on to the next start.
    house.node.kill(&sandbox.id);
    run(&house.data(&sandbox.id).await, &["true"]).await.expect("starts it");
    house.control.settle().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.state(&sandbox.id).await, SandboxState::Running);
}

#[tokio::test]
async fn lost_events_are_made_up_for() {
    let house = House::new().await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(house.create().await.id);
    }
    // More than the channel holds, without a pause in which they could be read.
    for id in &ids {
        house.node.kill(id);
    }
    for id in &ids {
        house.until(id, SandboxState::Stopped).await;
    }
}

#[tokio::test]
async fn a_paused_sandbox_says_what_to_do() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let data = house.data(&sandbox.id).await;
    house.control.pause(&house.me, sandbox.id.as_str()).await.expect("is paused");
    let hint = Error::WrongState { state: SandboxState::Paused, hint: "resume it first" };
    assert_eq!(run(&data, &["true"]).await, Err(hint.clone()));
    let stat = data.file_stat("/workspace", &FileContext::default(), true).await;
    assert_eq!(stat, Err(hint));
    data.stats().await.expect("figures need no shell");
    house.control.resume(&house.me, sandbox.id.as_str()).await.expect("is resumed");
    run(&data, &["true"]).await.expect("runs");
}

#[tokio::test]
async fn execs_are_checked_before_the_node_is_asked() {
    let house = House::new().await;
    let data = house.data(&house.create().await.id).await;
    let bad = [
        ExecRequest { timeout_ms: Some(0), ..argv(&["true"]) },
        ExecRequest { session: Some("s".into()), ..argv(&["true"]) },
        ExecRequest { shell: Some("true".into()), ..argv(&["true"]) },
        argv(&[]),
        argv(&["a\0b"]),
    ];
    for request in bad {
        let outcome = data.exec(request.clone(), None).await;
        assert!(matches!(outcome, Err(Error::Invalid { .. } | Error::NotBuilt { .. })), "{request:?}");
    }
    assert_eq!(house.node.calls("exec"), 0);
    let first = data.exec(argv(&["echo", "x"]), Some("k".into())).await.expect("runs");
    let again = data.exec(argv(&["echo", "x"]), Some("k".into())).await.expect("is found");
    assert_eq!(first.id, again.id);
    let other = data.exec(argv(&["echo", "y"]), Some("k".into())).await;
    assert!(matches!(other, Err(Error::IdempotencyMismatch { .. })), "{other:?}");
}

#[tokio::test]
async fn output_is_followed_to_the_end() {
    let house = House::new().await;
    let data = house.data(&house.create().await.id).await;
    let request = ExecRequest { stdin_open: true, ..argv(&["cat"]) };
    let exec = data.exec(request, None).await.expect("runs");
    let mut output = data.exec_follow(&exec.id, 0, 0).await.expect("is followed");
    data.exec_stdin(&exec.id, "hello".into(), false).await.expect("is read");
    let Some(Ok(OutputEvent::Output { data: bytes, offset: 0, .. })) = output.next().await else {
        panic!("the first piece comes first")
    };
    assert_eq!(bytes, "hello");
    data.exec_stdin(&exec.id, " world".into(), true).await.expect("is read");
    let rest: Vec<_> = output.collect().await;
    assert!(matches!(rest.last(), Some(Ok(OutputEvent::Ended(end))) if end.success), "{rest:?}");
    let slice = data.exec_output(&exec.id, 5, 0).await.expect("is held");
    assert_eq!(slice.stdout, " world");
}

#[tokio::test]
async fn a_body_is_sent_whole_or_not_at_all_when_the_shell_was_dead() {
    let house = House::new().await;
    let sandbox = house.create().await;
    let data = house.data(&sandbox.id).await;
    let body = || futures::stream::iter([Ok("a".into()), Ok("b".into())]).boxed();
    house.node.kill_silently(&sandbox.id).expect("was up");
    let (created, stat) =
        data.file_write("/workspace/x/y", FileWrite::default(), body()).await.expect("is written");
    assert!(created && stat.size_bytes == 2, "{stat:?}");
    let directory = MakeDirectory { path: "/workspace/d".into(), user: None, mode: None };
    assert_eq!(data.file_mkdir(&directory).await, Ok(true));
    let names = data.file_list("/workspace", &FileContext::default(), true).await.expect("is read");
    let names: Vec<_> = names.into_iter().map(|stat| stat.path).collect();
    assert_eq!(names, ["/workspace/d", "/workspace/x", "/workspace/x/y"]);

    // It dies while the body is being read: half of it is gone, so it is not sent a second time.
    let (node, id) = (house.node.clone(), sandbox.id.clone());
    let dying = futures::stream::iter([Ok("c".into())]).inspect(move |_: &std::io::Result<bytes::Bytes>| {
        node.kill_silently(&id);
    });
    let write = data.file_write("/workspace/z", FileWrite::default(), dying.boxed()).await;
    assert!(matches!(write, Err(Error::Unavailable { .. })), "{write:?}");
    let missing = data.file_stat("/workspace/z", &FileContext::default(), true).await;
    assert!(matches!(missing, Err(Error::FileNotFound { .. })), "{missing:?}");
}
