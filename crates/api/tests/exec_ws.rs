//! Commands over a WebSocket.

mod common;

use common::TestApp;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

/// A client's end.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn open(address: SocketAddr, sandbox: &str, origin: Option<&str>) -> Result<Self, Error> {
        let url = format!("ws://{address}/v1/sandboxes/{sandbox}/exec/ws");
        let mut request = url.into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().expect("a header"));
        }
        let socket = TcpStream::connect(address).await?;
        Ok(Self(client_async(request, socket).await?.0))
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("sends");
    }

    /// The next frame that says something; nothing when the server has closed.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Close(_)) => {}
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Frames up to the first of that type, which comes last.
    async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            let last = frame["type"] == kind;
            frames.push(frame);
            if last {
                return frames;
            }
        }
        panic!("no {kind} in {frames:?}");
    }
}

async fn client() -> (TestApp, String, SocketAddr) {
    let app = TestApp::new().await;
    let id = app.sandbox().await;
    let address = app.listen().await;
    (app, id, address)
}

#[tokio::test]
async fn a_command_runs_with_input() {
    let (app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"type": "start", "argv": ["cat"]})).await;
    let started = socket.next().await.expect("a frame");
    assert_eq!(started["type"], "started");
    socket.say(json!({"type": "stdin", "data": "héllo\n"})).await;
    assert_eq!(socket.next().await, Some(json!({"type": "stdout", "offset": 0, "data": "héllo\n"})));
    socket.0.send(Message::binary(&b"\xff\xfe"[..])).await.expect("sends");
    let binary = socket.next().await.expect("a frame");
    assert_eq!(binary, json!({"type": "stdout", "offset": 7, "data": "//4=", "encoding": "base64"}));
    socket.say(json!({"type": "stdin", "data": "eA==", "encoding": "base64"})).await;
    assert_eq!(socket.next().await.expect("a frame")["data"], "x");
    socket.say(json!({"type": "stdin_close"})).await;
    let exit = socket.next().await.expect("a frame");
    assert_eq!((&exit["type"], &exit["exit_code"], &exit["id"]), (&json!("exit"), &json!(0), &started["id"]));
    assert_eq!(socket.next().await, None);
    app.node.assert_no_violations();
}

#[tokio::test]
async fn clients_come_back_and_attach() {
    let (app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"argv": ["cat"]})).await;
    let exec = socket.next().await.expect("a frame")["id"].clone();
    socket.say(json!({"type": "stdin", "data": "0123456789"})).await;
    socket.until("stdout").await;
    drop(socket);

    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"type": "attach", "exec_id": exec, "stdout_offset": 7})).await;
    assert_eq!(socket.next().await.expect("a frame"), json!({"type": "started", "id": exec}));
    assert_eq!(socket.next().await.expect("a frame"), json!({"type": "stdout", "offset": 7, "data": "789"}));
    socket.say(json!({"type": "signal", "signal": "SIGTERM"})).await;
    let exit = socket.until("exit").await.pop().expect("an exit");
    assert_eq!((&exit["reason"], &exit["signal"]), (&json!("signaled"), &json!(15)));
    let record = app.get(&format!("/v1/sandboxes/{id}/execs/{}", exec.as_str().expect("an id"))).await.json();
    assert_eq!(record["state"], "ended");

    // Also after the end.
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"type": "attach", "exec_id": exec})).await;
    let frames = socket.until("exit").await;
    assert_eq!(frames[1]["data"], "0123456789");
}

#[tokio::test]
async fn given_input_is_all_there_is() {
    let (_app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"argv": ["cat"], "stdin": "abc"})).await;
    let frames = socket.until("exit").await;
    assert_eq!(frames[1], json!({"type": "stdout", "offset": 0, "data": "abc"}));
}

