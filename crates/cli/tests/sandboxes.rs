//! The client commands about sandboxes themselves.

mod common;

use common::{TestServer, finish, isopod};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn sandboxes_are_created_listed_and_removed() {
    let server = TestServer::start().await;
    let red = server.run(&["create", "--name", "red-one", "--label", "team=red"]).await.fine();
    let red = red.text().trim().to_owned();
    let blue = server.run(&["create", "--json", "--label", "team=blue", "--cpus", "0.5"]).await.fine().json();
    assert_eq!(blue["limits"]["cpus"], 0.5);
    let blue = blue["id"].as_str().expect("an id").to_owned();

    let table = server.run(&["ls"]).await.fine();
    let lines: Vec<&str> = table.text().lines().collect();
    assert!(lines[0].starts_with("ID") && lines.len() == 3, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains(&red) && line.contains("red-one") && line.contains("team=red"))
    );
    let ids = server.run(&["ls", "-q", "--label", "team=blue"]).await.fine();
    assert_eq!(ids.text(), format!("{blue}\n"));
    let list = server.run(&["ls", "--json", "--state", "running"]).await.fine().json();
    assert_eq!(list.as_array().map(Vec::len), Some(2));

    assert_eq!(server.run(&["rm", "red-one"]).await.fine().text(), "red-one\n");
    assert_eq!(server.run(&["rm", &red]).await.fine().text(), format!("{red}\n"), "ended is ended");
    assert_eq!(server.run(&["rm", "--all", "--label", "team=red"]).await.fine().text(), "");
    assert_eq!(server.run(&["rm", "--all", "--json"]).await.fine().json(), serde_json::json!([blue]));
    assert_eq!(server.run(&["ls", "-q"]).await.fine().text(), "");
    assert!(server.node.ids().is_empty());
    server.node.assert_no_violations();
}

#[tokio::test]
async fn get_or_create_finds_the_same_again() {
    let server = TestServer::start().await;
    let first = server.run(&["create", "--name", "x", "--get"]).await.fine();
    let second = server.run(&["create", "--name", "x", "--get"]).await.fine();
    assert_eq!(first.stdout, second.stdout);
    server.run(&["create", "--name", "x"]).await.failed(&["exists already", "name_taken"]);
}

#[tokio::test]
async fn wrong_values_name_their_field() {
    let server = TestServer::start().await;
    server.run(&["create", "--cpus", "4096"]).await.failed(&["limits.cpus", "invalid_value"]);
    server.run(&["create", "--template", "nope"]).await.failed(&["template"]);
    server.run(&["create", "--tier", "microvm"]).await.failed(&["tier_unavailable", "isopod doctor"]);
    server.run(&["create", "--always-on"]).await.failed(&["not built yet"]);
    server.run(&["ls", "--label", "a"]).await;
    let usage = server.run(&["create", "--cpus", "many"]).await;
    assert_eq!(usage.code, 2);
}

#[tokio::test]
async fn sandboxes_stop_and_start() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    for (verb, state) in
        [("pause", "paused"), ("resume", "running"), ("stop", "stopped"), ("start", "running")]
    {
        let after = server.run(&[verb, "--json", &sandbox]).await.fine().json();
        assert_eq!(after[0]["state"], state, "{verb}");
    }
    server.run(&["resume", "nobody"]).await.failed(&["nobody"]);
    server.node.assert_no_violations();
}

#[tokio::test]
async fn figures_are_shown() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    server.run(&["exec", &sandbox, "--", "true"]).await.fine();
    let one = server.run(&["stats", &sandbox, "--json"]).await.fine().json();
    assert_eq!(one["execs_total"], 1);
    let all = server.run(&["stats", "--json"]).await.fine().json();
    assert_eq!(all[&sandbox]["execs_total"], 1);
    let table = server.run(&["stats"]).await.fine();
    assert!(table.text().starts_with("SANDBOX") && table.text().contains(&sandbox));
}

#[tokio::test]
async fn events_are_followed_to_the_end() {
    let server = TestServer::start().await;
    let sandbox = server.sandbox().await;
    server.run(&["exec", &sandbox, "--", "true"]).await.fine();
    let told = server.run(&["events", "--json", &sandbox]).await.fine();
    let kinds: Vec<String> = told
        .text()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["kind"].to_string())
        .collect();
    assert!(kinds.contains(&"\"exec.started\"".to_owned()), "{kinds:?}");

    let mut child = server.command(&["events", "-f", &sandbox]).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut seen = Vec::new();
    while !seen.iter().any(|line: &String| line.contains("exec.started")) {
        seen.push(lines.next_line().await.expect("readable").expect("more to come"));
    }
    server.run(&["rm", &sandbox]).await.fine();
    while let Some(line) = lines.next_line().await.expect("readable") {
        seen.push(line);
    }
    assert!(seen.last().is_some_and(|line| line.contains("sandbox.ended")), "{seen:?}");
    let ended = finish(child).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    // Following what has ended shows it and ends.
    let again = server.run(&["events", "-f", &sandbox]).await.fine();
    assert_eq!(again.text().matches("sandbox.ended").count(), 1, "{again:?}");
}

#[tokio::test]
async fn the_document_needs_no_server() {
    let ended = finish(isopod("http://127.0.0.1:1", &["openapi"]).spawn().expect("starts")).await.fine();
    assert!(ended.json()["paths"]["/v1/sandboxes"].is_object());
}

#[tokio::test]
async fn a_missing_server_is_explained() {
    for command in
        [&["ls"][..], &["create"], &["rm", "x"], &["stats"], &["events", "-f", "x"], &["logs", "x"]]
    {
        let child = isopod("http://127.0.0.1:1", command).spawn().expect("starts");
        finish(child).await.failed(&[
            "no server answers at http://127.0.0.1:1",
            "isopod serve",
            "ISOPOD_URL",
        ]);
    }
    let child = isopod("https://127.0.0.1:1", &["ls"]).spawn().expect("starts");
    finish(child).await.failed(&["TLS"]);
}
