//! Lives of sandboxes: many at once, ended by time or by hand, frozen, woken, and nothing left of them.

mod support;

use futures::{StreamExt, stream};
use support::{Host, Sandbox, Server, State, json, until};

#[tokio::test]
async fn three_hundred_lives_leave_the_host_as_it_was() {
    let server = Server::start_with(&[("ISOPOD_WARM_POOL", "8")]).await;
    let before: State = server.after_one_life().await;
    let lives = stream::iter(1..=300).map(|number| cycle(&server, number)).buffer_unordered(16);
    assert_eq!(lives.count().await, 300);
    server.host().assert_as_before(&before).await;
    let ended = server.get("/v1/sandboxes?state=ended&limit=1000").await.expect(200).json();
    assert_eq!(ended["items"].as_array().map(Vec::len), Some(301));
}

async fn cycle(server: &Server, number: u32) {
    let sandbox = server.sandbox(json!({})).await;
    let done = sandbox.sh(&format!("echo {number} > file; (sleep 1000 &); cat file")).await;
    assert_eq!(done.fine(), number.to_string());
    sandbox.delete().await;
}

#[tokio::test]
async fn time_ends_a_sandbox_and_the_end_is_told() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "timeout_s": 2, "name": "short-lived" })).await;
    let exec = sandbox.start(json!({ "shell": "sleep 1000" })).await;
    assert_eq!(exec.record().await["state"], "running");
    let gone = until("end of its time", async || {
        let answer = sandbox.get("").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    let ending = gone.problem(410, "gone")["ending"].clone();
    assert_eq!((&ending["reason"], &ending["by"]), (&"timeout".into(), &"ttl".into()));
    assert!(ending["at"].is_string() && ending["detail"].is_string(), "{ending}");
    sandbox.post("/exec", json!({ "shell": "true" })).await.problem(410, "gone");
    sandbox.post("/stop", json!({})).await.problem(410, "gone");
    sandbox.get("/files/etc/passwd").await.problem(410, "gone");
    assert!(sandbox.events().await.iter().any(|event| event["kind"] == "sandbox.ended"));
    // Its name is free, and it is no error to delete it once more.
    server.get("/v1/sandboxes/short-lived").await.problem(404, "not_found");
    sandbox.delete().await;
    server.sandbox(json!({ "name": "short-lived" })).await;
}

#[tokio::test]
async fn an_idle_sandbox_stops_and_the_next_exec_wakes_it() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "idle_timeout_s": 1 })).await;
    let busy = server.sandbox(json!({ "idle_timeout_s": 1 })).await;
    let exec = busy.start(json!({ "shell": "sleep 1000" })).await;
    let kept = "echo kept > file; echo of home > ~/file; echo of tmp > /tmp/file; echo of shm > /dev/shm/file; cat file";
    assert_eq!(sandbox.sh(kept).await.fine(), "kept");
    let stopped = sandbox.becomes("stopped").await;
    assert_eq!(stopped["ending"]["by"], "idle", "{stopped}");
    assert_eq!((busy.state().await.as_str(), &exec.record().await["state"]), ("running", &"running".into()));
    let found = sandbox.sh("cat file ~/file /tmp/file; ls /dev/shm").await;
    assert_eq!(found.fine(), "kept\nof home\nof tmp");
    assert_eq!(sandbox.state().await, "running");
    sandbox.becomes("stopped").await;
    assert_eq!(sandbox.read("/workspace/file").await.expect(200).text(), "kept\n");
}

