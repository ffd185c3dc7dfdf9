//! The WebSocket of execs: the same as over HTTP, input included.

mod support;

use futures::{SinkExt, StreamExt};
use support::{Sandbox, Server, Value, json};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

/// A connection.
struct Socket(WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>);

impl Socket {
    async fn open(sandbox: &Sandbox, first: Value) -> Self {
        let url = format!("{}{}", sandbox.client.base.replace("http:", "ws:"), sandbox.path("/exec/ws"));
        let (socket, _) = connect_async(url).await.expect("it opens");
        let mut socket = Self(socket);
        socket.send(first).await;
        socket
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Message::Text(message.to_string().into())).await.expect("it is taken");
    }

    /// The next message that is none of the protocol's own; nothing after the close.
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.0.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return None,
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits for standard output that ends so.
    async fn says(&mut self, end: &str) {
        let mut all = String::new();
        while !all.ends_with(end) {
            let message = self.next().await.unwrap_or_else(|| panic!("{all:?} does not end in {end:?}"));
            assert!(message["type"] == "stdout" || message["type"] == "started", "{message}");
            all += message["data"].as_str().unwrap_or_default();
        }
    }
}

#[tokio::test]
async fn a_conversation_over_one_socket() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    let mut socket =
        Socket::open(&sandbox, json!({ "shell": "while read line; do echo \"[$line]\"; done; echo over" }))
            .await;
    let started = socket.next().await.expect("a message");
    assert_eq!(started["type"], "started");
    socket.send(json!({ "type": "stdin", "data": "one\n" })).await;
    socket.says("[one]\n").await;
    socket.send(json!({ "type": "stdin", "data": "dHdvCg==", "encoding": "base64" })).await;
    socket.says("[two]\n").await;
    socket.0.send(Message::Binary("three\n".into())).await.expect("it is taken");
    socket.says("[three]\n").await;
    socket.send(json!({ "type": "nonsense" })).await;
    assert_eq!(socket.next().await.expect("an answer")["problem"]["code"], "invalid_value");
    socket.send(json!({ "type": "stdin_close" })).await;
    socket.says("over\n").await;
    let exit = socket.next().await.expect("the end");
    assert_eq!((&exit["type"], &exit["exit_code"]), (&"exit".into(), &0.into()));
    assert_eq!(socket.next().await, None);
}

#[tokio::test]
async fn signals_and_attaching() {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({})).await;
    let mut first =
        Socket::open(&sandbox, json!({ "type": "start", "shell": "echo begun; exec sleep 1000" })).await;
    let id = first.next().await.expect("a message")["id"].as_str().expect("an id").to_owned();
    first.says("begun\n").await;
    // It goes without a word; the command runs on.
    drop(first);
    let mut second =
        Socket::open(&sandbox, json!({ "type": "attach", "exec_id": id, "stdout_offset": 2 })).await;
    second.says("gun\n").await;
    second.send(json!({ "type": "signal", "signal": "SIGINT" })).await;
    let exit = second.next().await.expect("the end");
    assert_eq!(
        (&exit["type"], &exit["signal"], &exit["reason"]),
        (&"exit".into(), &2.into(), &"signaled".into())
    );

    let mut wrong = Socket::open(&sandbox, json!({ "argv": [] })).await;
    let told = wrong.next().await.expect("an answer");
    assert_eq!((&told["type"], &told["problem"]["code"]), (&"error".into(), &"invalid_value".into()));
    assert_eq!(wrong.next().await, None);
    let plain = sandbox.get("/exec/ws").await;
    plain.problem(426, "upgrade_required");
}
