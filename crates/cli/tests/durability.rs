//! What runs outlives the server: it is killed at any moment, and every byte and every end is there once.

mod support;

use futures::future::join_all;
use reqwest::Method;
use std::collections::BTreeMap;
use support::{Execution, Sandbox, Server, Value, json, until};

/// Says lines that number themselves, and ends with a code of its own.
fn counting(number: u32, lines: u32) -> Value {
    let code = format!(
        "import time,sys\nfor i in range({lines}):\n print('exec {number} line', i, flush=True)\n \
         print('e{number}.'+str(i), file=sys.stderr, flush=True)\n time.sleep(0.04)\nsys.exit({})",
        number % 100
    );
    json!({ "language": "python", "code": code })
}

#[tokio::test]
async fn fifty_execs_through_ten_deaths_of_the_server() {
    const LINES: u32 = 500;
    let mut server = Server::start().await;
    let big = json!({ "instance_type": "standard", "limits": { "cpus": 2.0 } });
    let sandboxes: Vec<Sandbox> = join_all((0..5).map(|_| server.sandbox(big.clone()))).await;
    let starts = (0..50).map(|number| sandboxes[number as usize % 5].start(counting(number, LINES)));
    let execs: Vec<Execution> = join_all(starts).await;

    for death in 1..=10 {
        // Each time at another point of the output, and with readers under way.
        let reader = execs[death * 4].follow(0).await;
        let wanted = u64::try_from(death).expect("small") * 700;
        let far = async || (execs[49].record().await["stdout_bytes"].as_u64()? > wanted).then_some(());
        until("output to go on", far).await;
        server.kill9();
        drop(reader);
        server.restart().await;
    }
    for (number, exec) in execs.iter().enumerate() {
        let ended = exec.ended().await;
        assert_eq!(
            (&ended["exit_code"], &ended["reason"]),
            (&(number % 100).into(), &"exited".into()),
            "{ended}"
        );
        let truth: String = (0..LINES).map(|line| format!("exec {number} line {line}\n")).collect();
        assert!(exec.whole_output().await == truth, "the journal of exec {number} is not what it wrote");
        let (stderr_bytes, wrote) =
            (&ended["stderr_bytes"], (0..LINES).map(|line| format!("e{number}.{line}\n").len()));
        assert_eq!(
            (&ended["stdout_bytes"], stderr_bytes),
            (&truth.len().into(), &wrote.sum::<usize>().into())
        );
    }
    for sandbox in &sandboxes {
        let listed: Vec<Value> = sandbox.execs().await;
        assert_eq!(listed.len(), 10);
        assert!(listed.iter().all(|exec| exec["state"] == "ended"), "{listed:?}");
        let mut counts: BTreeMap<(String, String), u32> = BTreeMap::new();
        for event in sandbox.events().await {
            let kind = event["kind"].as_str().expect("a kind").to_owned();
            if let Some(id) = event["data"]["exec_id"].as_str() {
                *counts.entry((kind, id.to_owned())).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 20, "{counts:?}");
        assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    }
}

#[tokio::test]
async fn open_input_and_deadlines_outlive_the_server() {
    let mut server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    let reading = sandbox
        .start(json!({ "shell": "while read line; do echo \"[$line]\"; done", "stdin_open": true }))
        .await;
    reading.input("one\n", false).await.expect(204);
    reading.said("[one]").await;
    let late = sandbox.start(json!({ "shell": "sleep 1000", "timeout_ms": 4000 })).await;
    let over = sandbox.start(json!({ "shell": "setsid sleep 1000 & sleep 1000", "timeout_ms": 300 })).await;
    let quick = sandbox.start(json!({ "shell": "sleep 0.3; echo done; exit 7" })).await;
    server.kill9();
    let host = server.host();
    // One ends while nobody is there to hear of it.
    until("end of the quick one", async || {
        let sleeping = host.state().processes.iter().filter(|name| *name == "sleep").count();
        (sleeping <= 3).then_some(())
    })
    .await;
    server.restart().await;
    reading.input("two\n", true).await.expect(204);
    assert_eq!(reading.ended().await["exit_code"], 0);
    assert_eq!(reading.whole_output().await, "[one]\n[two]\n");
    assert_eq!(over.ended().await["reason"], "timeout");
    assert_eq!(late.ended().await["reason"], "timeout");
    let quick_end = quick.ended().await;
    assert_eq!((&quick_end["exit_code"], &quick_end["reason"]), (&7.into(), &"exited".into()));
    assert_eq!(quick.whole_output().await, "done\n");
    until("end of all of them", async || {
        (!host.state().processes.contains(&"sleep".to_owned())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_idempotency_key_holds_across_a_restart() {
    let mut server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    let send = async || {
        let request =
            sandbox.client.request(Method::POST, &sandbox.path("/exec")).header("idempotency-key", "once");
        let body =
            json!({ "shell": "echo x >> /workspace/count; wc -l < /workspace/count", "background": true });
        sandbox.client.send(request.json(&body)).await.expect(202).json()["id"].clone()
    };
    let first = send().await;
    server.kill9();
    server.restart().await;
    assert_eq!(send().await, first);
    let exec = Execution { sandbox: sandbox.clone(), id: first.as_str().expect("an id").to_owned() };
    exec.ended().await;
    server.kill9();
    server.restart().await;
    assert_eq!(send().await, first);
    assert_eq!((exec.whole_output().await.as_str(), sandbox.execs().await.len()), ("1\n", 1));
}

#[tokio::test]
async fn the_launchers_death_is_an_honest_one() {
    let mut server = Server::start().await;
    let before = server.host().settled().await;
    let running = server.sandbox(json!({})).await;
    let paused = server.sandbox(json!({})).await;
    let mut execs = Vec::new();
    for sandbox in [&running, &paused] {
        sandbox.write("/workspace/kept", "kept").await.expect(201);
        let exec = sandbox.start(json!({ "shell": "echo begun; sleep 1000" })).await;
        exec.said("begun").await;
        execs.push(exec);
    }
    paused.post("/pause", json!({})).await.expect(200);
    let launcher = server.host().launcher().expect("there is one");
    support::kill(launcher, rustix::process::Signal::KILL);
    for (sandbox, exec) in [&running, &paused].into_iter().zip(&execs) {
        let record = sandbox.becomes("stopped").await;
        assert_eq!(record["ending"]["reason"], "interrupted", "{record}");
        assert!(
            record["ending"]["detail"].as_str().is_some_and(|text| text.contains("launcher")),
            "{record}"
        );
        let ended = exec.record().await;
        assert_eq!(
            (&ended["state"], &ended["reason"], &ended["exit_code"]),
            (&"ended".into(), &"interrupted".into(), &Value::Null)
        );
        assert_eq!(exec.whole_output().await, "begun\n");
    }
    for sandbox in [&running, &paused] {
        // The server says when it is ready again.
        until("sandbox that starts again", async || {
            let answer = sandbox.post("/exec", json!({ "shell": "cat kept" })).await;
            assert!(matches!(answer.status, 200 | 503), "{}", answer.text());
            (answer.status == 200).then(|| assert_eq!(answer.json()["stdout"], "kept"))
        })
        .await;
    }
    assert_ne!(server.host().launcher(), Some(launcher));

    // The same when the server goes with it.
    paused.post("/pause", json!({})).await.expect(200);
    server.kill9();
    support::kill(server.host().launcher().expect("there is one"), rustix::process::Signal::KILL);
    server.restart().await;
    for sandbox in [&running, &paused] {
        assert_eq!(sandbox.record().await["ending"]["reason"], "interrupted");
        assert_eq!(sandbox.sh("cat kept").await.fine(), "kept");
    }
    server.delete_all().await;
    let after = support::State { tree: before.tree.clone(), ..server.host().settled().await };
    assert_eq!(
        (after.groups.values().sum::<usize>(), after.processes, after.loops),
        (before.groups.values().sum(), before.processes, 1)
    );
}

#[tokio::test]
async fn an_agents_death_ends_one_shell_only() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    sandbox.write("/workspace/kept", "kept").await.expect(201);
    let exec = sandbox.start(json!({ "shell": "echo begun; sleep 1000" })).await;
    exec.said("begun").await;
    let agent = server.host().agents()[0];
    let neighbour = server.sandbox(json!({})).await;
    let other = neighbour.start(json!({ "shell": "sleep 1000" })).await;
    support::kill(agent, rustix::process::Signal::KILL);
    let record = sandbox.becomes("stopped").await;
    assert_eq!(record["ending"]["reason"], "interrupted", "{record}");
    assert!(record["ending"]["evidence"]["wait_status"].is_number(), "{record}");
    let ended = exec.ended().await;
    assert_eq!((&ended["reason"], &ended["exit_code"]), (&"interrupted".into(), &Value::Null));
    assert_eq!(sandbox.sh("cat kept; ps -e -o comm= | grep -c sleep").await.stdout(), "kept0\n");
    assert_eq!(other.record().await["state"], "running");
}

#[tokio::test]
async fn a_second_server_is_refused() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    let mut second = server.command(server.port + 1);
    let output =
        tokio::task::spawn_blocking(move || second.output()).await.expect("no panic").expect("it starts");
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("another isopod server") && said.contains(&*server.data.to_string_lossy()),
        "{said}"
    );
    sandbox.assert_well().await;
}

#[tokio::test]
async fn a_graceful_end_keeps_sandboxes_unless_told_otherwise() {
    let mut server = Server::start().await;
    let sandbox = server.sandbox(json!({ "name": "kept" })).await;
    let exec = sandbox
        .start(json!({ "shell": "echo begun; until [ -e /tmp/go ]; do sleep 0.02; done; echo over" }))
        .await;
    exec.said("begun").await;
    let frozen = server.sandbox(json!({})).await;
    frozen.post("/pause", json!({})).await.expect(200);
    // A reader that does not let go is cut; the command is not.
    let reader = exec.follow(0).await;
    assert_eq!(server.stop().await.code(), Some(0));
    drop(reader);
    assert_eq!(server.host().agents().len(), 2);
    server.restart_with(&["--stop-sandboxes"]).await;
    assert_eq!(
        (frozen.state().await.as_str(), exec.record().await["state"].as_str()),
        ("paused", Some("running"))
    );
    frozen.post("/resume", json!({})).await.expect(200);
    frozen.assert_well().await;
    sandbox.write("/tmp/go", "").await.expect(201);
    assert_eq!(exec.ended().await["exit_code"], 0);
    assert_eq!(exec.whole_output().await, "begun\nover\n");

    let exec = sandbox.start(json!({ "shell": "echo again; sleep 1000" })).await;
    exec.said("again").await;
    assert_eq!(server.stop().await.code(), Some(0));
    server.host().assert_gone().await;
    server.restart().await;
    let record = sandbox.record().await;
    assert_eq!((&record["state"], &record["ending"]["by"]), (&"stopped".into(), &"operator".into()));
    assert_eq!(exec.record().await["reason"], "killed");
    assert_eq!(sandbox.sh("ls /tmp").await.fine(), "go");
}

#[tokio::test]
async fn a_crash_among_creates_leaves_no_half_sandbox() {
    let mut server = Server::start().await;
    let before = server.after_one_life().await;
    for round in 0_u32..4 {
        let client = server.client.clone();
        let creates: Vec<_> = (0..16)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let body = json!({ "labels": { "n": number.to_string() } });
                    client.request(Method::POST, "/v1/sandboxes").json(&body).send().await
                })
            })
            .collect();
        // Killed when some are there, at another point each time.
        until("some of the creates", async || {
            (server.host().agents().len() > round as usize * 3).then_some(())
        })
        .await;
        server.kill9();
        let answers = join_all(creates).await;
        server.restart().await;
        let mut told = Vec::new();
        for answer in answers.into_iter().filter_map(|answer| answer.expect("no panic").ok()) {
            if let Ok(made) = answer.json::<Value>().await {
                told.push(made["id"].as_str().expect("an id").to_owned());
            }
        }
        let page = server.get("/v1/sandboxes?limit=1000").await.expect(200).json();
        let listed: Vec<String> = page["items"]
            .as_array()
            .expect("a page")
            .iter()
            .map(|item| item["id"].as_str().expect("an id").to_owned())
            .collect();
        assert!(told.iter().all(|id| listed.contains(id)), "what was answered is there: {told:?} {listed:?}");
        join_all(listed.iter().map(async |id| server.known(id).assert_well().await)).await;
        server.delete_all().await;
    }
    server.host().assert_as_before(&before).await;
}