#[tokio::test]
async fn bad_first_messages_are_answered_and_end_it() {
    let (_app, id, address) = client().await;
    let unknown = "ex00000000000000000000";
    for (first, code) in [
        ("nonsense", "malformed_request"),
        ("[]", "invalid_value"),
        (r#"{"type": "dance"}"#, "invalid_value"),
        (r#"{"type": 1, "argv": ["true"]}"#, "invalid_value"),
        (r#"{"type": "start"}"#, "invalid_value"),
        (r#"{"argv": ["true"], "bogus": 1}"#, "invalid_value"),
        (r#"{"type": "attach"}"#, "invalid_value"),
        (&format!(r#"{{"type": "attach", "exec_id": "{unknown}"}}"#), "not_found"),
    ] {
        let mut socket = Client::open(address, &id, None).await.expect("opens");
        socket.0.send(Message::text(first)).await.expect("sends");
        let error = socket.next().await.expect("a frame");
        assert_eq!((&error["type"], &error["problem"]["code"]), (&json!("error"), &json!(code)), "{first}");
        assert!(error["problem"]["request_id"].is_string());
        assert_eq!(socket.next().await, None, "{first}");
    }
}

#[tokio::test]
async fn later_nonsense_is_answered_and_the_command_goes_on() {
    let (_app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"argv": ["cat"]})).await;
    socket.next().await;
    for (message, code) in [
        ("nonsense".to_owned(), "malformed_request"),
        (json!({"type": "dance"}).to_string(), "invalid_value"),
        (json!({"type": "signal", "signal": "NOPE"}).to_string(), "invalid_value"),
        (json!({"type": "stdin", "data": "%", "encoding": "base64"}).to_string(), "invalid_value"),
        ("[".repeat(100_000), "malformed_request"),
    ] {
        socket.0.send(Message::text(message.clone())).await.expect("sends");
        let error = socket.next().await.expect("a frame");
        assert_eq!(error["problem"]["code"], code, "{error}");
    }
    socket.say(json!({"type": "stdin_close"})).await;
    assert_eq!(socket.next().await.expect("a frame")["type"], "exit");
}

#[tokio::test]
async fn messages_have_a_limit() {
    let (app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"argv": ["cat"]})).await;
    let exec = socket.next().await.expect("a frame")["id"].as_str().expect("an id").to_owned();
    // The server may have hung up before all of it was sent.
    let _ = socket.0.send(Message::binary(vec![0; 2 * 1024 * 1024])).await;
    while let Some(Ok(message)) = socket.0.next().await {
        assert!(!matches!(message, Message::Text(_)), "{message:?}");
    }
    let record = app.get(&format!("/v1/sandboxes/{id}/execs/{exec}")).await.json();
    assert_eq!(record["state"], "running");
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let (_app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"argv": ["yes", "3000000"]})).await;
    let mut offset = 0;
    for frame in socket.until("exit").await {
        if frame["type"] == "stdout" {
            assert_eq!(frame["offset"], offset);
            offset += frame["data"].as_str().expect("text").len();
        }
    }
    assert_eq!(offset, 3_000_000);
}

#[tokio::test]
async fn what_is_no_websocket_is_told_so() {
    let (app, id, address) = client().await;
    let plain = app.get(&format!("/v1/sandboxes/{id}/exec/ws")).await;
    assert_eq!(plain.header("upgrade"), "websocket");
    plain.problem(426, "upgrade_required");
    let refused = |error: Error| match error {
        Error::Http(response) => response.status().as_u16(),
        other => panic!("{other}"),
    };
    let foreign = Client::open(address, &id, Some("https://evil.example")).await;
    assert_eq!(foreign.map(|_| ()).map_err(refused), Err(403));
    let unknown = Client::open(address, "nosuch", None).await;
    assert_eq!(unknown.map(|_| ()).map_err(refused), Err(404));
}

#[tokio::test]
async fn silence_is_filled_with_pings() {
    let (_app, id, address) = client().await;
    let mut socket = Client::open(address, &id, None).await.expect("opens");
    socket.say(json!({"argv": ["sleep"]})).await;
    socket.next().await;
    let ping = socket.0.next().await.expect("a frame").expect("the socket is whole");
    assert!(matches!(ping, Message::Ping(_)), "{ping:?}");
}
