//! The server around the API: routes, methods, hosts, origins, headers, health, metrics, documents.

mod common;

use axum::body::Body;
use common::{TestApp, request, with_headers};
use http::{Method, StatusCode};

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let app = TestApp::new().await;
    for path in
        ["/", "/v1", "/v1/nothing", "/v2/sandboxes", "/v1/sandboxes/", "/v1/sandboxes/a/b/c", "//", "/%ff"]
    {
        app.get(path).await.problem(404, "not_found");
    }
    let answer = app.with(Method::DELETE, "/v1/sandboxes", &[], "").await;
    let allowed: Vec<&str> = answer.header("allow").split(',').collect();
    assert!(allowed.contains(&"GET") && allowed.contains(&"POST"), "{allowed:?}");
    answer.problem(405, "method_not_allowed");
    let odd = Method::from_bytes(b"BREW").expect("a method");
    app.with(odd, "/v1/sandboxes/x/files/y", &[], "").await.problem(405, "method_not_allowed");
    let post = app.post("/v1/sandboxes/x/files/y", "").await;
    assert_eq!(post.header("allow"), "GET,HEAD,PUT,DELETE");
    post.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let app = TestApp::new().await;
    for path in [
        "/v1/sandboxes/x/sessions",
        "/v1/sandboxes/x/terminals/t1/ws",
        "/v1/sandboxes/x/previews",
        "/v1/sandboxes/x/watch/a/b",
        "/v1/sandboxes/x/files/a/b/sign",
        "/v1/snapshots/a/diff/b",
        "/v1/queue",
        "/v1/keys/k1",
        "/v1/templates",
        "/v1/nodes",
    ] {
        let problem = app.post(path, "{}").await.problem(501, "not_implemented");
        assert!(problem["detail"].as_str().expect("text").contains('('), "{problem}");
    }
}

#[tokio::test]
async fn other_hosts_and_origins_are_refused() {
    let app = TestApp::new().await;
    for host in ["evil.example", "192.168.1.1", "localhost.evil.example:8080"] {
        app.with(Method::GET, "/v1/sandboxes", &[("host", host)], "").await.problem(421, "wrong_host");
    }
    let bare = http::Request::builder().uri("/health").body(Body::empty()).expect("a request");
    app.ask(bare).await.problem(400, "malformed_request");
    for origin in ["https://evil.example", "null", "http://localhost:3000"] {
        let answer = app.with(Method::POST, "/v1/sandboxes", &[("origin", origin)], "{}").await;
        assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("access-control-")));
        answer.problem(403, "cross_origin");
    }
    assert!(app.node.ids().is_empty());
    let own = app.with(Method::POST, "/v1/sandboxes", &[("origin", "http://localhost:8080")], "{}").await;
    assert_eq!(own.status, StatusCode::CREATED);
    let preflight =
        app.with(Method::OPTIONS, "/v1/sandboxes", &[("origin", "https://evil.example")], "").await;
    preflight.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn request_ids_go_there_and_back() {
    let app = TestApp::new().await;
    let sane = app.with(Method::GET, "/nope", &[("x-request-id", "abc-1.2:3")], "").await;
    assert_eq!(sane.problem(404, "not_found")["request_id"], "abc-1.2:3");
    let long = "x".repeat(200);
    for bad in ["<script>", "a b", &long] {
        let answer = app.with(Method::GET, "/health", &[("x-request-id", bad)], "").await;
        assert_ne!(answer.header("x-request-id"), bad);
        assert!(!answer.header("x-request-id").is_empty());
    }
    // Headers that are no text harm nobody.
    let mut odd = request(Method::GET, "/health", Body::empty());
    for name in ["x-request-id", "traceparent", "accept", "origin"] {
        odd.headers_mut().insert(name, http::HeaderValue::from_bytes(b"\xff\xfe").expect("a header"));
    }
    assert_eq!(app.ask(odd).await.status, StatusCode::OK);
}

#[tokio::test]
async fn hostile_headers_are_typed_problems() {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let exec = format!("/v1/sandboxes/{id}/exec");
    let long = "k".repeat(256);
    for key in ["", &long] {
        let answer =
            app.with(Method::POST, &exec, &[("idempotency-key", key)], r#"{"argv": ["true"]}"#).await;
        assert_eq!(answer.problem(422, "invalid_value")["field"], "Idempotency-Key");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    app.with(Method::POST, &exec, &twice, r#"{"argv": ["true"]}"#).await.problem(422, "invalid_value");
    let mut odd = with_headers(Method::POST, &exec, &[], r#"{"argv": ["true"]}"#);
    odd.headers_mut().insert("idempotency-key", http::HeaderValue::from_bytes(b"\xff").expect("a header"));
    app.ask(odd).await.problem(422, "invalid_value");
    let file = format!("/v1/sandboxes/{id}/files/a");
    app.with(Method::PUT, &file, &[("if-match", "unquoted")], "x").await.problem(422, "invalid_value");
}

#[tokio::test]
async fn the_server_tells_how_it_is() {
    let app = TestApp::new().await;
    assert_eq!(app.get("/health").await.json()["status"], "ok");
    assert_eq!(app.get("/health/ready").await.status, StatusCode::OK);
    app.node.set_report(|report| report.tiers.iter_mut().for_each(|tier| tier.available = false));
    app.get("/health/ready").await.problem(503, "unavailable");
    let doctor = app.get("/v1/doctor").await.json();
    assert_eq!(doctor["checks"][0]["verdict"], "ok");
    let metrics = app.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
}

#[tokio::test]
async fn what_is_answered_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let app = TestApp::with_metrics(recorder.handle()).await;
    let _guard = metrics::set_default_local_recorder(&recorder);
    isopod_api::describe_metrics();
    let id = app.sandbox().await;
    app.get(&format!("/v1/sandboxes/{id}")).await;
    for path in ["/v1/sandboxes/a", "/v1/sandboxes/b", "/nope", "/etc/passwd"] {
        app.get(path).await.problem(404, "not_found");
    }
    app.with(Method::from_bytes(b"BREW").expect("a method"), "/health", &[], "").await;
    let text = app.get("/metrics").await;
    for line in [
        r#"http_requests_total{method="GET",path="/v1/sandboxes/{id}",status="200"} 1"#,
        r#"http_requests_total{method="GET",path="/v1/sandboxes/{id}",status="404"} 2"#,
        r#"http_requests_total{method="GET",path="unknown",status="404"} 2"#,
        r#"http_requests_total{method="OTHER",path="/health",status="405"} 1"#,
        r#"http_request_duration_seconds_count{method="POST",path="/v1/sandboxes"} 1"#,
        r#"sandboxes{state="running"} 1"#,
        "sandbox_active 1",
        "teardowns_pending 0",
    ] {
        assert!(text.text().lines().any(|found| found == line), "{line} is not in\n{}", text.text());
    }
}

#[tokio::test]
async fn documents_need_nothing_from_elsewhere() {
    let app = TestApp::new().await;
    let document = app.get("/openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.json()["info"]["title"], "Isopod");
    for path in ["/docs", "/redoc"] {
        let page = app.get(path).await;
        assert!(page.header("content-type").starts_with("text/html"));
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
        assert!(!page.text().contains("http://") && !page.text().contains("https://"));
    }
}

#[tokio::test]
async fn too_many_header_bytes_are_refused_by_the_server() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = TestApp::new().await;
    let address = app.listen().await;
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("connects");
    let head = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Large: {}\r\n\r\n", "x".repeat(1 << 20));
    // The server may answer and close before it has read everything.
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("connects");
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
