//! Bad input: each mistake is answered by a problem document that names it, and the server goes on.

mod support;

use reqwest::Method;
use support::{Answer, Server, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends bytes as they are; what came back.
async fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("it listens");
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn still_well(server: &Server) {
    server.fresh().get("/health/ready").await.expect(200);
}

#[tokio::test]
async fn a_wrong_create_names_its_field() {
    let server = Server::start().await;
    let refused = async |body, field: &str| {
        let problem = server.post("/v1/sandboxes", body).await.problem(422, "invalid_value");
        assert_eq!(problem["field"], field, "{problem}");
    };
    refused(json!({ "template": "windows" }), "template").await;
    refused(json!({ "tier": "docker" }), "tier").await;
    refused(json!({ "colour": "red" }), "colour").await;
    refused(json!({ "limits": { "ram": 1 } }), "limits.ram").await;
    refused(json!({ "limits": { "memory_mib": 99_999_999 } }), "limits.memory_mib").await;
    refused(json!({ "limits": { "memory_mib": -1 } }), "limits.memory_mib").await;
    refused(json!({ "limits": { "memory_mib": 1 } }), "limits.memory_mib").await;
    refused(json!({ "limits": { "cpus": 4096 } }), "limits.cpus").await;
    refused(json!({ "limits": { "disk_mib": 99_999_999 } }), "limits.disk_mib").await;
    refused(json!({ "limits": { "pids": 1_000_000_000 } }), "limits.pids").await;
    refused(json!({ "instance_type": "huge" }), "instance_type").await;
    refused(json!({ "name": "../up" }), "name").await;
    refused(json!({ "name": "sb01jd2m3k4n5p6q7r8s9t" }), "name").await;
    refused(json!({ "name": 7 }), "name").await;
    refused(json!({ "labels": { "": "x" } }), "labels").await;
    refused(json!({ "env": { "A=B": "x" } }), "env").await;
    refused(json!({ "metadata": "x".repeat(70_000) }), "metadata").await;
    refused(json!({ "timeout_s": 0 }), "timeout_s").await;
    refused(json!([1, 2]), "body").await;
    let problem = server.post("/v1/sandboxes", json!({ "tier": "microvm" })).await;
    assert_eq!(problem.problem(422, "tier_unavailable")["field"], "tier");
    server.post("/v1/sandboxes", json!({ "always_on": true })).await.problem(501, "not_implemented");
    let taken = server.sandbox(json!({ "name": "mine" })).await;
    let problem = server.post("/v1/sandboxes", json!({ "name": "mine" })).await.problem(409, "name_taken");
    assert_eq!((&problem["field"], &problem["id"]), (&"name".into(), &taken.id.clone().into()));
    assert_eq!(server.host().agents().len(), 1, "nothing refused was begun");
}

#[tokio::test]
async fn what_cannot_be_read_is_malformed() {
    let server = Server::start().await;
    let send = async |body: Vec<u8>| {
        let request =
            server.request(Method::POST, "/v1/sandboxes").header("content-type", "application/json");
        server.send(request.body(body)).await
    };
    for text in ["{", "{\"name\":}", "nonsense", "{\"name\":\"\\ud800\"}", "{} {}"] {
        send(text.into()).await.problem(400, "malformed_request");
    }
    send(b"{\"name\": \"\xff\"}".to_vec()).await.problem(400, "malformed_request");
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    send(deep.into()).await.problem(400, "malformed_request");
    send(vec![b' '; 2 << 20]).await.problem(413, "too_large");
    let big = format!("{{\"metadata\":\"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(send(big.into()).await.problem(413, "too_large")["limit_bytes"], 1 << 20);
    still_well(&server).await;
}

#[tokio::test]
async fn broken_http_does_not_break_the_server() {
    let server = Server::start().await;
    let head = format!("GET /health HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n", server.port);
    let long = format!("{head}x-long: {}\r\n\r\n", "x".repeat(200_000));
    assert!(raw(&server, long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    let many: String = (0..500).map(|number| format!("x-{number}: 1\r\n")).collect();
    assert!(raw(&server, format!("{head}{many}\r\n").as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(raw(&server, b"\x16\x03\x01\x02\x00nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(raw(&server, b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let elsewhere =
        raw(&server, b"GET /health HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
    assert!(elsewhere.starts_with("HTTP/1.1 421") && elsewhere.contains("wrong_host"), "{elsewhere}");
    // A body that ends too early, and one that lies about its length.
    let short = format!(
        "POST /v1/sandboxes HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: 100\r\n\r\n{{",
        server.port
    );
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.expect("it listens");
    stream.write_all(short.as_bytes()).await.expect("sent");
    drop(stream);
    let page = server.request(Method::POST, "/v1/sandboxes").header("origin", "https://evil.example");
    server.send(page.json(&json!({}))).await.problem(403, "cross_origin");
    still_well(&server).await;
    assert!(server.host().agents().is_empty());
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist() {
    let server = Server::start().await;
    server.get("/v1/nonsense").await.problem(404, "not_found");
    server.get("/v1/sandboxes/no-such-name").await.problem(404, "not_found");
    server.get("/v1/sandboxes/sb01jd2m3k4n5p6q7r8s9t").await.problem(404, "not_found");
    server.get("/v1/sandboxes/%00").await.problem(404, "not_found");
    server.delete("/v1/sandboxes/sb01jd2m3k4n5p6q7r8s9t").await.problem(404, "not_found");
    server.delete("/v1/sandboxes").await.problem(405, "method_not_allowed");
    server.get("/v1/snapshots/x").await.problem(501, "not_implemented");
    for query in ["limit=0", "limit=1001", "limit=x", "state=asleep", "label=red", "sort=name", "cursor=x"] {
        let problem = server.get(&format!("/v1/sandboxes?{query}")).await.problem(422, "invalid_value");
        assert_eq!(problem["field"], query.split('=').next().expect("a name"), "{problem}");
    }
    let twice = server.get("/v1/sandboxes?limit=1&limit=2").await.problem(422, "invalid_value");
    assert_eq!(twice["field"], "limit");
    // A cursor of the right form that names nothing is a position like any other.
    let past = server.get("/v1/sandboxes?cursor=sb00000000000000000000").await.expect(200).json();
    assert_eq!(past["items"], json!([]));
    let sandbox = server.sandbox(json!({})).await;
    sandbox.get("/execs/ex01jd2m3k4n5p6q7r8s9t").await.problem(404, "not_found");
    sandbox.get("/execs/nonsense").await.problem(404, "not_found");
    sandbox.get("/execs?cursor=nonsense").await.problem(422, "invalid_value");
    sandbox.get("/events?after=x").await.problem(422, "invalid_value");
    sandbox
        .post("/execs/ex01jd2m3k4n5p6q7r8s9t/wait", json!({ "for": "luck" }))
        .await
        .problem(422, "invalid_value");
    sandbox.post("/promote", json!({ "tier": "microvm" })).await.problem(422, "tier_unavailable");
}

#[tokio::test]
async fn files_that_cannot_be_had() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    sandbox.read("/workspace/missing").await.problem(404, "file_not_found");
    sandbox.read("/workspace").await.problem(409, "wrong_file_kind");
    sandbox.read("/etc/passwd/x").await.problem(409, "wrong_file_kind");
    sandbox.read("/root/.bashrc").await.problem(403, "permission_denied");
    sandbox.write("/etc/mine", "x").await.problem(403, "permission_denied");
    for path in ["/proc/self/environ", "/proc/1/root/etc/passwd", "/dev/null", "/dev/zero", "/run/x"] {
        let answer = sandbox.read(path).await;
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.text());
    }
    // `..` never leaves: above the root is the root. Sent as it is, because clients tidy it up.
    for up in ["../", "%2e%2e/", "%2E%2E%2F"] {
        let path = sandbox.path(&format!("/files/workspace/{}etc/hostname", up.repeat(100)));
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n", server.port);
        let answer = raw(&server, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with(&sandbox.id),
            "{up}: {answer}"
        );
    }
    sandbox.read("/workspace/a%00b").await.problem(422, "invalid_value");
    sandbox.read(&format!("/workspace/{}", "x".repeat(5000))).await.problem(422, "invalid_value");
    sandbox.read(&format!("/workspace/{}", "x".repeat(300))).await.problem(422, "invalid_value");
    sandbox.read("/workspace/%ff").await.problem(400, "malformed_request");

    sandbox.write("/workspace/ten", "0123456789").await.expect(201);
    let part = async |range: &str| {
        let request = server.request(Method::GET, &sandbox.path("/files/workspace/ten"));
        server.send(request.header("range", range)).await
    };
    assert_eq!(part("bytes=2-4").await.expect(206).text(), "234");
    assert_eq!(part("bytes=-3").await.expect(206).text(), "789");
    let answer: Answer = part("bytes=10-").await;
    assert_eq!(answer.header("content-range"), "bytes */10");
    assert_eq!(answer.problem(416, "range_not_satisfiable")["size_bytes"], 10);
    let guarded =
        server.request(Method::PUT, &sandbox.path("/files/workspace/ten")).header("if-match", "\"other\"");
    server.send(guarded.body("x")).await.problem(412, "precondition_failed");
    let fresh =
        server.request(Method::PUT, &sandbox.path("/files/workspace/ten")).header("if-none-match", "*");
    server.send(fresh.body("x")).await.problem(412, "precondition_failed");
    sandbox.write("/workspace/ten?mode=999", "x").await.problem(422, "invalid_value");
    sandbox.write("/workspace/ten?user=alice", "x").await.problem(422, "invalid_value");
    sandbox.get("/files/workspace/ten?nonsense=1").await.problem(422, "invalid_value");
    sandbox.write("/workspace/ten/below", "x").await.problem(409, "wrong_file_kind");
    sandbox.write("/workspace/d/e", "x").await.expect(201);
    server.delete(&sandbox.path("/files/workspace/d")).await.problem(409, "directory_not_empty");
    assert_eq!(sandbox.read("/workspace/ten").await.expect(200).text(), "0123456789");
}
