//! The same as `POST …/exec` over one WebSocket, standard input included.

use crate::{
    ApiState,
    exec::idempotency_key,
    execs::{Signal, StdinEncoding, decode_input},
    extract::{Inside, from_value, parse_exec_id, parse_json},
    output::{Chunk, Piece, Pieces, Skip},
    problem::{Answer, Problem, ProblemDocument},
    telemetry::RequestId,
};
use axum::{
    Extension,
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    response::IntoResponse,
};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::HeaderMap;
use isopod_control::DataPlane;
use isopod_model::{
    ExecId,
    exec::{Exec, ExecRequest, OutputStream},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

/// How many bytes one message of a client may have.
const MESSAGE_LIMIT: usize = 1024 * 1024;
/// How many pieces of input wait for the program before the socket is not read any more.
const INPUT_QUEUE: usize = 4;
/// How long a client may take for its first message, and to answer our closing.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server says.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Told<'a> {
    Started { id: &'a ExecId },
    Stdout(Chunk<'a>),
    Stderr(Chunk<'a>),
    Skipped(Skip),
    Exit(&'a Exec),
    Error { problem: &'a ProblemDocument },
}

/// What the client says after the first message. Binary messages are input.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Asked {
    Stdin {
        data: String,
        encoding: Option<StdinEncoding>,
    },
    StdinClose {},
    Signal {
        signal: Signal,
        #[serde(default = "Option::default")]
        tree: Option<bool>,
    },
}

/// The first message when it does not start an exec.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    exec_id: String,
    #[serde(default)]
    stdout_offset: u64,
    #[serde(default)]
    stderr_offset: u64,
}

/// What one connection needs to know.
struct Session {
    data: DataPlane,
    key: Option<String>,
    request_id: RequestId,
    keep_alive: Duration,
}

/// Run a command, or attach to one, over a WebSocket.
///
/// The first message is an exec request (its `type` is `start` or absent; input stays open unless `stdin` or
/// `stdin_open` is given) or `{"type": "attach", "exec_id", "stdout_offset", "stderr_offset"}`. Then the server sends
/// `started` with `id`, `stdout` and `stderr` with `offset`, `data` and perhaps `encoding: base64`, `skipped`, and at
/// last `exit` with the record; `error` with a `problem` whenever something went wrong. The client sends `stdin` with
/// `data` and perhaps `encoding: base64`, or binary messages; `stdin_close`; and `signal` with `signal` and `tree`.
/// Messages of clients may have 1 MiB. A client that goes away leaves the command running.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/exec/ws", tag = "execs",
    params(("Idempotency-Key" = Option<String>, Header, description = "As of `POST …/exec`")),
    responses((status = 101, description = "The WebSocket is open")))]
pub(crate) async fn exec_socket(
    State(state): State<ApiState>,
    Inside(data): Inside,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    let upgrade = upgrade.map_err(|rejection| Problem::UpgradeRequired { reason: rejection.body_text() })?;
    let session =
        Session { data, key: idempotency_key(&headers)?, request_id, keep_alive: state.settings.keep_alive };
    Ok(upgrade
        .max_message_size(MESSAGE_LIMIT)
        .max_frame_size(MESSAGE_LIMIT)
        .on_upgrade(move |socket| session.serve(socket))
        .into_response())
}

impl Session {
    async fn serve(self, socket: WebSocket) {
        let (sink, mut source) = socket.split();
        let mut teller = Teller { sink, request_id: self.request_id.clone() };
        match self.open(&mut source).await {
            Ok(None) => {}
            Ok(Some((id, pieces))) => self.converse(teller, source, id, pieces).await,
            Err(problem) => {
                if teller.problem(&problem).await.is_ok() && teller.close(close_code::POLICY).await.is_ok() {
                    drain(&mut source).await;
                }
            }
        }
    }

    /// Reads the first message and does what it says; nothing when the client left before.
    async fn open(&self, source: &mut SplitStream<WebSocket>) -> Answer<Option<(ExecId, Pieces)>> {
        let first = timeout(PATIENCE, first_message(source))
            .await
            .map_err(|_| Problem::malformed("the first message did not come"))?;
        let Some(text) = first else { return Ok(None) };
        let mut members: Map<String, Value> = parse_json(&text)?;
        let (id, stdout, stderr) = match members.remove("type").as_ref().map(Value::as_str) {
            None | Some(Some("start")) => {
                let input = members.contains_key("stdin") || members.contains_key("stdin_open");
                let mut request: ExecRequest = from_value(Value::Object(members))?;
                request.stdin_open |= !input;
                (self.data.exec(request, self.key.clone()).await?.id, 0, 0)
            }
            Some(Some("attach")) => {
                let attach: Attach = from_value(Value::Object(members))?;
                let id = parse_exec_id(&attach.exec_id)?;
                (id, attach.stdout_offset, attach.stderr_offset)
            }
            Some(_) => return Err(Problem::invalid("type", "must be start or attach in the first message")),
        };
        let events = self.data.exec_follow(&id, stdout, stderr).await?;
        Ok(Some((id, Pieces::new(events))))
    }

    async fn converse(self, teller: Teller, mut source: SplitStream<WebSocket>, id: ExecId, pieces: Pieces) {
        let (complaints, complaints_in) = mpsc::channel(INPUT_QUEUE);
        let (input, input_in) = mpsc::channel(INPUT_QUEUE);
        // A task of its own: input that was taken from a client reaches the program even when the client leaves.
        // It ends with the exec at the latest.
        tokio::spawn(feed(self.data.clone(), id.clone(), input_in, complaints.clone()));
        let left = tokio::select! {
            told = teller.tell_all(&id, pieces, complaints_in, self.keep_alive) => told.is_err(),
            () = self.listen(&mut source, &id, input, complaints) => true,
        };
        if !left {
            // Closing with unread input would reset the connection, and the exit might be lost on the way.
            drain(&mut source).await;
        }
    }

    /// Does what the client says until it leaves.
    async fn listen(
        &self,
        source: &mut SplitStream<WebSocket>,
        id: &ExecId,
        input: mpsc::Sender<Input>,
        complaints: mpsc::Sender<Problem>,
    ) {
        while let Some(Ok(message)) = source.next().await {
            let done = match message {
                Message::Binary(data) => queue(&input, Input { data, close: false }).await,
                Message::Text(text) => self.act(text.as_str(), id, &input).await,
                Message::Close(_) => return,
                Message::Ping(_) | Message::Pong(_) => Ok(()),
            };
            if let Err(problem) = done
                && complaints.send(problem).await.is_err()
            {
                return;
            }
        }
    }

    async fn act(&self, text: &str, id: &ExecId, input: &mpsc::Sender<Input>) -> Answer<()> {
        match parse_json(text.as_bytes())? {
            Asked::Stdin { data, encoding } => {
                queue(input, Input { data: decode_input(data, encoding)?, close: false }).await
            }
            Asked::StdinClose {} => queue(input, Input { data: Bytes::new(), close: true }).await,
            Asked::Signal { signal, tree } => {
                Ok(self.data.exec_signal(id, signal.number()?, tree.unwrap_or(true)).await?)
            }
        }
    }
}

/// Input on its way to the program.
struct Input {
    data: Bytes,
    close: bool,
}

async fn queue(input: &mpsc::Sender<Input>, piece: Input) -> Answer<()> {
    input.send(piece).await.map_err(|_| Problem::invalid("stdin", "is closed"))
}

async fn feed(
    data: DataPlane,
    id: ExecId,
    mut input: mpsc::Receiver<Input>,
    complaints: mpsc::Sender<Problem>,
) {
    while let Some(Input { data: bytes, close }) = input.recv().await {
        let done = data.exec_stdin(&id, bytes, close).await;
        if let Err(error) = done {
            // Nobody may be left to hear it.
            let _ = complaints.send(error.into()).await;
        }
    }
}

/// The text of the first message, or nothing when there is none.
async fn first_message(source: &mut SplitStream<WebSocket>) -> Option<Bytes> {
    while let Some(Ok(message)) = source.next().await {
        match message {
            Message::Text(text) => return Some(text.into()),
            Message::Binary(data) => return Some(data),
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    None
}

/// Reads until the client has closed too.
async fn drain(source: &mut SplitStream<WebSocket>) {
    let _ = timeout(PATIENCE, async { while let Some(Ok(_)) = source.next().await {} }).await;
}

/// The sending half. Every sending waits for the client, so a slow one costs no memory.
struct Teller {
    sink: SplitSink<WebSocket, Message>,
    request_id: RequestId,
}

impl Teller {
    async fn tell_all(
        mut self,
        id: &ExecId,
        mut pieces: Pieces,
        mut complaints: mpsc::Receiver<Problem>,
        keep_alive: Duration,
    ) -> Result<(), axum::Error> {
        self.tell(&Told::Started { id }).await?;
        let mut ticks = interval_at(Instant::now() + keep_alive, keep_alive);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                piece = pieces.next() => match piece {
                    Some(Ok(piece)) => self.piece(&piece).await?,
                    Some(Err(error)) => self.problem(&error.into()).await?,
                    None => return self.close(close_code::NORMAL).await,
                },
                Some(problem) = complaints.recv() => self.problem(&problem).await?,
                _ = ticks.tick() => self.sink.send(Message::Ping(Bytes::new())).await?,
            }
        }
    }

    async fn piece(&mut self, piece: &Piece) -> Result<(), axum::Error> {
        let told = match piece {
            Piece::Output { stream: OutputStream::Stdout, offset, data } => {
                Told::Stdout(Chunk::new(*offset, data))
            }
            Piece::Output { stream: OutputStream::Stderr, offset, data } => {
                Told::Stderr(Chunk::new(*offset, data))
            }
            Piece::Skipped { stream, offset, bytes } => {
                Told::Skipped(Skip { stream: *stream, offset: *offset, bytes: *bytes })
            }
            Piece::Exit(exec) => Told::Exit(exec),
        };
        self.tell(&told).await
    }

    async fn problem(&mut self, problem: &Problem) -> Result<(), axum::Error> {
        if let Some(detail) = problem.hidden() {
            tracing::error!(detail, request_id = self.request_id.as_str(), "internal error on a WebSocket");
        }
        let document = problem.document(Some(self.request_id.as_str()));
        self.tell(&Told::Error { problem: &document }).await
    }

    async fn tell(&mut self, told: &Told<'_>) -> Result<(), axum::Error> {
        let text = serde_json::to_string(told).map_err(axum::Error::new)?;
        self.sink.send(Message::Text(text.into())).await
    }

    async fn close(&mut self, code: u16) -> Result<(), axum::Error> {
        self.sink.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await
    }
}
