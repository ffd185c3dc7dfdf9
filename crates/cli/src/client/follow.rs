//! Following an exec to its end, across broken connections: output continues where it stopped.

use super::{
    CallError, Client,
    patience::Patience,
    said::{Said, decode},
    sse::SseParser,
};
use crate::{
    failure::{Failure, Outcome},
    output,
    process::{self, Streams},
};
use futures::StreamExt;
use isopod_model::exec::{Exec, ExecRequest, ExecState, OutputStream};
use reqwest::{Method, Response, header};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

/// The server says something every 15 s; after this long without a byte the connection is taken for dead.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of the longest character. The server holds back the beginning of one until the rest is written.
const CHARACTER: u64 = 4;
/// How long to wait for what may be held back.
const A_MOMENT: Duration = Duration::from_millis(500);

/// How the exec comes about.
#[derive(Debug)]
pub(crate) enum Origin {
    /// It exists already.
    Exists,
    /// It is started with this key, which makes trying again safe.
    Start {
        /// What to run.
        request: Box<ExecRequest>,
        /// `Idempotency-Key`.
        key: String,
    },
}

/// One exec being followed.
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    pub(crate) client: &'a Client,
    pub(crate) sandbox: String,
    pub(crate) origin: Origin,
    /// The exec's id, once known; shared with whoever sends it signals.
    pub(crate) exec: Arc<OnceLock<String>>,
    /// Offsets to go on from.
    pub(crate) stdout: u64,
    pub(crate) stderr: u64,
    /// A record of the exec: what it had written then is enough.
    until: Option<Box<Exec>>,
    patience: Patience,
    connected: bool,
}

/// The end of one connection: the exec's end, or why the connection ended before. The outer result is our own
/// failure, after which trying again makes no sense.
pub(crate) type Attempt = Outcome<Result<Exec, CallError>>;

impl<'a> Follower<'a> {
    /// Follows an exec that exists, from its first byte.
    pub(crate) fn existing(client: &'a Client, sandbox: String, exec: String) -> Self {
        Self::new(client, sandbox, Origin::Exists, OnceLock::from(exec))
    }

    /// Reads what an exec has written until now.
    pub(crate) fn until_now(client: &'a Client, sandbox: String, exec: Exec) -> Self {
        let known = OnceLock::from(exec.id.to_string());
        Self { until: Some(Box::new(exec)), ..Self::new(client, sandbox, Origin::Exists, known) }
    }

    /// Starts an exec and follows it.
    pub(crate) fn starting(client: &'a Client, sandbox: String, request: ExecRequest, key: String) -> Self {
        Self::new(client, sandbox, Origin::Start { request: Box::new(request), key }, OnceLock::new())
    }

    fn new(client: &'a Client, sandbox: String, origin: Origin, exec: OnceLock<String>) -> Self {
        let exec = Arc::new(exec);
        let patience = Patience::new();
        Self { client, sandbox, origin, exec, stdout: 0, stderr: 0, until: None, patience, connected: false }
    }

    /// Follows over server-sent events until the end.
    ///
    /// # Errors
    /// When the output cannot be written, the server refuses, or stays away for a minute.
    pub(crate) async fn run(&mut self, streams: &mut Streams) -> Outcome<Exec> {
        loop {
            let attempt = self.attempt(streams).await?;
            if let Some(exec) = self.judge(attempt).await? {
                return Ok(exec);
            }
        }
    }

    /// What an attempt's end means: the exec's end, another attempt (after a pause), or failure.
    pub(crate) async fn judge(&mut self, attempt: Result<Exec, CallError>) -> Outcome<Option<Exec>> {
        let error = match attempt {
            Ok(exec) => return Ok(Some(exec)),
            Err(error) => error,
        };
        // A server that was never there is a mistake of the caller's; one that was there may come back.
        let hopeless = !self.connected && matches!(error, CallError::Unreachable { .. });
        if hopeless || !error.is_transient() || !self.patience.wait().await {
            return Err(error.into());
        }
        Ok(None)
    }

    /// The connection works.
    pub(crate) fn alive(&mut self) {
        self.connected = true;
        self.patience.sign();
    }

