//! Commands over HTTP: buffered, streamed, in the background, attached to again.

mod common;

use axum::body::Body;
use common::{SseEvent, SseReader, TestApp, request, with_headers};
use http::{Method, StatusCode};
use serde_json::{Value, json};

const EVENTS: [(&str, &str); 1] = [("accept", "text/event-stream")];

/// What a stream said: text of both streams put together, and the names of its events.
fn told(events: &[SseEvent]) -> (String, String, Vec<&str>) {
    let text = |name: &str| {
        events
            .iter()
            .filter(|event| event.name == name)
            .map(|event| event.data["data"].as_str().expect("text"))
            .collect::<String>()
    };
    (text("stdout"), text("stderr"), events.iter().map(|event| event.name.as_str()).collect())
}

#[tokio::test]
async fn the_answer_is_200_whatever_the_exit() {
    let app = TestApp::new().await;
    let exec = format!("/v1/sandboxes/{}/exec", app.sandbox().await);
    let hello = app.post(&exec, r#"{"shell": "echo hello"}"#).await;
    assert_eq!(hello.status, StatusCode::OK);
    let result = hello.json();
    assert_eq!(
        (&result["stdout"], &result["exit_code"], &result["success"]),
        (&json!("hello\n"), &json!(0), &json!(true))
    );
    assert_eq!((&result["state"], &result["reason"]), (&json!("ended"), &json!("exited")));
    let failed = app.post(&exec, r#"{"argv": ["fail", "no"]}"#).await;
    assert_eq!(failed.status, StatusCode::OK);
    assert_eq!((&failed.json()["stderr"], &failed.json()["exit_code"]), (&json!("no\n"), &json!(1)));
    let late = app.post(&exec, r#"{"argv": ["sleep"], "timeout_ms": 5}"#).await.json();
    assert_eq!(late["reason"], "timeout");

    for (body, field) in [
        ("{}", "argv"),
        (r#"{"argv": []}"#, "argv"),
        (r#"{"argv": ["a"], "shell": "b"}"#, "argv"),
        (r#"{"argv": ["a", 1]}"#, "argv[1]"),
        (r#"{"language": "cobol", "code": "x"}"#, "language"),
        (r#"{"argv": ["a"], "timeout": 1}"#, "timeout"),
        (r#"{"argv": ["a"], "timeout_ms": -1}"#, "timeout_ms"),
    ] {
        assert_eq!(app.post(&exec, body).await.problem(422, "invalid_value")["field"], field, "{body}");
    }
    app.post(&exec, r#"{"argv": ["a"], "session": "s"}"#).await.problem(501, "not_implemented");
    app.node.assert_no_violations();
}

#[tokio::test]
async fn a_key_starts_one_exec() {
    let app = TestApp::new().await;
    let exec = format!("/v1/sandboxes/{}/exec", app.sandbox().await);
    let key = [("idempotency-key", "k1")];
    let first = app.with(Method::POST, &exec, &key, r#"{"argv": ["echo", "a"]}"#).await.json();
    let again = app.with(Method::POST, &exec, &key, r#"{"argv": ["echo", "a"]}"#).await.json();
    assert_eq!(first["id"], again["id"]);
    assert_eq!(again["stdout"], "a\n");
    let other = app.with(Method::POST, &exec, &key, r#"{"argv": ["echo", "b"]}"#).await;
    assert_eq!(other.problem(422, "idempotency_mismatch")["id"], first["id"]);
}

#[tokio::test]
async fn streams_tell_all_and_one_exit() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let exec = format!("/v1/sandboxes/{id}/exec");
    let response =
        app.send(with_headers(Method::POST, &exec, &EVENTS, r#"{"argv": ["yes", "100000"]}"#)).await;
    let location = response.headers()["content-location"].to_str().expect("ASCII").to_owned();
    let events = SseReader::new(response).rest().await;
    let (stdout, _, names) = told(&events);
    assert_eq!(stdout, "y\n".repeat(50_000));
    assert_eq!(names.iter().filter(|name| **name == "exit").count(), 1);
    let exit = &events.last().expect("events").data;
    assert_eq!((&events.last().expect("events").name[..], &exit["stdout_bytes"]), ("exit", &json!(100_000)));
    assert_eq!(app.get(&location).await.json(), *exit);

    let failed = app.send(with_headers(Method::POST, &exec, &EVENTS, r#"{"argv": ["fail", "x"]}"#)).await;
    assert_eq!(told(&SseReader::new(failed).rest().await).1, "x\n");
    app.with(Method::POST, &exec, &EVENTS, "{}").await.problem(422, "invalid_value");
}

#[tokio::test]
async fn characters_are_not_cut_between_events() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let path = app.background(&id, r#"{"argv": ["cat"], "stdin_open": true}"#).await;
    let mut stream = SseReader::new(
        app.send(request(Method::GET, &format!("{path}/output?follow=true"), Body::empty())).await,
    );
    let write = async |bytes: &[u8]| {
        let answer = app.post(&format!("{path}/stdin"), bytes.to_vec()).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{:?}", answer.body);
    };
    write(b"a\xe2\x82").await;
    assert_eq!(stream.next().await.expect("an event").data, json!({"offset": 0, "data": "a"}));
    write(b"\xacb").await;
    assert_eq!(stream.next().await.expect("an event").data, json!({"offset": 1, "data": "€b"}));
    write(b"\xff\xfe").await;
    let binary = stream.next().await.expect("an event").data;
    assert_eq!(binary, json!({"offset": 5, "data": "//4=", "encoding": "base64"}));
    write(b"end\xf0\x9f").await;
    assert_eq!(stream.next().await.expect("an event").data, json!({"offset": 7, "data": "end"}));
    assert_eq!(app.post(&format!("{path}/stdin?close=true"), "").await.status, StatusCode::NO_CONTENT);
    let rest = stream.rest().await;
    assert_eq!(rest[0].data, json!({"offset": 10, "data": "8J8=", "encoding": "base64"}));
    assert_eq!(rest[1].name, "exit");
    assert_eq!(rest.len(), 2);
}

#[tokio::test]
async fn silence_is_filled_and_leaving_kills_nothing() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let path = app.background(&id, r#"{"argv": ["sleep"]}"#).await;
    let mut stream = SseReader::new(
        app.send(with_headers(Method::GET, &format!("{path}/output"), &EVENTS, Body::empty())).await,
    );
    stream.comment().await;
    stream.comment().await;
    drop(stream);
    assert_eq!(app.get(&path).await.json()["state"], "running");
    let signal = app.post(&format!("{path}/signal"), r#"{"signal": "SIGKILL"}"#).await;
    assert_eq!(signal.status, StatusCode::NO_CONTENT);
    let ended = app.post(&format!("{path}/wait"), r#"{"for": "exit"}"#).await.json();
    assert_eq!((&ended["reason"], &ended["exit_code"]), (&json!("killed"), &json!(137)));
    app.post(&format!("{path}/signal"), r#"{"signal": 15}"#).await.problem(409, "exec_ended");
    app.post(&format!("{path}/stdin"), "x").await.problem(409, "exec_ended");
}

#[tokio::test]
async fn output_is_read_from_any_offset() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let path = app.background(&id, r#"{"argv": ["cat"], "stdin_open": true}"#).await;
    app.post(&format!("{path}/stdin"), &b"ab\xc3"[..]).await;
    let part = app.get(&format!("{path}/output?stdout_offset=1")).await.json();
    assert_eq!(
        (&part["stdout"], &part["stdout_offset"], &part["state"]),
        (&json!("b"), &json!(2), &json!("running"))
    );
    assert_eq!((&part["stdout_start"], &part["stdout_encoding"]), (&json!(1), &json!("utf8")));
    app.with(
        Method::POST,
        &format!("{path}/stdin"),
        &[("content-type", "application/json; charset=utf-8")],
        r#"{"data": "qcO8", "encoding": "base64", "close": true}"#,
    )
    .await;
    let rest = app.get(&format!("{path}/output?stdout_offset=2")).await.json();
    assert_eq!(
        (&rest["stdout"], &rest["stdout_offset"], &rest["state"]),
        (&json!("éü"), &json!(6), &json!("ended"))
    );
    let middle = app.get(&format!("{path}/output?stdout_offset=3")).await.json();
    assert_eq!((&middle["stdout"], &middle["stdout_encoding"]), (&json!("\u{fffd}ü"), &json!("lossy")));

    for query in ["stdout_offset=7", "stderr_offset=1", "stdout_offset=7&follow=true"] {
        let problem = app.get(&format!("{path}/output?{query}")).await;
        assert!(problem.header("content-range").starts_with("bytes */"));
        problem.problem(416, "range_not_satisfiable");
    }
    for query in ["stdout_offset=-1", "stdout_offset=x", "follow=maybe", "offset=1"] {
        app.get(&format!("{path}/output?{query}")).await.problem(422, "invalid_value");
    }
    let replay = SseReader::new(
        app.send(with_headers(
            Method::GET,
            &format!("{path}/output?stdout_offset=2"),
            &EVENTS,
            Body::empty(),
        ))
        .await,
    );
    assert_eq!(told(&replay.rest().await).0, "éü");
}

#[tokio::test]
async fn waits_end_or_time_out() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let path = app.background(&id, r#"{"argv": ["cat"], "stdin_open": true}"#).await;
    let wait = format!("{path}/wait");
    app.post(&wait, r#"{"for": "port", "port": 80, "timeout_ms": 1}"#).await.problem(504, "wait_timeout");
    app.post(&wait, r#"{"for": "exit", "timeout_ms": 0}"#).await.problem(504, "wait_timeout");
    app.post(&format!("{path}/stdin"), "ready\n").await;
    assert_eq!(app.post(&wait, r#"{"for": "log", "text": "ready"}"#).await.status, StatusCode::OK);
    for (body, field) in [
        (r#"{"for": "moon"}"#, "for"),
        (r#"{"for": "port"}"#, "port"),
        (r#"{"for": "port", "port": 0}"#, "port"),
        (r#"{"for": "port", "port": 70000}"#, "port"),
        (r#"{"for": "log"}"#, "text"),
        (r#"{"for": "log", "text": ""}"#, "text"),
        (r#"{"for": "exit", "port": 1}"#, "port"),
        (r#"{"for": "exit", "timeout_ms": 86400001}"#, "timeout_ms"),
        ("{}", "for"),
    ] {
        assert_eq!(app.post(&wait, body).await.problem(422, "invalid_value")["field"], field, "{body}");
    }
    for body in [r#"{"signal": "SIGNOPE"}"#, r#"{"signal": 0}"#, r#"{"signal": 99}"#, r#"{"signal": null}"#] {
        let problem = app.post(&format!("{path}/signal"), body).await.problem(422, "invalid_value");
        assert_eq!(problem["field"], "signal", "{body}");
    }
}

#[tokio::test]
async fn execs_are_listed_in_pages() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    for _ in 0..5 {
        app.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"argv": ["true"]}"#).await;
    }
    let mut seen: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = app.get(&format!("/v1/sandboxes/{id}/execs?limit=2{cursor}")).await.json();
        seen.extend(page["items"].as_array().expect("items").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    app.get(&format!("/v1/sandboxes/{id}/execs?cursor=zz")).await.problem(422, "invalid_value");
    for eid in ["nope", "ex00000000000000000000", "sb00000000000000000000", "..%2f.."] {
        app.get(&format!("/v1/sandboxes/{id}/execs/{eid}")).await.problem(404, "not_found");
    }
}
