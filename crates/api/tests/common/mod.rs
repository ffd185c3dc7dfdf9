//! A server over a real `Control` and a real store, with a pretended node below.

#![allow(dead_code, reason = "each test file uses its part")]

use axum::{
    Router,
    body::{Body, to_bytes},
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use isopod_api::{ApiSettings, ApiState};
use isopod_control::{Control, ControlSettings};
use isopod_store::SqliteStore;
use isopod_testkit::{FakeNode, ManualClock, SeededEntropy};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::Value;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tempfile::TempDir;
use tower::ServiceExt;

/// The server, and what it stands on.
pub(crate) struct TestApp {
    pub(crate) router: Router,
    pub(crate) node: Arc<FakeNode>,
    pub(crate) control: Arc<Control>,
    directory: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: impl AsRef<str>) -> &str {
        self.headers.get(name.as_ref()).map_or("", |value| value.to_str().expect("ASCII"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// Checks that it is a complete problem document of that status and code, and gives it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:isopod:problem:{code}"));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert_eq!(problem["instance"], format!("urn:isopod:request:{}", self.header("x-request-id")));
        problem
    }
}

impl TestApp {
    pub(crate) async fn new() -> Self {
        Self::with_metrics(PrometheusBuilder::new().build_recorder().handle()).await
    }

    /// A server whose `/metrics` shows what the recorder of `metrics` holds.
    pub(crate) async fn with_metrics(metrics: PrometheusHandle) -> Self {
        let clock = ManualClock::new();
        let node = FakeNode::new(clock.clone());
        let directory = TempDir::new().expect("a directory");
        let store = SqliteStore::open(directory.path()).await.expect("a store");
        let control = Control::open(
            Arc::new(store),
            node.clone(),
            clock,
            SeededEntropy::new(7),
            ControlSettings::default(),
        )
        .await
        .expect("control opens");
        let settings = ApiSettings {
            keep_alive: Duration::from_millis(50),
            ..ApiSettings::new("http://127.0.0.1:8080")
        };
        let state = ApiState::new(control.clone(), metrics, settings);
        Self { router: isopod_api::router(state), node, control, directory }
    }

    /// Sends a request as it is and gives the answer, its body unread.
    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.expect("the router is infallible")
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.send(request).await.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(request(Method::GET, path, Body::empty())).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(request(Method::DELETE, path, Body::empty())).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.ask(request(Method::POST, path, body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.ask(request(Method::PUT, path, body)).await
    }

    pub(crate) async fn with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        self.ask(with_headers(method, path, headers, body)).await
    }

    /// A fresh sandbox's id.
    pub(crate) async fn sandbox(&self) -> String {
        let answer = self.post("/v1/sandboxes", "{}").await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        answer.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Starts a command in the background and gives the exec's path.
    pub(crate) async fn background(&self, sandbox: &str, request: &str) -> String {
        let mut request: Value = serde_json::from_str(request).expect("JSON");
        request["background"] = true.into();
        let answer = self.post(&format!("/v1/sandboxes/{sandbox}/exec"), request.to_string()).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{:?}", answer.body);
        let location = answer.header(header::LOCATION).to_owned();
        assert!(location.starts_with(&format!("/v1/sandboxes/{sandbox}/execs/ex")), "{location}");
        location
    }

    /// Serves on a loopback port until the test ends.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = self.router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        address
    }
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    with_headers(method, path, &[], body)
}

pub(crate) fn with_headers(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        builder = builder.header("host", "localhost:8080");
    }
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).expect("a request")
}

/// One server-sent event: its name, its id, its data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SseEvent {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

/// Reads server-sent events from a body as they come.
pub(crate) struct SseReader {
    body: Body,
    buffer: String,
}

impl SseReader {
    #[track_caller]
    pub(crate) fn new(response: Response<Body>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { body: response.into_body(), buffer: String::new() }
    }

    /// The next event, or nothing at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = parse(&self.block().await?) {
                return Some(event);
            }
        }
    }

    /// Waits for a comment; an event before it fails the test.
    pub(crate) async fn comment(&mut self) {
        let block = self.block().await.expect("the stream goes on");
        assert!(block.starts_with(':'), "{block:?}");
    }

    /// Every event to the end.
    pub(crate) async fn rest(mut self) -> Vec<SseEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                return Some(self.buffer.drain(..end + 2).collect());
            }
            let frame = self.body.frame().await?.expect("the stream does not break");
            let data = frame.into_data().expect("data");
            self.buffer.push_str(std::str::from_utf8(&data).expect("SSE is text"));
        }
    }
}

/// The event of a block, unless it is a comment.
fn parse(block: &str) -> Option<SseEvent> {
    let mut event = SseEvent { name: String::new(), id: None, data: Value::Null };
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", name)) => event.name = name.to_owned(),
            Some(("id", id)) => event.id = Some(id.to_owned()),
            Some(("data", data)) => event.data = serde_json::from_str(data).expect("JSON"),
            Some(("", _)) => {}
            _ => assert!(line.is_empty(), "{line:?}"),
        }
    }
    (!event.name.is_empty()).then_some(event)
}
