//! `isopod events`: what happened to a sandbox.

use crate::{
    client::{
        CallError, Client, Problem,
        follow::SILENCE,
        patience::Patience,
        sse::{SseEvent, SseParser},
    },
    failure::Outcome,
    output,
    signals::{self, Interrupts},
};
use clap::Args;
use futures::StreamExt;
use isopod_model::{event::Event, sandbox::Sandbox};
use reqwest::{Method, header};
use serde::Deserialize;

/// Arguments of `isopod events`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isopod events my-project\n  isopod events -f --json my-project | jq .kind"
)]
pub(crate) struct Arguments {
    /// Id or name of the sandbox
    sandbox: String,
    /// Wait for more until the sandbox ends
    #[arg(long, short = 'f')]
    follow: bool,
    /// Only what comes after this position
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: i64,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct EventList {
    items: Vec<Event>,
}

/// Shows events, oldest first.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = Client::from_environment()?;
    let mut reader = Reader { client, arguments, saw_end: false };
    if !reader.arguments.follow {
        return reader.pages().await.map(|()| 0);
    }
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        end = reader.follow() => end.map(|()| 0),
        number = interrupts.next() => Ok(signals::exit_code(number)),
    }
}

struct Reader {
    client: Client,
    arguments: Arguments,
    saw_end: bool,
}

impl Reader {
    async fn pages(&mut self) -> Outcome<()> {
        loop {
            let mut url = self.client.sandbox_url(&self.arguments.sandbox, &["events"]);
            url.query_pairs_mut()
                .append_pair("after", &self.arguments.after.to_string())
                .append_pair("limit", &isopod_model::page::MAX_LIMIT.to_string());
            let list: EventList = self.client.json(self.client.request(Method::GET, url)).await?;
            if list.items.is_empty() {
                return Ok(());
            }
            for event in list.items {
                self.show(&event)?;
            }
        }
    }

    /// Follows across broken connections until the sandbox has ended.
    async fn follow(&mut self) -> Outcome<()> {
        let mut patience = Patience::new();
        let mut connected = false;
        loop {
            let error = match self.stream(&mut patience, &mut connected).await? {
                Err(CallError::Problem(problem)) if connected && problem.status == 410 => {
                    return self.show_end().await;
                }
                Ok(()) if self.has_ended().await => return self.show_end().await,
                Ok(()) => CallError::Broken("the stream ended before the sandbox".into()),
                Err(error) => error,
            };
            let hopeless = !connected && matches!(error, CallError::Unreachable { .. });
            if hopeless || !error.is_transient() || !patience.wait().await {
                return Err(error.into());
            }
        }
    }

    /// Shows how the sandbox ended: its own log went with it, what the platform keeps has it.
    async fn show_end(&mut self) -> Outcome<()> {
        let url = self.client.sandbox_url(&self.arguments.sandbox, &["events"]);
        let kept: EventList = match self.client.json(self.client.request(Method::GET, url)).await {
            Ok(kept) => kept,
            // A name is free again once its sandbox has ended.
            Err(CallError::Problem(problem)) if problem.status == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match kept.items.last() {
            Some(last) if last.kind == "sandbox.ended" && !self.saw_end => self.show(last),
            _ => Ok(()),
        }
    }

    async fn has_ended(&self) -> bool {
        let url = self.client.sandbox_url(&self.arguments.sandbox, &[]);
        let answer: Result<Sandbox, _> = self.client.json(self.client.request(Method::GET, url)).await;
        matches!(answer, Err(CallError::Problem(problem)) if matches!(problem.status, 404 | 410))
    }

    /// One connection; the inner result says why it ended.
    async fn stream(
        &mut self,
        patience: &mut Patience,
        connected: &mut bool,
    ) -> Outcome<Result<(), CallError>> {
        let mut url = self.client.sandbox_url(&self.arguments.sandbox, &["events"]);
        url.query_pairs_mut()
            .append_pair("after", &self.arguments.after.to_string())
            .append_pair("follow", "true");
        let request = self.client.request(Method::GET, url).header(header::ACCEPT, "text/event-stream");
        let mut body = match self.client.send(request).await {
            Ok(response) => response.bytes_stream(),
            Err(error) => return Ok(Err(error)),
        };
        *connected = true;
        let mut parser = SseParser::default();
        loop {
            let bytes = match tokio::time::timeout(SILENCE, body.next()).await {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(error))) => return Ok(Err(self.client.broken(&error))),
                Ok(None) => return Ok(Ok(())),
                Err(_) => return Ok(Err(CallError::Broken("the server fell silent".into()))),
            };
            patience.sign();
            let Ok(events) = parser.push(&bytes) else {
                return Ok(Err(CallError::Unexpected("an endless event".into())));
            };
            for SseEvent { event, data, .. } in events {
                if event == "error" {
                    return Ok(Err(Problem::in_stream(&data).into()));
                }
                match serde_json::from_str::<Event>(&data) {
                    Ok(event) => self.show(&event)?,
                    Err(error) => return Ok(Err(CallError::Unexpected(error.to_string()))),
                }
                patience.renew();
            }
        }
    }

    fn show(&mut self, event: &Event) -> Outcome<()> {
        self.arguments.after = event.seq;
        self.saw_end |= event.kind == "sandbox.ended";
        if self.arguments.json {
            return output::json_line(event);
        }
        let data = match &event.data {
            serde_json::Value::Null => String::new(),
            data => data.to_string(),
        };
        let line = format!("{:<30} {:<20} {}", event.at.to_string(), event.kind, output::printable(&data));
        output::line(line.trim_end())
    }
}
