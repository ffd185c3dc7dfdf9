//! One sandbox as a caller sees it.

use super::{Answer, Client, Done, until};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

/// A sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) client: Client,
    pub(crate) id: String,
}

/// An exec that was started and is not waited for.
#[derive(Debug, Clone)]
pub(crate) struct Execution {
    pub(crate) sandbox: Sandbox,
    pub(crate) id: String,
}

/// Server-sent events, one at a time.
pub(crate) struct Stream {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

impl Sandbox {
    /// Its path in the API with something appended.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v1/sandboxes/{}{rest}", self.id)
    }

    /// Its record.
    pub(crate) async fn record(&self) -> Value {
        self.client.get(&self.path("")).await.expect(200).json()
    }

    /// The state it is in.
    pub(crate) async fn state(&self) -> String {
        self.record().await["state"].as_str().expect("a state").to_owned()
    }

    /// `POST` to one of its paths.
    pub(crate) async fn post(&self, rest: &str, body: Value) -> Answer {
        self.client.post(&self.path(rest), body).await
    }

    /// `GET` of one of its paths.
    pub(crate) async fn get(&self, rest: &str) -> Answer {
        self.client.get(&self.path(rest)).await
    }

    /// Deletes it.
    pub(crate) async fn delete(&self) {
        self.client.delete(&self.path("")).await.expect(204);
    }

    /// Runs a command to its end.
    pub(crate) async fn exec(&self, request: Value) -> Done {
        Done(self.post("/exec", request).await.expect(200).json())
    }

    /// Runs a shell command as `user`.
    pub(crate) async fn sh(&self, command: &str) -> Done {
        self.exec(json!({ "shell": command })).await
    }

    /// Runs a shell command as `root`.
    pub(crate) async fn root(&self, command: &str) -> Done {
        self.exec(json!({ "shell": command, "user": "root" })).await
    }

    /// Runs Python as a user.
    pub(crate) async fn python_as(&self, user: &str, code: &str) -> Done {
        self.exec(json!({ "language": "python", "code": code, "user": user })).await
    }

    /// Starts a command and does not wait for it.
    pub(crate) async fn start(&self, mut request: Value) -> Execution {
        request["background"] = true.into();
        let started = self.post("/exec", request).await.expect(202).json();
        Execution { sandbox: self.clone(), id: started["id"].as_str().expect("an id").to_owned() }
    }

    /// Starts a command and follows its output.
    pub(crate) async fn follow(&self, request: Value) -> Stream {
        let request = self.client.request(Method::POST, &self.path("/exec")).json(&request);
        Stream::open(request).await
    }

    /// All its execs, newest first.
    pub(crate) async fn execs(&self) -> Vec<Value> {
        let page = self.get("/execs?limit=1000").await.expect(200).json();
        page["items"].as_array().expect("a page").clone()
    }

    /// Its history.
    pub(crate) async fn events(&self) -> Vec<Value> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let part = self.get(&format!("/events?limit=1000&after={after}")).await.expect(200).json();
            let items = part["items"].as_array().expect("a list").clone();
            let Some(last) = items.last() else { return all };
            after = last["seq"].as_i64().expect("a position");
            all.extend(items);
        }
    }

    /// Reads a file, `path` absolute.
    pub(crate) async fn read(&self, path: &str) -> Answer {
        self.get(&format!("/files{path}")).await
    }

    /// Writes a file, `path` absolute.
    pub(crate) async fn write(&self, path: &str, content: impl Into<reqwest::Body>) -> Answer {
        let path = self.path(&format!("/files{path}"));
        self.client.send(self.client.request(Method::PUT, &path).body(content)).await
    }

    /// Checks that a command runs and its answer comes: whatever somebody else did, this sandbox is well.
    pub(crate) async fn assert_well(&self) {
        assert_eq!(self.sh("echo well > /workspace/.well && cat /workspace/.well").await.fine(), "well");
    }
}

