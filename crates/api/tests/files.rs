//! Files and history over HTTP.

mod common;

use axum::body::Body;
use common::{SseReader, TestApp, request, with_headers};
use http::{Method, StatusCode};
use serde_json::json;

#[tokio::test]
async fn bytes_go_in_and_out() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let file = format!("/v1/sandboxes/{id}/files/workspace/a%20b/%C3%BC.txt");
    let written = app.put(&file, "0123456789").await;
    assert_eq!(written.status, StatusCode::CREATED);
    let etag = written.header("etag").to_owned();
    assert_eq!(
        (&written.json()["path"], &written.json()["size_bytes"]),
        (&json!("/workspace/a b/ü.txt"), &json!(10))
    );

    let read = app.get(&file).await;
    assert_eq!((read.status, &read.body[..]), (StatusCode::OK, &b"0123456789"[..]));
    assert_eq!((read.header("etag"), read.header("content-length")), (&etag[..], "10"));
    assert_eq!(read.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(read.header("content-disposition"), "attachment");
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    assert!(read.header("content-security-policy").starts_with("sandbox"));
    assert!(read.header("last-modified").ends_with("GMT"));

    let head = app.with(Method::HEAD, &file, &[], "").await;
    assert_eq!((head.status, head.body.len(), head.header("content-length")), (StatusCode::OK, 0, "10"));
    assert_eq!(head.header("etag"), etag);

    let replaced = app.put(&file, "new").await;
    assert_eq!((replaced.status, replaced.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_ne!(replaced.header("etag"), etag);
    assert_eq!(app.delete(&file).await.status, StatusCode::NO_CONTENT);
    app.get(&file).await.problem(404, "file_not_found");
    app.delete(&file).await.problem(404, "file_not_found");
    let head = app.with(Method::HEAD, &file, &[], "").await;
    assert_eq!(head.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn large_bodies_are_streamed() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let file = format!("/v1/sandboxes/{id}/files/workspace/large");
    let piece = bytes::Bytes::from(vec![7_u8; 256 * 1024]);
    let pieces = futures::stream::iter((0..32).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    assert_eq!(app.put(&file, Body::from_stream(pieces)).await.status, StatusCode::CREATED);
    assert_eq!(app.get(&file).await.body.len(), 8 * 1024 * 1024);
    // A body that breaks off leaves what was there.
    let broken = futures::stream::iter([Ok("x"), Err(std::io::Error::other("gone"))]);
    let answer = app.put(&file, Body::from_stream(broken)).await;
    assert!(!answer.status.is_success(), "{answer:?}");
    assert_eq!(app.get(&file).await.body.len(), 8 * 1024 * 1024);
}

#[tokio::test]
async fn ranges_are_served() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let file = format!("/v1/sandboxes/{id}/files/workspace/r");
    let etag = app.put(&file, "0123456789").await.header("etag").to_owned();
    for (range, body, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let part = app.with(Method::GET, &file, &[("range", range)], "").await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!((part.text(), part.header("content-range")), (body, content_range));
        assert_eq!(part.header("content-length"), body.len().to_string());
    }
    for overlooked in ["bytes=0-1,4-5", "lines=1-2", "bytes=5-2", "nonsense"] {
        let whole = app.with(Method::GET, &file, &[("range", overlooked)], "").await;
        assert_eq!((whole.status, whole.body.len()), (StatusCode::OK, 10), "{overlooked}");
    }
    for outside in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
        let refused = app.with(Method::GET, &file, &[("range", outside)], "").await;
        assert_eq!(refused.header("content-range"), "bytes */10", "{outside}");
        assert_eq!(refused.problem(416, "range_not_satisfiable")["size_bytes"], 10);
    }
    let current = app.with(Method::GET, &file, &[("range", "bytes=0-1"), ("if-range", &etag)], "").await;
    assert_eq!(current.status, StatusCode::PARTIAL_CONTENT);
    let stale = app.with(Method::GET, &file, &[("range", "bytes=0-1"), ("if-range", "\"old\"")], "").await;
    assert_eq!((stale.status, stale.body.len()), (StatusCode::OK, 10));
    // A download goes on after the file became shorter: all of the new one is due.
    let resumed = app.with(Method::GET, &file, &[("range", "bytes=50-"), ("if-range", "\"old\"")], "").await;
    assert_eq!((resumed.status, resumed.body.len()), (StatusCode::OK, 10));
}

#[tokio::test]
async fn conditions_guard_reading_and_writing() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let file = format!("/v1/sandboxes/{id}/files/workspace/c");
    app.with(Method::PUT, &file, &[("if-match", "*")], "x").await.problem(412, "precondition_failed");
    let first = app.with(Method::PUT, &file, &[("if-none-match", "*")], "1").await;
    assert_eq!(first.status, StatusCode::CREATED);
    let etag = first.header("etag").to_owned();
    let again = app.with(Method::PUT, &file, &[("if-none-match", "*")], "2").await;
    assert_eq!(again.problem(412, "precondition_failed")["etag"], etag);

    let known = app.with(Method::GET, &file, &[("if-none-match", &format!("\"zz\", {etag}"))], "").await;
    assert_eq!(
        (known.status, known.body.len(), known.header("etag")),
        (StatusCode::NOT_MODIFIED, 0, &etag[..])
    );
    let modified = app.get(&file).await.header("last-modified").to_owned();
    let since = app.with(Method::HEAD, &file, &[("if-modified-since", &modified)], "").await;
    assert_eq!(since.status, StatusCode::NOT_MODIFIED);
    app.with(Method::GET, &file, &[("if-match", "\"other\"")], "").await.problem(412, "precondition_failed");

    let second = app.with(Method::PUT, &file, &[("if-match", &etag)], "2").await;
    assert_eq!(second.status, StatusCode::NO_CONTENT);
    app.with(Method::PUT, &file, &[("if-match", &etag)], "3").await.problem(412, "precondition_failed");
    app.with(Method::DELETE, &file, &[("if-match", &etag)], "").await.problem(412, "precondition_failed");
    assert_eq!(app.get(&file).await.text(), "2");
}

#[tokio::test]
async fn paths_are_decoded_once_and_stay_inside() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let files = format!("/v1/sandboxes/{id}/files");
    assert_eq!(app.put(&format!("{files}/workspace/%252e"), "x").await.json()["path"], "/workspace/%2e");
    assert_eq!(app.put(&format!("{files}//workspace//twice"), "x").await.status, StatusCode::CREATED);
    app.put(&format!("{files}/workspace/%ff"), "x").await.problem(400, "malformed_request");
    app.get(&format!("{files}/proc/1/root/etc/passwd")).await.problem(403, "path_refused");
    app.get(&format!("{files}/workspace/../proc/self/environ")).await.problem(403, "path_refused");
    app.get(&format!("{files}/workspace")).await.problem(409, "wrong_file_kind");
    app.get(&format!("{files}/a%00b")).await.problem(403, "path_refused");
    for (query, field) in [("mode=rw", "mode"), ("mode=77777", "mode"), ("sudo=1", "sudo")] {
        let problem =
            app.put(&format!("{files}/workspace/m?{query}"), "x").await.problem(422, "invalid_value");
        assert_eq!(problem["field"], field);
    }
    let mode = app.put(&format!("{files}/workspace/m?mode=0600"), "x").await;
    assert_eq!(mode.json()["mode"], "0600");
}

