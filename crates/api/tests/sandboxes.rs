//! Sandboxes over HTTP, and how bad input is told.

mod common;

use common::TestApp;
use http::{Method, StatusCode};
use isopod_model::Error;

#[tokio::test]
async fn a_sandbox_lives_and_ends() {
    let app = TestApp::new().await;
    let created = app.post("/v1/sandboxes", r#"{"name": "mine", "labels": {"team": "red"}}"#).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let sandbox = created.json();
    let id = sandbox["id"].as_str().expect("an id");
    assert_eq!(created.header("location"), format!("/v1/sandboxes/{id}"));
    assert_eq!((&sandbox["state"], &sandbox["tier"]), (&"running".into(), &"container".into()));

    assert_eq!(app.get("/v1/sandboxes/mine").await.json()["id"], *id);
    let patched = app
        .with(Method::PATCH, &format!("/v1/sandboxes/{id}"), &[], r#"{"labels": {"team": null, "a": "b"}}"#)
        .await;
    assert_eq!(patched.json()["labels"], serde_json::json!({"a": "b"}));

    for (call, state) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("stop", "stopped"),
        ("start", "running"),
        ("keepalive", "running"),
    ] {
        let answer = app.post(&format!("/v1/sandboxes/{id}/{call}"), "").await;
        assert_eq!(answer.json()["state"], state, "{call}");
    }

    for _ in 0..2 {
        let deleted = app.delete(&format!("/v1/sandboxes/{id}")).await;
        assert_eq!((deleted.status, deleted.body.len()), (StatusCode::NO_CONTENT, 0));
    }
    let gone = app.get(&format!("/v1/sandboxes/{id}")).await.problem(410, "gone");
    assert_eq!(gone["ending"]["by"], "caller");
    assert_eq!(gone["id"], *id);
    app.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"argv": ["true"]}"#).await.problem(410, "gone");
    app.get(&format!("/v1/sandboxes/{id}/files/a")).await.problem(410, "gone");
    app.node.assert_no_violations();
}