impl Execution {
    /// Its path in the API with something appended.
    pub(crate) fn path(&self, rest: &str) -> String {
        self.sandbox.path(&format!("/execs/{}{rest}", self.id))
    }

    /// Its record.
    pub(crate) async fn record(&self) -> Value {
        self.sandbox.client.get(&self.path("")).await.expect(200).json()
    }

    /// Waits for its end; its record.
    pub(crate) async fn ended(&self) -> Value {
        self.wait(json!({ "for": "exit", "timeout_ms": 120_000 })).await.expect(200).json()
    }

    pub(crate) async fn wait(&self, body: Value) -> Answer {
        self.sandbox.client.post(&self.path("/wait"), body).await
    }

    /// Waits until its output holds a text.
    pub(crate) async fn said(&self, text: &str) {
        self.wait(json!({ "for": "log", "text": text, "timeout_ms": 60_000 })).await.expect(200);
    }

    pub(crate) async fn signal(&self, signal: &str, tree: bool) -> Answer {
        self.sandbox.client.post(&self.path("/signal"), json!({ "signal": signal, "tree": tree })).await
    }

    /// Writes to its standard input.
    pub(crate) async fn input(&self, data: &str, close: bool) -> Answer {
        let path = self.path(&format!("/stdin?close={close}"));
        let request = self.sandbox.client.request(Method::POST, &path).body(data.to_owned());
        self.sandbox.client.send(request).await
    }

    /// Its output from an offset on, as JSON.
    pub(crate) async fn output(&self, stdout_offset: u64) -> Value {
        let path = self.path(&format!("/output?stdout_offset={stdout_offset}"));
        self.sandbox.client.get(&path).await.expect(200).json()
    }

    /// All its standard output, page by page; only what the journal holds.
    pub(crate) async fn whole_output(&self) -> String {
        let (mut all, mut offset) = (String::new(), 0);
        loop {
            let part = self.output(offset).await;
            let next = part["stdout_offset"].as_u64().expect("an offset");
            all += part["stdout"].as_str().expect("text");
            if next == offset {
                return all;
            }
            offset = next;
        }
    }

    /// Follows its output from an offset on.
    pub(crate) async fn follow(&self, stdout_offset: u64) -> Stream {
        let path = self.path(&format!("/output?follow=true&stdout_offset={stdout_offset}"));
        Stream::open(self.sandbox.client.request(Method::GET, &path)).await
    }
}

impl Stream {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = request.header("accept", "text/event-stream").send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.bytes_stream().boxed(), buffer: Vec::new() }
    }

    /// The next event's name and data; none at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(block).expect("events are text");
                let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
                if let (Some(event), Some(data)) = (field("event: "), field("data: ")) {
                    return Some((event.to_owned(), serde_json::from_str(data).expect("JSON")));
                }
                continue;
            }
            self.buffer.extend_from_slice(&self.body.next().await?.expect("the stream holds"));
        }
    }

    /// Everything until the end: standard output as bytes, and the last event.
    pub(crate) async fn drain(mut self) -> (Vec<u8>, String, Value) {
        use base64::Engine;
        let mut stdout = Vec::new();
        while let Some((event, data)) = self.next().await {
            match event.as_str() {
                "stdout" => {
                    let text = data["data"].as_str().expect("data");
                    match data["encoding"].as_str() {
                        Some("base64") => stdout
                            .extend(base64::engine::general_purpose::STANDARD.decode(text).expect("base64")),
                        _ => stdout.extend_from_slice(text.as_bytes()),
                    }
                }
                "exit" | "error" => return (stdout, event, data),
                _ => {}
            }
        }
        panic!("the stream ended without an end");
    }
}

/// Waits until a sandbox is in a state; its record.
impl Sandbox {
    pub(crate) async fn becomes(&self, state: &str) -> Value {
        until(&format!("sandbox {} that is {state}", self.id), async || {
            let record = self.record().await;
            (record["state"] == state).then_some(record)
        })
        .await
    }
}