    async fn attempt(&mut self, streams: &mut Streams) -> Attempt {
        let response = match self.open().await {
            Ok(response) => response,
            Err(error) => {
                self.connected |= matches!(error, CallError::Broken(_) | CallError::Problem(_));
                return Ok(Err(error));
            }
        };
        let mut parser = SseParser::default();
        let mut body = response.bytes_stream();
        loop {
            let (rest, patience) = match &self.until {
                Some(exec) if exec.state != ExecState::Ended => self.rest(exec),
                _ => (u64::MAX, SILENCE),
            };
            if let (0, Some(exec)) = (rest, &self.until) {
                return Ok(Ok(*exec.clone()));
            }
            let bytes = match (tokio::time::timeout(patience, body.next()).await, &self.until) {
                (Err(_), Some(exec)) if patience == A_MOMENT => return Ok(Ok(*exec.clone())),
                (waited, _) => waited,
            };
            let bytes = match bytes {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(error))) => return Ok(Err(self.client.broken(&error))),
                Ok(None) => return Ok(Err(CallError::Broken("the stream ended before the command".into()))),
                Err(_) => return Ok(Err(CallError::Broken("the server fell silent".into()))),
            };
            self.alive();
            let Ok(events) = parser.push(&bytes) else {
                return Ok(Err(CallError::Unexpected("an endless event".into())));
            };
            for event in events {
                match decode(&event.event, &event.data) {
                    Ok(Some(Said::Error(problem))) => return Ok(Err(problem.into())),
                    Ok(Some(said)) => {
                        if let Some(exec) = self.deliver(said, streams).await? {
                            return Ok(Ok(exec));
                        }
                    }
                    Ok(None) => {}
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
    }

    async fn open(&self) -> Result<Response, CallError> {
        let client = self.client;
        let request = match (self.exec.get(), &self.origin) {
            (Some(exec), _) => {
                let mut url = client.sandbox_url(&self.sandbox, &["execs", exec, "output"]);
                url.query_pairs_mut()
                    .append_pair("stdout_offset", &self.stdout.to_string())
                    .append_pair("stderr_offset", &self.stderr.to_string())
                    .append_pair("follow", "true");
                client.request(Method::GET, url)
            }
            (None, Origin::Start { request, key }) => client
                .request(Method::POST, client.sandbox_url(&self.sandbox, &["exec"]))
                .header("Idempotency-Key", key)
                .json(request),
            (None, Origin::Exists) => unreachable!("an existing exec has its id"),
        };
        let response = client.send(request.header(header::ACCEPT, "text/event-stream")).await?;
        let location = response.headers().get(header::CONTENT_LOCATION);
        if let Some(id) = location.and_then(|path| path.to_str().ok()?.rsplit('/').next()) {
            let _ = self.exec.set(id.to_owned());
        }
        Ok(response)
    }

    /// Passes on what was said; gives the record when it was the end. What was passed on before is left out.
    pub(crate) async fn deliver(&mut self, said: Said, streams: &mut Streams) -> Outcome<Option<Exec>> {
        match said {
            Said::Started(id) => {
                let _ = self.exec.set(id);
            }
            Said::Output { stream, offset, data } => {
                let fresh = self.advance(stream, offset, data.len() as u64);
                let begin = data.len() - usize::try_from(fresh).unwrap_or(data.len()).min(data.len());
                if begin < data.len() {
                    streams.write(stream, &data[begin..]).await?;
                }
            }
            Said::Skipped { stream, offset, bytes } => {
                let missing = self.advance(stream, offset, bytes);
                if missing > 0 {
                    process::note_skipped(stream, missing);
                }
            }
            Said::Exit(exec) => return Ok(Some(*exec)),
            Said::Error(problem) => return Err(CallError::from(problem).into()),
        }
        Ok(None)
    }

    /// How much is missing of what the record says, and how long to wait for it.
    fn rest(&self, exec: &Exec) -> (u64, Duration) {
        let missing =
            [exec.stdout_bytes.saturating_sub(self.stdout), exec.stderr_bytes.saturating_sub(self.stderr)];
        let held_back = missing.iter().all(|missing| *missing < CHARACTER);
        (missing.iter().sum(), if held_back { A_MOMENT } else { SILENCE })
    }

    /// Moves on to the end of `length` bytes at `offset`; how many of them lie behind what came before.
    fn advance(&mut self, stream: OutputStream, offset: u64, length: u64) -> u64 {
        let position = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let end = offset.saturating_add(length);
        let fresh = end.saturating_sub(*position).min(length);
        *position = end.max(*position);
        if fresh > 0 {
            self.patience.renew();
        }
        fresh
    }
}

/// Sends a signal to the whole process tree of an exec.
///
/// # Errors
/// As [`CallError`] says.
pub(crate) async fn signal(client: &Client, sandbox: &str, exec: &str, number: i32) -> Result<(), CallError> {
    let url = client.sandbox_url(sandbox, &["execs", exec, "signal"]);
    let body = serde_json::json!({ "signal": number, "tree": true });
    client.send(client.request(Method::POST, url).json(&body)).await.map(|_| ())
}

/// Says that an exec runs on and how to get back to it.
pub(crate) fn note_left(sandbox: &str, exec: Option<&String>) {
    match exec {
        Some(exec) => output::note(format_args!(
            "the command runs on; `isopod exec {sandbox} --attach {exec}` shows it again"
        )),
        None => output::note("nothing is known about the command"),
    }
}

/// The failure of an exec that never got an id.
pub(crate) fn no_exec(sandbox: &str) -> Failure {
    Failure::hinted(
        format_args!("nothing has run in {sandbox} yet"),
        format_args!("run something with `isopod exec {sandbox} -- CMD`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_twice() {
        let client = Client::new("http://127.0.0.1:1", None).expect("valid");
        let mut follower = Follower::existing(&client, "sb".into(), "ex".into());
        assert_eq!(follower.advance(OutputStream::Stdout, 0, 10), 10);
        assert_eq!(follower.advance(OutputStream::Stdout, 0, 10), 0);
        assert_eq!(follower.advance(OutputStream::Stdout, 5, 10), 5);
        assert_eq!(follower.advance(OutputStream::Stdout, 20, 5), 5, "a gap does not hide what follows");
        assert_eq!((follower.stdout, follower.stderr), (25, 0));
    }
}
