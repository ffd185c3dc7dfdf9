//! `isopod logs`: the output of a command that runs or ran.

use crate::{
    client::{
        Client,
        follow::{self, Follower},
    },
    failure::Outcome,
    output,
    process::Streams,
    signals::{self, Interrupts},
};
use clap::Args;
use isopod_model::{exec::Exec, page::Page};
use reqwest::Method;

/// Arguments of `isopod logs`.
#[derive(Debug, Args)]
#[command(after_help = "Standard output and standard error go where they went originally.\n\n\
                        Examples:\n  isopod logs my-project\n  isopod logs -f my-project ex0abc… 2>/dev/null")]
pub(crate) struct Arguments {
    /// Id or name of the sandbox
    sandbox: String,
    /// Id of the exec; the newest when absent
    exec: Option<String>,
    /// Go on until the command has ended
    #[arg(long, short = 'f')]
    follow: bool,
    /// Print what there is as JSON
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

/// Shows the output of one exec.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = Client::from_environment()?;
    let sandbox = arguments.sandbox;
    let exec = match arguments.exec {
        Some(exec) => exec,
        None => newest(&client, &sandbox).await?,
    };
    if arguments.json {
        let url = client.sandbox_url(&sandbox, &["execs", &exec, "output"]);
        let slice: serde_json::Value = client.json(client.request(Method::GET, url)).await?;
        output::json(&slice)?;
        return Ok(0);
    }
    let mut streams = Streams::of_this_process();
    let mut interrupts = Interrupts::listen()?;
    let mut follower = if arguments.follow {
        Follower::existing(&client, sandbox, exec)
    } else {
        let url = client.sandbox_url(&sandbox, &["execs", &exec]);
        let record = client.json(client.request(Method::GET, url)).await?;
        Follower::until_now(&client, sandbox, record)
    };
    tokio::select! {
        end = follower.run(&mut streams) => end.map(|_| 0),
        number = interrupts.next() => Ok(signals::exit_code(number)),
    }
}

async fn newest(client: &Client, sandbox: &str) -> Outcome<String> {
    let mut url = client.sandbox_url(sandbox, &["execs"]);
    url.query_pairs_mut().append_pair("limit", "1");
    let page: Page<Exec> = client.json(client.request(Method::GET, url)).await?;
    page.items.first().map(|exec| exec.id.to_string()).ok_or_else(|| follow::no_exec(sandbox))
}
