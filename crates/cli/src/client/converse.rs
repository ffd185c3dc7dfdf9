//! An exec over a WebSocket: the same as following it, with standard input.

use super::{
    CallError, Problem,
    follow::{Attempt, Follower, Origin, SILENCE},
    said::{Said, decode_typed},
};
use crate::{failure::Outcome, output, process::Streams};
use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream::SplitSink};
use isopod_model::exec::Exec;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::{Notify, mpsc},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How much of standard input one message carries.
const PIECE: usize = 64 * 1024;

/// Standard input on its way to the server.
#[derive(Debug)]
pub(crate) struct Input(mpsc::Receiver<Bytes>);

impl Input {
    /// Reads the standard input of this process from now on.
    pub(crate) fn of_this_process() -> Self {
        let (sender, pieces) = mpsc::channel(2);
        tokio::spawn(async move {
            let mut stdin = tokio::io::stdin();
            let mut buffer = vec![0; PIECE];
            while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
                if sender.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                    return;
                }
            }
        });
        Self(pieces)
    }

    /// Sends what comes, once the exec has started, and then the end. Returns when there is no more to send or the
    /// connection is broken, which the other direction notices.
    async fn send(&mut self, sink: &mut SplitSink<Socket, Message>, started: &Notify) {
        started.notified().await;
        while let Some(piece) = self.0.recv().await {
            if sink.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::text(r#"{"type":"stdin_close"}"#)).await;
    }
}

/// Follows until the end, passing input on.
///
/// Input is not acknowledged: what was under way when a connection broke may be lost, which is then said.
///
/// # Errors
/// As of [`Follower::run`].
pub(crate) async fn converse(
    follower: &mut Follower<'_>,
    mut input: Input,
    streams: &mut Streams,
) -> Outcome<Exec> {
    loop {
        let attempt = attempt(follower, &mut input, streams).await?;
        let broken = attempt.is_err() && follower.exec.get().is_some();
        if let Some(exec) = follower.judge(attempt).await? {
            return Ok(exec);
        }
        if broken {
            output::note("the connection broke; input that was under way may be lost");
        }
    }
}

async fn attempt(follower: &mut Follower<'_>, input: &mut Input, streams: &mut Streams) -> Attempt {
    let socket = match open(follower).await {
        Ok(socket) => socket,
        Err(error) => return Ok(Err(error)),
    };
    follower.alive();
    let (mut sink, mut source) = socket.split();
    if let Err(error) = sink.send(first_message(follower)?).await {
        return Ok(Err(CallError::Broken(error.to_string())));
    }
    // The exec is there only when the server says so; until then input waits.
    let (started, mut has_started) = (Notify::new(), false);
    // One future for all input: a send that is given up half-way might be done twice.
    let sending = input.send(&mut sink, &started);
    tokio::pin!(sending);
    let mut all_sent = false;
    let mut last_problem: Option<Problem> = None;
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(SILENCE, source.next()) => message,
            () = sending.as_mut(), if !all_sent => { all_sent = true; continue }
        };
        let text = match message {
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Close(_))) | None) => {
                return Ok(Err(match last_problem.filter(|_| !has_started) {
                    Some(problem) => problem.into(),
                    None => CallError::Broken("the socket was closed before the command ended".into()),
                }));
            }
            Ok(Some(Ok(_))) => {
                follower.alive();
                continue;
            }
            Ok(Some(Err(error))) => return Ok(Err(CallError::Broken(error.to_string()))),
            Err(_) => return Ok(Err(CallError::Broken("the server fell silent".into()))),
        };
        follower.alive();
        match decode_typed(&text) {
            // Most often the command does not take input any more, which is its right.
            Ok(Some(Said::Error(problem))) => last_problem = Some(problem),
            Ok(Some(said)) => {
                if matches!(said, Said::Started(_)) {
                    has_started = true;
                    started.notify_one();
                }
                if let Some(exec) = follower.deliver(said, streams).await? {
                    return Ok(Ok(exec));
                }
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn first_message(follower: &Follower<'_>) -> Outcome<Message> {
    let value = match (follower.exec.get(), &follower.origin) {
        (Some(exec), _) => serde_json::json!({
            "type": "attach",
            "exec_id": exec,
            "stdout_offset": follower.stdout,
            "stderr_offset": follower.stderr,
        }),
        (None, Origin::Start { request, .. }) => {
            serde_json::to_value(request).map_err(crate::failure::Failure::new)?
        }
        (None, Origin::Exists) => unreachable!("an existing exec has its id"),
    };
    Ok(Message::text(value.to_string()))
}

async fn open(follower: &Follower<'_>) -> Result<Socket, CallError> {
    let client = follower.client;
    let url = client.sandbox_url(&follower.sandbox, &["exec", "ws"]);
    let address = format!("ws{}", url.as_str().strip_prefix("http").unwrap_or(url.as_str()));
    let mut request =
        address.into_client_request().map_err(|error| CallError::Unexpected(error.to_string()))?;
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.headers_mut().insert(name, value);
        }
    };
    if let Some(key) = client.key() {
        set("authorization", &format!("Bearer {key}"));
    }
    if let (None, Origin::Start { key, .. }) = (follower.exec.get(), &follower.origin) {
        set("idempotency-key", key);
    }
    match connect_async_with_config(request, None, true).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(Problem::read(response.status().as_u16(), body).into())
        }
        Err(tungstenite::Error::Io(error)) => {
            Err(CallError::Unreachable { base: client.base().to_owned(), reason: error.to_string() })
        }
        Err(error) => Err(CallError::Broken(error.to_string())),
    }
}