#[tokio::test]
async fn by_name_is_get_or_create() {
    let app = TestApp::new().await;
    let path = "/v1/sandboxes/by-name/dev.box_1";
    let answers = futures::future::join_all((0..4).map(|_| app.put(path, ""))).await;
    let created = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    let found = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!((created, found), (1, 3));
    assert!(answers.iter().all(|answer| answer.json()["id"] == answers[0].json()["id"]));

    let taken = app.post("/v1/sandboxes", r#"{"name": "dev.box_1"}"#).await.problem(409, "name_taken");
    assert_eq!(taken["id"], answers[0].json()["id"]);
    app.put("/v1/sandboxes/by-name/a%20b", "").await.problem(422, "invalid_value");
    app.put("/v1/sandboxes/by-name/%ff", "").await.problem(400, "malformed_request");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let app = TestApp::new().await;
    for n in 0..5 {
        let body = format!(r#"{{"labels": {{"n": "{}", "team": "red:blue"}}}}"#, n % 2);
        assert_eq!(app.post("/v1/sandboxes", body).await.status, StatusCode::CREATED);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/sandboxes?limit=2&label=team:red:blue".to_owned();
    loop {
        let page = app.get(&path).await.json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/sandboxes?limit=2&label=team:red:blue&cursor={cursor}");
    }
    assert_eq!(seen.len(), 5);
    let both = app.get("/v1/sandboxes?label=n:0&label=team%3Ared%3Ablue&state=running").await.json();
    assert_eq!(both["items"].as_array().expect("items").len(), 3);

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=sleeping", "state"),
        ("label=novalue", "label"),
        ("label=:x", "label"),
        ("cursor=%00%01", "cursor"),
        ("colour=red", "colour"),
    ] {
        let problem = app.get(&format!("/v1/sandboxes?{query}")).await.problem(422, "invalid_value");
        assert_eq!(problem["field"], field, "{query}: {problem}");
    }
}

#[tokio::test]
async fn bad_bodies_are_told_apart() {
    let app = TestApp::new().await;
    let deep = format!(r#"{{"metadata": {}"#, "[".repeat(500_000));
    let deep_closed = format!(r#"{{"metadata": {}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for body in ["{", "nope", "{} x", r#"{"name": "\ud800"}"#, &deep, &deep_closed] {
        app.post("/v1/sandboxes", body.to_owned()).await.problem(400, "malformed_request");
    }
    app.post("/v1/sandboxes", &b"{\"name\": \"\xff\"}"[..]).await.problem(400, "malformed_request");
    for (body, field) in [
        (r#"{"nmae": "x"}"#, "nmae"),
        (r#"{"tier": "docker"}"#, "tier"),
        (r#"{"tier": "wasm"}"#, "tier"),
        (r#"{"limits": {"cpus": "two"}}"#, "limits.cpus"),
        (r#"{"limits": {"cpus": 999}}"#, "limits.cpus"),
        (r#"{"limits": {"memory_mib": 1e400}}"#, "limits.memory_mib"),
        (r#"{"name": "a/b"}"#, "name"),
        (r#"{"template": "nosuch"}"#, "template"),
        (r#"{"env": {"A=B": "c"}}"#, "env"),
        ("[]", "body"),
        ("null", "body"),
    ] {
        let answer = app.post("/v1/sandboxes", body).await;
        if body.contains("1e400") && answer.status == StatusCode::BAD_REQUEST {
            continue;
        }
        let problem = answer.json();
        assert_eq!(answer.status, 422, "{body}: {problem}");
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let large = app.post("/v1/sandboxes", " ".repeat(1024 * 1024 + 1)).await.problem(413, "too_large");
    assert_eq!(large["limit_bytes"], 1024 * 1024);
    // The same without a declared length.
    let chunks = futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024])));
    let body = axum::body::Body::from_stream(chunks);
    app.post("/v1/sandboxes", body).await.problem(413, "too_large");
    assert!(app.node.ids().is_empty());
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
}

#[tokio::test]
async fn errors_have_their_status() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let unknown = app.get("/v1/sandboxes/sb00000000000000000000").await;
    assert_eq!(unknown.problem(404, "not_found")["id"], "sb00000000000000000000");
    app.post("/v1/sandboxes/nosuch/exec", r#"{"argv": ["true"]}"#).await.problem(404, "not_found");
    app.post(&format!("/v1/sandboxes/{id}/pause"), "").await;
    let paused = app.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"argv": ["true"]}"#).await;
    assert_eq!(paused.problem(409, "wrong_state")["state"], "paused");
    app.post(&format!("/v1/sandboxes/{id}/resume"), "").await;
    app.post(&format!("/v1/sandboxes/{id}/promote"), r#"{"tier": "microvm"}"#)
        .await
        .problem(422, "tier_unavailable");
    let missing = app.post(&format!("/v1/sandboxes/{id}/promote"), "{}").await.problem(422, "invalid_value");
    assert_eq!(missing["field"], "tier");

    app.node.fail_next("create", Error::NoCapacity { reason: "full".into(), retry_after_s: 7 });
    let full = app.post("/v1/sandboxes", "").await;
    assert_eq!(full.header("retry-after"), "7");
    assert_eq!(full.problem(503, "no_capacity")["retry_after_s"], 7);

    app.node.fail_next("exec", Error::internal("the password is hunter2"));
    let internal = app.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"argv": ["true"]}"#).await;
    internal.problem(500, "internal");
    assert!(!internal.text().contains("hunter2"));

    app.node.fail_next("file_write", Error::DiskFull { limit_mib: 8 });
    app.put(&format!("/v1/sandboxes/{id}/files/a"), "x").await.problem(507, "disk_full");
    app.node.fail_next("file_read", Error::PermissionDenied { path: "/root".into() });
    app.get(&format!("/v1/sandboxes/{id}/files/root")).await.problem(403, "permission_denied");
    app.node.assert_no_violations();
}