#[tokio::test]
async fn of_fifty_callers_one_creates_and_all_get_it() {
    let server = Server::start().await;
    let ask = || server.put("/v1/sandboxes/by-name/shared", json!({}));
    let answers = futures::future::join_all((0..50).map(|_| ask())).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|answer| answer.json()["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.into_iter().next().expect("one");
    let taken = server.post("/v1/sandboxes", json!({ "name": "shared" })).await.problem(409, "name_taken");
    assert_eq!(taken["id"], id.as_str());
    assert_eq!(server.known("shared").sh("hostname").await.fine(), id);
    assert_eq!(server.host().agents().len(), 1);
    server.known(&id).delete().await;
    let next = server.put("/v1/sandboxes/by-name/shared", json!({})).await.expect(201).json();
    assert_ne!(next["id"], id.as_str());
}

#[tokio::test]
async fn a_sandbox_can_be_deleted_in_every_state() {
    let server = Server::start().await;
    let before = server.after_one_life().await;
    let running = server.sandbox(json!({})).await;
    running.start(json!({ "shell": "trap '' TERM; sleep 1000" })).await;
    let paused = server.sandbox(json!({})).await;
    paused.start(json!({ "shell": "sleep 1000" })).await;
    paused.post("/pause", json!({})).await.expect(200);
    let stopped = server.sandbox(json!({})).await;
    stopped.post("/stop", json!({})).await.expect(200);
    for sandbox in [&running, &paused, &stopped] {
        sandbox.delete().await;
        let gone = sandbox.get("").await.problem(410, "gone");
        assert_eq!((&gone["ending"]["reason"], &gone["ending"]["by"]), (&"killed".into(), &"caller".into()));
        sandbox.delete().await;
    }
    // While others start, stop and use it: whoever comes too late is told, and nothing is left.
    let sandbox = server.sandbox(json!({})).await;
    let use_it = async {
        loop {
            let answer = sandbox.post("/exec", json!({ "shell": "sleep 0.01" })).await;
            if answer.status == 410 {
                return;
            }
            assert!(answer.status == 200, "{}", answer.text());
            sandbox.post("/stop", json!({})).await;
        }
    };
    let delete_it = async {
        until("a few lives", async || (sandbox.execs().await.len() > 3).then_some(())).await;
        sandbox.delete().await;
    };
    futures::join!(use_it, delete_it);
    server.host().assert_as_before(&before).await;
}

/// A number that the guest counts up, as the host reads it.
async fn count(sandbox: &Sandbox) -> u64 {
    let exec = support::Execution {
        sandbox: sandbox.clone(),
        id: sandbox.execs().await[0]["id"].as_str().expect("an id").into(),
    };
    exec.record().await["stdout_bytes"].as_u64().expect("a number")
}

#[tokio::test]
async fn pausing_freezes_and_resuming_thaws() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    let _counting = sandbox.start(json!({ "shell": "while :; do echo -n x; sleep 0.01; done" })).await;
    let grows =
        async |from: u64| until("growth", async || (count(&sandbox).await > from + 3).then_some(())).await;
    grows(0).await;
    sandbox.post("/pause", json!({})).await.expect(200);
    assert_eq!(sandbox.state().await, "paused");
    let host: Host = server.host();
    until("processes that are frozen", async || host.all_frozen().then_some(())).await;
    let paused_at = until("output that stands still", async || {
        let now = count(&sandbox).await;
        (host.all_frozen() && now == count(&sandbox).await).then_some(now)
    })
    .await;
    sandbox.post("/exec", json!({ "shell": "true" })).await.problem(409, "wrong_state");
    sandbox.post("/pause", json!({})).await.expect(200);
    assert_eq!(count(&sandbox).await, paused_at);
    sandbox.post("/resume", json!({})).await.expect(200);
    grows(paused_at).await;
    sandbox.post("/pause", json!({})).await.expect(200);
    sandbox.post("/stop", json!({})).await.expect(200);
    assert_eq!(sandbox.state().await, "stopped");
    sandbox.post("/resume", json!({})).await.problem(409, "wrong_state");
    sandbox.assert_well().await;
}

#[tokio::test]
async fn lists_labels_and_changes() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let team = if number % 2 == 0 { "red" } else { "blue" };
        let body =
            json!({ "labels": { "team": team, "n": number.to_string() }, "metadata": { "deep": [number] } });
        ids.push(server.sandbox(body).await.id);
    }
    ids.reverse();
    let page = async |query: &str| {
        let page = server.get(&format!("/v1/sandboxes?{query}")).await.expect(200).json();
        let items = page["items"].as_array().expect("a page").iter();
        let ids: Vec<String> = items.map(|item| item["id"].as_str().expect("an id").to_owned()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(page("").await.0, ids);
    let (mut all, mut cursor) = page("limit=2").await;
    while let Some(next) = cursor {
        let (more, after) = page(&format!("limit=2&cursor={next}")).await;
        all.extend(more);
        cursor = after;
    }
    assert_eq!(all, ids);
    assert_eq!(page("label=team:red").await.0, [&ids[0], &ids[2], &ids[4]].map(String::clone));
    assert_eq!(page("label=team:red&label=n:2").await.0, [ids[2].clone()]);
    let patch = server.request(reqwest::Method::PATCH, &format!("/v1/sandboxes/{}", ids[0]));
    let change = json!({ "labels": { "team": null, "new": "x" }, "timeout_s": 1000 });
    let changed = server.send(patch.json(&change)).await.expect(200).json();
    assert_eq!(changed["labels"], json!({ "n": "4", "new": "x" }));
    assert!(changed["expires_at"].is_string() && changed["metadata"] == json!({ "deep": [4] }), "{changed}");
    server.known(&ids[1]).post("/stop", json!({})).await.expect(200);
    assert_eq!(page("state=stopped").await.0, [ids[1].clone()]);
}

#[tokio::test]
async fn a_full_sandbox_can_start_again_and_make_room() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "limits": { "disk_mib": 16 } })).await;
    let filled = sandbox.sh("dd if=/dev/zero of=big bs=1M count=100; sync; test -s big").await;
    assert_eq!(filled.code(), Some(0), "{}", filled.brief());
    sandbox.post("/stop", json!({})).await.expect(200);
    assert_eq!(
        sandbox.sh("dd if=/dev/zero of=more bs=1M count=32").await.code(),
        Some(1),
        "the limit is back"
    );
    assert_eq!(sandbox.sh("rm big && echo room > file && cat file").await.fine(), "room");
}