#[tokio::test]
async fn the_tree_is_listed_and_changed() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let base = format!("/v1/sandboxes/{id}");
    let mkdir = app.post(&format!("{base}/mkdir"), r#"{"path": "/workspace/d"}"#).await;
    assert_eq!((mkdir.status, &mkdir.json()["kind"]), (StatusCode::CREATED, &json!("directory")));
    let again = app.post(&format!("{base}/mkdir"), r#"{"path": "/workspace/d"}"#).await;
    assert_eq!(again.status, StatusCode::OK);
    app.put(&format!("{base}/files/workspace/d/f"), "x").await;
    let names = async |path: &str| -> Vec<String> {
        let answer = app.get(path).await.json();
        let items = answer["items"].as_array().expect("items");
        items.iter().map(|item| item["path"].as_str().expect("a path").to_owned()).collect()
    };
    assert_eq!(names(&format!("{base}/ls/workspace")).await, ["/workspace/d"]);
    assert_eq!(
        names(&format!("{base}/ls/workspace?recursive=true")).await,
        ["/workspace/d", "/workspace/d/f"]
    );
    assert_eq!(names(&format!("{base}/ls")).await, names(&format!("{base}/ls/")).await);
    assert_eq!(app.get(&format!("{base}/stat/workspace/d/f")).await.json()["size_bytes"], 1);

    let moved =
        app.post(&format!("{base}/move"), r#"{"from": "/workspace/d/f", "to": "/workspace/g"}"#).await;
    assert_eq!(moved.status, StatusCode::NO_CONTENT);
    app.get(&format!("{base}/stat/workspace/d/f")).await.problem(404, "file_not_found");
    app.put(&format!("{base}/files/workspace/d/f"), "y").await;
    app.delete(&format!("{base}/files/workspace/d")).await.problem(409, "directory_not_empty");
    let all = app.delete(&format!("{base}/files/workspace/d?recursive=true")).await;
    assert_eq!(all.status, StatusCode::NO_CONTENT);
    app.post(&format!("{base}/mkdir"), r#"{"paht": "x"}"#).await.problem(422, "invalid_value");
    app.get(&format!("{base}/ls/nosuch")).await.problem(404, "file_not_found");
}

#[tokio::test]
async fn history_is_read_and_followed_to_the_end() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/events");
    let run = async || app.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"argv": ["true"]}"#).await;
    run().await;
    let items = app.get(&path).await.json()["items"].as_array().expect("items").clone();
    let kinds: Vec<_> = items.iter().map(|item| item["kind"].as_str().expect("a kind")).collect();
    assert!(kinds.contains(&"exec.started"), "{kinds:?}");
    let last = items.last().expect("entries")["seq"].as_i64().expect("a number");
    let later = app.get(&format!("{path}?after={last}")).await.json();
    assert_eq!(later["items"], json!([]));

    let mut stream =
        SseReader::new(app.send(request(Method::GET, &format!("{path}?follow=true&after={last}"), "")).await);
    run().await;
    let event = stream.next().await.expect("an event");
    assert_eq!((&event.name[..], &event.data["kind"]), ("event", &json!("exec.started")));
    assert_eq!(event.id, Some(event.data["seq"].to_string()));
    let resumed = [("accept", "text/event-stream"), ("last-event-id", event.id.as_deref().expect("an id"))];
    let mut other = SseReader::new(app.send(with_headers(Method::GET, &path, &resumed, "")).await);

    assert_eq!(app.delete(&format!("/v1/sandboxes/{id}")).await.status, StatusCode::NO_CONTENT);
    let end = stream.next().await.expect("an event");
    assert_eq!((&end.name[..], &end.data["code"]), ("error", &json!("gone")));
    assert_eq!(stream.next().await, None);
    assert_eq!(other.next().await.expect("an event").data["ending"]["by"], "caller");

    let kept = app.get(&path).await.json();
    let kinds: Vec<_> =
        kept["items"].as_array().expect("items").iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds.last(), Some(&json!("sandbox.ended")), "{kinds:?}");
    app.get("/v1/sandboxes/nosuch/events").await.problem(404, "not_found");
    app.get(&format!("{path}?after=x")).await.problem(422, "invalid_value");
}

#[tokio::test]
async fn figures_are_shown() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    app.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"argv": ["true"]}"#).await;
    assert_eq!(app.get(&format!("/v1/sandboxes/{id}/stats")).await.json()["execs_total"], 1);
}
