//! Commands: how they are started, what is told of their ends, and who dies with whom.

mod support;

use reqwest::Method;
use support::{Sandbox, Server, json, until};

/// A sandbox on a server of its own.
async fn sandbox() -> (Server, Sandbox) {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "limits": { "cpus": 1.0 } })).await;
    (server, sandbox)
}

/// Command lines of what runs inside.
async fn running(sandbox: &Sandbox) -> Vec<String> {
    sandbox.sh("ps -e -o args=").await.fine().lines().map(|line| line.trim().to_owned()).collect()
}

/// Waits until no command line inside holds a word.
async fn none_left(sandbox: &Sandbox, word: &str) {
    until(&format!("end of every {word} in {}", sandbox.id), async || {
        let left = running(sandbox).await.into_iter().filter(|line| line.contains(word)).count();
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn buffered_results_say_how_it_ended() {
    let (_server, sandbox) = sandbox().await;
    let done = sandbox.sh("echo out; echo err >&2; exit 3").await;
    assert_eq!((done.stdout(), done.stderr(), done.code()), ("out\n", "err\n", Some(3)));
    assert_eq!(
        (done.reason(), &done.0["success"], &done.0["state"]),
        ("exited", &false.into(), &"ended".into())
    );
    assert_eq!((&done.0["stdout_bytes"], &done.0["stdout_truncated"]), (&4.into(), &false.into()));

    let done = sandbox.sh("kill -TERM $$").await;
    assert_eq!((done.code(), done.reason(), &done.0["signal"]), (Some(143), "signaled", &15.into()));
    let done = sandbox.exec(json!({ "argv": ["no-such-program"] })).await;
    assert_eq!((done.code(), done.detail()), (Some(127), "no-such-program: command not found"));
    let done = sandbox.exec(json!({ "argv": ["/etc/passwd"] })).await;
    assert_eq!(done.code(), Some(126));
    assert!(done.detail().contains("Permission denied"), "{}", done.brief());
    let done = sandbox.exec(json!({ "shell": "true", "cwd": "/nowhere" })).await;
    assert_eq!(done.code(), Some(126));
    assert!(done.detail().contains("/nowhere"), "{}", done.brief());
}

#[tokio::test]
async fn each_way_to_say_what_runs() {
    let (_server, sandbox) = sandbox().await;
    let exec = async |request| sandbox.exec(request).await.fine().to_owned();
    assert_eq!(exec(json!({ "argv": ["printf", "%s|", "a b", "$HOME", ""] })).await, "a b|$HOME||");
    assert_eq!(
        exec(json!({ "language": "python", "code": "import sys; print(sys.version_info[0])" })).await,
        "3"
    );
    assert_eq!(exec(json!({ "language": "javascript", "code": "console.log(6*7)" })).await, "42");
    assert_eq!(exec(json!({ "language": "bash", "code": "echo ${BASH_VERSION:+bash}" })).await, "bash");
    assert_eq!(exec(json!({ "shell": "pwd", "cwd": "/tmp" })).await, "/tmp");
    assert_eq!(exec(json!({ "shell": "mkdir -p sub; echo made" })).await, "made");
    assert_eq!(exec(json!({ "shell": "pwd", "cwd": "sub" })).await, "/workspace/sub");
    assert_eq!(
        exec(json!({ "shell": "id -u; id -g; echo $HOME $USER", "user": "root" })).await,
        "0\n0\n/root root"
    );
    assert_eq!(exec(json!({ "shell": "id -u; id -g", "user": "33:44" })).await, "33\n44");
    assert_eq!(exec(json!({ "shell": "echo $A-$B", "env": { "A": "1", "B": "größe" } })).await, "1-größe");
    assert_eq!(exec(json!({ "shell": "cat", "stdin": "given" })).await, "given");
    assert_eq!(exec(json!({ "shell": "readlink /proc/self/fd/0; cat" })).await, "/dev/null");
}

#[tokio::test]
async fn output_streams_as_it_comes() {
    let (_server, sandbox) = sandbox().await;
    // The command goes on only when what it said before was seen.
    let script =
        "for i in 1 2 3; do echo line $i; until [ -e /tmp/$i ]; do sleep 0.01; done; done; echo end >&2";
    let mut stream = sandbox.follow(json!({ "shell": script })).await;
    let mut offset = 0;
    for number in 1..=3 {
        let (event, data) = stream.next().await.expect("a line");
        let line = format!("line {number}\n");
        assert_eq!((event.as_str(), &data), ("stdout", &json!({ "offset": offset, "data": line })));
        offset += line.len();
        sandbox.write(&format!("/tmp/{number}"), "").await.expect(201);
    }
    let (event, data) = stream.next().await.expect("standard error");
    assert_eq!((event.as_str(), &data["data"]), ("stderr", &"end\n".into()));
    let (event, data) = stream.next().await.expect("the end");
    assert_eq!((event.as_str(), &data["exit_code"], &data["reason"]), ("exit", &0.into(), &"exited".into()));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn background_execs_can_be_waited_for() {
    let (_server, sandbox) = sandbox().await;
    let serving = sandbox.start(json!({ "shell": "echo begins; exec python3 -m http.server 8123" })).await;
    serving.said("begins").await;
    serving.wait(json!({ "for": "port", "port": 8123, "timeout_ms": 60_000 })).await.expect(200);
    let fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/').status)";
    assert_eq!(sandbox.python_as("user", fetch).await.fine(), "200");
    serving.wait(json!({ "for": "exit", "timeout_ms": 50 })).await.problem(504, "wait_timeout");
    serving.wait(json!({ "for": "port", "port": 9, "timeout_ms": 50 })).await.problem(504, "wait_timeout");
    assert_eq!(serving.record().await["state"], "running");
    serving.signal("SIGTERM", false).await.expect(204);
    let ended = serving.ended().await;
    assert_eq!((&ended["reason"], &ended["signal"]), (&"signaled".into(), &15.into()));
    serving.signal("SIGTERM", false).await.problem(409, "exec_ended");
}

#[tokio::test]
async fn input_is_written_while_it_runs() {
    let (_server, sandbox) = sandbox().await;
    let exec =
        sandbox.start(json!({ "shell": "read a; echo got $a; cat | wc -c", "stdin_open": true })).await;
    exec.input("first\n", false).await.expect(204);
    exec.said("got first").await;
    exec.input(&"x".repeat(300_000), true).await.expect(204);
    assert_eq!(exec.ended().await["exit_code"], 0);
    assert_eq!(exec.whole_output().await, "got first\n300000\n");
    exec.input("late", false).await.problem(409, "exec_ended");
    let closed = sandbox.start(json!({ "shell": "sleep 1000" })).await;
    assert_eq!(closed.input("x", false).await.problem(422, "invalid_value")["field"], "stdin");
}

/// Starts descendants of every kind, says so when they are there, and starts no further ones.
const FAMILY: &str = "setsid sleep 7771 & (setsid sleep 7772 & exit) ; (sleep 7773 & exit); \
    python3 -c 'import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  os.execvp(\"sleep\",[\"sleep\",\"7774\"])\n os._exit(0)\nos.wait()'; \
    until [ $(ps -e -o args= | grep -c '^sleep 777') = 4 ]; do sleep 0.02; done; echo all there; exec sleep 7775";

#[tokio::test]
async fn a_signal_reaches_the_whole_tree() {
    let (_server, sandbox) = sandbox().await;
    let other = sandbox.start(json!({ "shell": "sleep 8888" })).await;
    let exec = sandbox.start(json!({ "shell": FAMILY })).await;
    exec.said("all there").await;
    exec.signal("SIGKILL", true).await.expect(204);
    let ended = exec.ended().await;
    assert_eq!((&ended["reason"], &ended["exit_code"]), (&"killed".into(), &137.into()));
    none_left(&sandbox, "sleep 777").await;
    assert_eq!(other.record().await["state"], "running");

    let exec = sandbox.start(json!({ "shell": FAMILY })).await;
    exec.said("all there").await;
    exec.signal("SIGTERM", true).await.expect(204);
    exec.ended().await;
    none_left(&sandbox, "sleep 777").await;
}

#[tokio::test]
async fn a_timeout_kills_all_descendants() {
    let (_server, sandbox) = sandbox().await;
    let exec = sandbox.start(json!({ "shell": FAMILY, "timeout_ms": 3000 })).await;
    exec.said("all there").await;
    let ended = exec.ended().await;
    assert_eq!((&ended["reason"], &ended["exit_code"]), (&"timeout".into(), &137.into()));
    none_left(&sandbox, "sleep 777").await;
    // One that ignores everything that can be ignored ends too.
    let stubborn = "trap '' TERM INT HUP; while :; do sleep 1000; done";
    let done = sandbox.exec(json!({ "shell": stubborn, "timeout_ms": 300 })).await;
    assert_eq!((done.reason(), done.code()), ("timeout", Some(137)));
}

#[tokio::test]
async fn an_exec_ends_with_its_first_process_and_its_children_write_on() {
    let (_server, sandbox) = sandbox().await;
    let wait = "until [ -e /tmp/go ]; do sleep 0.02; done";
    // The answer comes although the child holds the pipe.
    let done = sandbox.sh(&format!("({wait}; echo late; touch /tmp/done) & echo early")).await;
    assert_eq!((done.fine(), done.stdout()), ("early", "early\n"));
    let id = done.0["id"].as_str().expect("an id");
    let exec = support::Execution { sandbox: sandbox.clone(), id: id.to_owned() };
    sandbox.write("/tmp/go", "").await.expect(201);
    let late = async || (exec.whole_output().await == "early\nlate\n").then_some(());
    until("late output", late).await;
    // It is still there when nobody writes any more.
    none_left(&sandbox, "/tmp/go").await;
    assert_eq!(exec.whole_output().await, "early\nlate\n");
    assert_eq!(exec.follow(6).await.drain().await.0, b"late\n");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_kill() {
    let (_server, sandbox) = sandbox().await;
    let script = "echo begun; until [ -e /tmp/go ]; do sleep 0.02; done; echo over";
    let mut stream = sandbox.follow(json!({ "shell": script })).await;
    assert_eq!(stream.next().await.expect("output").1["data"], "begun\n");
    drop(stream);
    let id = sandbox.execs().await[0]["id"].as_str().expect("an id").to_owned();
    let exec = support::Execution { sandbox: sandbox.clone(), id };
    assert_eq!(exec.record().await["state"], "running");
    // Attaching again goes on from any offset, in the middle of a line too.
    let again = exec.follow(3).await;
    sandbox.write("/tmp/go", "").await.expect(201);
    let (stdout, event, exit) = again.drain().await;
    assert_eq!((stdout.as_slice(), event.as_str()), (&b"un\nover\n"[..], "exit"));
    assert_eq!((&exit["reason"], &exit["exit_code"]), (&"exited".into(), &0.into()));
    let path = exec.path("/output?stdout_offset=12");
    assert_eq!(sandbox.client.get(&path).await.problem(416, "range_not_satisfiable")["size_bytes"], 11);
}

#[tokio::test]
async fn an_idempotency_key_starts_one_exec() {
    let (_server, sandbox) = sandbox().await;
    let send = async |key: &str, shell: &str| {
        let request = sandbox.client.request(Method::POST, &sandbox.path("/exec"));
        let request = request.header("idempotency-key", key).json(&json!({ "shell": shell }));
        sandbox.client.send(request).await
    };
    let count = "echo x >> /workspace/count; wc -l < /workspace/count";
    let answers = futures::future::join_all((0..8).map(|_| send("key-1", count))).await;
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.expect(200).json()["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(send("key-2", count).await.expect(200).json()["stdout"], "2\n");
    let problem = send("key-1", "echo other").await.problem(422, "idempotency_mismatch");
    assert_eq!(problem["id"], ids[0]);
    assert_eq!(sandbox.execs().await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused() {
    let (_server, sandbox) = sandbox().await;
    let refused = async |request, field: &str| {
        let problem = sandbox.post("/exec", request).await.problem(422, "invalid_value");
        assert_eq!(problem["field"], field, "{problem}");
    };
    refused(json!({}), "argv").await;
    refused(json!({ "argv": ["true"], "shell": "true" }), "argv").await;
    refused(json!({ "argv": [] }), "argv").await;
    refused(json!({ "argv": ["a\u{0}b"] }), "argv").await;
    refused(json!({ "argv": ["echo", "x".repeat(130_000)] }), "argv").await;
    refused(json!({ "language": "python", "code": "#".repeat(130_000) }), "argv").await;
    refused(json!({ "language": "cobol", "code": "x" }), "language").await;
    refused(json!({ "language": "python" }), "code").await;
    refused(json!({ "shell": "true", "user": "alice" }), "user").await;
    refused(json!({ "shell": "true", "user": "70000" }), "user").await;
    refused(json!({ "shell": "true", "cwd": "a\u{0}" }), "cwd").await;
    refused(json!({ "shell": "true", "env": { "A=B": "" } }), "env").await;
    refused(json!({ "shell": "true", "timeout_ms": 0 }), "timeout_ms").await;
    refused(json!({ "shell": "true", "timeout_ms": "1" }), "timeout_ms").await;
    refused(json!({ "shell": "true", "tty": true }), "tty").await;
    assert!(sandbox.execs().await.is_empty());
    // What just fits really runs.
    let done = sandbox.exec(json!({ "argv": ["printf", "%s", "x".repeat(100_000)] })).await;
    assert_eq!(done.fine().len(), 100_000);
    sandbox.delete().await;
    sandbox.post("/exec", json!({ "shell": "true" })).await.problem(410, "gone");
}
