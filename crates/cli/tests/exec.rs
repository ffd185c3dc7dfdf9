//! `isopod exec` and `isopod logs`: output, exit codes, input, and broken connections.

mod common;

use common::{TestServer, cutting_proxy::CuttingProxy, feed, finish, isopod, signal};
use rustix::process::Signal;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn output_and_exit_codes_are_passed_on() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let ended = server.run(&["exec", &sandbox, "--", "echo", "--flag", "größe"]).await.fine();
    assert_eq!(ended.text(), "--flag größe\n");
    let ended = server.run(&["exec", &sandbox, "-e", "A=b=c", "--", "printenv", "A"]).await.fine();
    assert_eq!(ended.text(), "b=c\n");
    for code in [0, 3, 255] {
        let ended = server.run(&["exec", &sandbox, "--", "exit", &code.to_string()]).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (code, ""));
    }
    let ended = server.run(&["exec", &sandbox, "--", "fail", "out of luck"]).await;
    assert_eq!((ended.code, ended.text(), ended.stderr.as_str()), (1, "", "out of luck\n"));
    let ended = server.run(&["exec", "--timeout", "0.01", &sandbox, "--", "sleep", "inf"]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (137, "isopod: the command ended: timeout\n"));
    server.node.assert_no_violations();
}

#[tokio::test]
async fn names_work_like_ids() {
    let server = TestServer::start().await;
    server.run(&["create", "--name", "my-project"]).await.fine();
    assert_eq!(server.run(&["exec", "my-project", "--", "echo", "hi"]).await.fine().text(), "hi\n");
    assert_eq!(server.run(&["logs", "my-project"]).await.fine().text(), "hi\n");
}

#[tokio::test]
async fn json_holds_the_whole_record() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let ended = server.run(&["exec", "--json", &sandbox, "--", "fail", "x"]).await;
    assert_eq!(ended.code, 1);
    let record = ended.json();
    assert_eq!((record["stderr"].as_str(), record["reason"].as_str()), (Some("x\n"), Some("exited")));
}

#[tokio::test]
async fn output_continues_where_the_connection_broke() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    // Cut at different places: within the head, within the first event, between many.
    for (cuts, after) in [(3, 10), (2, 700), (3, 300_000)] {
        let before = server.execs(&sandbox).await;
        let proxy = CuttingProxy::start(server.address, cuts, after).await;
        let command = isopod(&proxy.url(), &["exec", &sandbox, "--", "yes", "3000001"]).spawn();
        let ended = finish(command.expect("starts")).await.fine();
        assert_eq!(ended.stdout.len(), 3_000_001);
        assert!(
            ended.stdout.chunks(2).all(|pair| pair[0] == b'y' && pair.get(1).is_none_or(|n| *n == b'\n'))
        );
        assert!(proxy.connections() > cuts, "{} connections with {after}", proxy.connections());
        assert_eq!(server.execs(&sandbox).await, before + 1, "it was started once only");
    }
    server.node.assert_no_violations();
}

#[tokio::test]
async fn input_is_passed_on_byte_for_byte() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let input: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ended = server.run_with(&["exec", "-i", &sandbox, "--", "cat"], &input).await.fine();
    assert!(ended.stdout == input, "{} of {} bytes", ended.stdout.len(), input.len());
    let ended = server.run_with(&["exec", "-i", &sandbox, "--", "exit", "4"], &input).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (4, ""), "a command need not read its input");
}

#[tokio::test]
async fn a_conversation_survives_a_cut() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let proxy = CuttingProxy::start(server.address, 1, 100_000).await;
    let command = isopod(&proxy.url(), &["exec", "-i", &sandbox, "--", "yes", "2000000"]);
    let ended = feed(command, b"").await;
    assert_eq!((ended.code, ended.stdout.len()), (0, 2_000_000), "{}", ended.stderr);
    assert_eq!(server.execs(&sandbox).await, 1);
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn detached_commands_can_be_attached_to() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let ended = server.run(&["exec", "-d", &sandbox, "--", "fail", "later"]).await.fine();
    let exec = ended.text().trim();
    let attached = server.run(&["exec", &sandbox, "--attach", exec]).await;
    assert_eq!((attached.code, attached.stderr.as_str()), (1, "later\n"));
    let logs = server.run(&["logs", &sandbox, exec]).await;
    assert_eq!((logs.code, logs.stderr.as_str()), (0, "later\n"), "logs succeed whatever the command did");
    let logs = server.run(&["logs", "--json", &sandbox]).await.fine().json();
    assert_eq!(logs["stderr"], "later\n");
}

#[tokio::test]
async fn logs_of_what_still_runs_come_at_once() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    server.run(&["logs", &sandbox]).await.failed(&["nothing has run", "isopod exec"]);
    server.run(&["exec", "-d", &sandbox, "--", "sleep", "inf"]).await.fine();
    assert_eq!(server.run(&["logs", &sandbox]).await.fine().text(), "");
}

#[tokio::test]
async fn the_same_key_starts_once() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let once = ["exec", "--idempotency-key", "k", &sandbox, "--", "echo", "x"];
    for _ in 0..2 {
        assert_eq!(server.run(&once).await.fine().text(), "x\n");
    }
    assert_eq!(server.execs(&sandbox).await, 1);
    let other = ["exec", "--idempotency-key", "k", &sandbox, "--", "echo", "y"];
    server.run(&other).await.failed(&["Idempotency-Key", "idempotency_mismatch"]);
}

#[tokio::test]
async fn interrupts_reach_the_command() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let mut child =
        server.command(&["exec", "-i", &sandbox, "--", "cat"]).stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"ready").await.expect("written");
    let mut answer = [0; 5];
    child.stdout.as_mut().expect("piped").read_exact(&mut answer).await.expect("answered");
    signal(&child, Signal::INT);
    let ended = finish(child).await;
    assert_eq!((ended.code, &answer), (130, b"ready"), "{ended:?}");
    assert_eq!(server.node.calls("exec_signal"), 1);
    let record =
        server.run(&["exec", &sandbox, "--attach", server.first_exec(&sandbox).await.as_str()]).await;
    assert_eq!(record.code, 130, "the command itself was interrupted");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_everything_quietly() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    let mut child = server
        .command(&["exec", &sandbox, "--", "yes", "50000000"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 10]).await.expect("some output");
    drop(stdout);
    let ended = finish(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (141, ""));
}

#[tokio::test]
async fn mistakes_are_explained() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    server.run(&["exec", "nobody", "--", "true"]).await.failed(&["nobody", "not_found", "isopod ls"]);
    server.run(&["exec", &sandbox, "--attach", "ex00000000000000000000"]).await.failed(&["no exec"]);
    server.run(&["exec", &sandbox, "--", ""]).await.failed(&["argv"]);
    server.run(&["rm", &sandbox]).await.fine();
    server.run(&["exec", &sandbox, "--", "true"]).await.failed(&["has ended", "gone"]);
    let nobody = isopod("http://127.0.0.1:1", &["exec", &sandbox, "--", "true"]).spawn().expect("starts");
    finish(nobody).await.failed(&["no server answers", "isopod serve", "ISOPOD_URL"]);
    let usage = server.run(&["exec", &sandbox]).await;
    assert_eq!(usage.code, 2, "{usage:?}");
}
