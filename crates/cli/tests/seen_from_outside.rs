//! What an operator sees: metrics that are really counted, traces where they were asked for, health.

mod support;

use std::{
    io::Write,
    process::{Command, Stdio},
};
use support::{Server, json, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// The value of the samples of `name` whose labels hold all of `labels`, added up.
fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| {
            line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test]
async fn metrics_are_counted_and_well_formed() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    for _ in 0..3 {
        sandbox.exec(json!({ "argv": ["true"] })).await;
    }
    sandbox.sh("exit 3").await;
    server.get("/v1/sandboxes/nonesuch").await.problem(404, "not_found");
    let text = until("count of what was done", async || {
        let text = server.get("/metrics").await.expect(200).text();
        (metric(&text, "sandbox_exec_duration_seconds_count", &[]) >= 4.0).then_some(text)
    })
    .await;
    for (name, labels, value) in [
        ("sandbox_created_total", &["tier=\"container\""][..], 1.0),
        ("sandbox_active", &[], 1.0),
        ("sandbox_create_duration_seconds_count", &[], 1.0),
        ("sandbox_exec_total", &[], 4.0),
        ("sandbox_exec_total", &["command_class=\"true\""], 3.0),
        ("http_requests_total", &["status=\"404\""], 1.0),
        ("http_requests_total", &["method=\"POST\"", "path=\"/v1/sandboxes\"", "status=\"201\""], 1.0),
    ] {
        assert_eq!(metric(&text, name, labels), value, "{name} {labels:?}\n{text}");
    }
    assert!(!text.contains(&sandbox.id), "an id would be a label without bounds");
    sandbox.delete().await;
    let after = server.get("/metrics").await.expect(200).text();
    assert_eq!(metric(&after, "sandbox_active", &[]), 0.0);
    assert_eq!(metric(&after, "sandbox_ended_total", &[]), 1.0);
    promtool(&after);
}

/// Prometheus' own opinion.
fn promtool(text: &str) {
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = checked else {
        println!("SKIPPED: promtool check metrics: no promtool (package prometheus)");
        return;
    };
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let said = promtool.wait_with_output().expect("it ends");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test]
async fn traces_go_where_they_were_asked_to() {
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", collector.local_addr().expect("bound"));
    let collected = tokio::spawn(async move {
        let mut all = Vec::new();
        // A collector of the OTLP/HTTP kind that says yes to everything, until it has seen the span.
        while !all.windows(12).any(|window| window == b"/v1/sandboxe") {
            let (mut stream, _) = collector.accept().await.expect("a connection");
            let mut piece = [0; 65536];
            while let Ok(read @ 1..) = stream.read(&mut piece).await {
                all.extend_from_slice(&piece[..read]);
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err()
                    || all.windows(12).any(|window| window == b"/v1/sandboxe")
                {
                    break;
                }
            }
        }
        all
    });
    let mut server =
        Server::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("ISOPOD_LOG", "info")]).await;
    let sandbox = server.sandbox(json!({})).await;
    sandbox.exec(json!({ "argv": ["true"] })).await;
    sandbox.delete().await;
    server.stop().await;
    let limit = std::time::Duration::from_secs(60);
    let all = tokio::time::timeout(limit, collected).await.expect("no span came").expect("no panic");
    let text = String::from_utf8_lossy(&all);
    assert!(text.starts_with("POST /v1/traces"), "{}", &text[..text.len().min(200)]);
    assert!(text.contains(&sandbox.id), "spans name the sandbox");
}

#[tokio::test]
async fn health_needs_nothing_and_readiness_is_told() {
    let server = Server::start().await;
    assert_eq!(server.get("/health").await.expect(200).json()["status"], "ok");
    server.get("/health/ready").await.expect(200);
    for page in ["/docs", "/redoc", "/openapi.json"] {
        server.get(page).await.expect(200);
    }
}
