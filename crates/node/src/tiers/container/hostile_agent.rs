//! Tests: an agent that was taken over says anything it likes. The host stays well and its container is ended.

#![expect(clippy::disallowed_methods, reason = "these tests run in real time")]

use super::{
    cgroup::Cgroups,
    launcher::{Descriptors, Launcher},
    shell::{Shell, Surroundings},
};
use crate::log::SandboxLog;
use isopod_guest::{
    frames::{FromAgent, ToAgent, decode, encode},
    socket,
};
use isopod_model::{Clock, EndReason, SandboxId, Timestamp};
use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

#[derive(Debug)]
struct Now;
impl Clock for Now {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A shell whose agent is the test, and whose first process is a `sleep` that must die when the host has had enough.
struct Stage {
    shell: Arc<Shell>,
    agent: OwnedFd,
    process: Child,
    _launcher: OwnedFd,
    _place: tempfile::TempDir,
}

async fn stage(key: &str) -> Stage {
    let place = tempfile::tempdir().expect("a directory");
    let id: SandboxId = "sb01k7tj507g6920hf7ban".parse().expect("an id");
    let log = SandboxLog::open(place.path(), id.clone(), Arc::new(Now)).await.expect("a log");
    let process = Command::new("sleep").arg("1000").spawn().expect("sleep");
    let pid = i32::try_from(process.id()).expect("a pid");
    let (launcher, other_end) = Launcher::without_process();
    let (ours, agent) = socket::pair().expect("socketpair");
    let groups = Cgroups::open(key, None).expect("control groups, as root");
    let around = Surroundings {
        id,
        slot: 0,
        uid_base: 0,
        disk_mib: 1,
        cgroup: groups.adopt("none"),
        launcher,
        log: Arc::new(log),
        journals: place.path().join("execs"),
        clock: Arc::new(Now),
    };
    groups.close();
    let raw = rustix::process::Pid::from_raw(pid).expect("positive");
    let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).expect("pidfd");
    let root = File::open(place.path()).expect("a directory").into();
    socket::send(agent.as_fd(), &encode(&FromAgent::Ready).expect("short"), &[], true).expect("send");
    let shell = Shell::begin(around, Descriptors { agent: ours, pidfd, root, pid })
        .await
        .expect("it says it is ready");
    Stage { shell, agent, process, _launcher: other_end, _place: place }
}

impl Stage {
    /// The host kills the container's first process, and says that the agent broke the protocol.
    async fn must_end(mut self) {
        let dead =
            tokio::task::spawn_blocking(move || self.process.wait().map(|status| (self.shell, status)));
        let (shell, status) = tokio::time::timeout(Duration::from_secs(20), dead)
            .await
            .expect("the container was not ended")
            .expect("no panic")
            .expect("reaped");
        assert!(!status.success());
        let (ending, asked) = shell.died(Some(9)).await;
        assert!(
            asked && ending.reason == EndReason::Killed && ending.detail.contains("protocol"),
            "{ending:?}"
        );
    }
}

#[tokio::test]
async fn garbage_ends_the_container() {
    for (index, message) in
        [&b"\xff\xff\xff\xff garbage"[..], &[2, 0xff, 0xff, 0xff, 0x7f], &[0, 0]].into_iter().enumerate()
    {
        let stage = stage(&format!("test-garbage-{index}")).await;
        socket::send(stage.agent.as_fd(), message, &[], true).expect("send");
        stage.must_end().await;
    }
}

#[tokio::test]
async fn an_oversized_frame_ends_the_container() {
    let stage = stage("test-oversized").await;
    let long = vec![0; isopod_guest::frames::MAX_FRAME + 1];
    socket::send(stage.agent.as_fd(), &long, &[], true).expect("the socket takes it");
    stage.must_end().await;
}

#[tokio::test]
async fn lies_about_execs_and_stray_descriptors_change_nothing() {
    let mut stage = stage("test-lies").await;
    let open_before = std::fs::read_dir("/proc/self/fd").expect("listed").count();
    let mut buffer = socket::buffer();
    for round in 0..500 {
        let exec = format!("ex../../{round}");
        let lies = [
            FromAgent::Exited { exec: exec.clone(), status: 0 },
            FromAgent::Failed { exec: exec.clone(), step: "\u{1b}[2Jnonsense".into(), errno: -7 },
            FromAgent::Inventory { running: vec![exec.clone(); 50], ended: vec![(exec.clone(), 9); 50] },
        ];
        let (agent, sent) =
            (stage.agent.try_clone().expect("dup"), lies.map(|lie| encode(&lie).expect("short")));
        tokio::task::spawn_blocking(move || {
            for bytes in sent {
                socket::send(agent.as_fd(), &bytes, &[agent.as_fd(), agent.as_fd()], true).expect("send");
            }
        })
        .await
        .expect("no panic");
        // What the host knows nothing of is acknowledged, so that an honest agent forgets it.
        for _ in 0..51 {
            let agent = stage.agent.try_clone().expect("dup");
            let (answer, space) = tokio::task::spawn_blocking(move || {
                let mut space = buffer;
                let received =
                    socket::receive(agent.as_fd(), &mut space, true).expect("answered").expect("open");
                (decode::<ToAgent>(&space[..received.0]).expect("a frame"), space)
            })
            .await
            .expect("no panic");
            buffer = space;
            assert!(matches!(answer, ToAgent::Acknowledge { exec: acknowledged } if acknowledged == exec));
        }
    }
    assert!(stage.process.try_wait().expect("asked").is_none(), "lies alone end nothing");
    assert!(stage.shell.execs().is_empty());
    let open_after = std::fs::read_dir("/proc/self/fd").expect("listed").count();
    assert!(open_after < open_before + 50, "stray descriptors are closed: {open_before} → {open_after}");
    drop(stage.agent);
    let dead = tokio::task::spawn_blocking(move || stage.process.wait());
    dead.await.expect("no panic").expect("an agent that hangs up is ended");
}
