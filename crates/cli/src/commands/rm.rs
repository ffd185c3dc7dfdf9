//! `isopod rm`: sandboxes end.

use crate::{
    arguments,
    client::Client,
    failure::{Failure, Outcome},
    output,
};
use clap::Args;
use futures::{StreamExt, stream};
use reqwest::Method;

/// How many removals are under way at once.
const AT_ONCE: usize = 8;

/// Arguments of `isopod rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isopod rm my-project\n  isopod rm --all --label team=red")]
pub(crate) struct Arguments {
    /// Ids or names of sandboxes
    #[arg(value_name = "SANDBOX", required_unless_present = "all", conflicts_with = "all")]
    sandboxes: Vec<String>,
    /// Remove every sandbox (with that label)
    #[arg(long)]
    all: bool,
    /// With --all: only sandboxes with this label (may be repeated: all must match)
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = arguments::label_filter, requires = "all")]
    label: Vec<String>,
    /// Print a JSON array of the removed ids
    #[arg(long)]
    json: bool,
}

/// Removes sandboxes and prints what it was given for each one that is gone.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = &Client::from_environment()?;
    let doomed = if arguments.all {
        client.list(&arguments.label, None).await?.into_iter().map(|sandbox| sandbox.id.to_string()).collect()
    } else {
        arguments.sandboxes
    };
    let mut ends = stream::iter(doomed)
        .map(|sandbox| async move {
            let result = remove(client, &sandbox).await;
            (sandbox, result)
        })
        .buffered(AT_ONCE);
    let mut removed = Vec::new();
    let mut first_failure: Option<Failure> = None;
    while let Some((sandbox, result)) = ends.next().await {
        match result {
            Ok(()) if arguments.json => removed.push(sandbox),
            Ok(()) => output::line(sandbox)?,
            Err(failure) => {
                if let Some(earlier) = first_failure.replace(failure) {
                    output::error_bytes(format!("{earlier}\n").as_bytes());
                }
            }
        }
    }
    if arguments.json {
        output::json(&removed)?;
    }
    first_failure.map_or(Ok(0), Err)
}

async fn remove(client: &Client, sandbox: &str) -> Outcome<()> {
    let id = client.resolve(sandbox).await?;
    client.send(client.request(Method::DELETE, client.sandbox_url(&id, &[]))).await?;
    Ok(())
}
