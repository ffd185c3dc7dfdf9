//! `isopod stats`: what sandboxes use.

use crate::{
    client::{CallError, Client},
    failure::Outcome,
    output,
};
use clap::Args;
use futures::{StreamExt, stream};
use isopod_node_api::SandboxStats;
use reqwest::Method;

/// How many sandboxes are asked for at once.
const AT_ONCE: usize = 8;

/// Arguments of `isopod stats`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isopod stats\n  isopod stats my-project --json")]
pub(crate) struct Arguments {
    /// Id or name of a sandbox; all that have not ended when absent
    sandbox: Option<String>,
    /// Print JSON: one object, or one member per sandbox
    #[arg(long)]
    json: bool,
}

/// Shows figures.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = &Client::from_environment()?;
    if let Some(sandbox) = &arguments.sandbox {
        let stats = stats(client, sandbox).await?;
        if arguments.json {
            output::json(&stats)?;
        } else {
            show(&[(sandbox.clone(), stats)])?;
        }
        return Ok(0);
    }
    let sandboxes = client.list(&[], None).await?;
    let mut answers = stream::iter(sandboxes)
        .map(|sandbox| async move {
            let id = sandbox.id.to_string();
            (stats(client, &id).await, id)
        })
        .buffered(AT_ONCE);
    let mut all = Vec::new();
    while let Some((answer, id)) = answers.next().await {
        match answer {
            Ok(stats) => all.push((id, stats)),
            // It ended between the two questions.
            Err(CallError::Problem(problem)) if matches!(problem.status, 404 | 410) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if arguments.json {
        let members: serde_json::Map<String, serde_json::Value> =
            all.into_iter().filter_map(|(id, stats)| Some((id, serde_json::to_value(stats).ok()?))).collect();
        output::json(&members)?;
    } else {
        show(&all)?;
    }
    Ok(0)
}

async fn stats(client: &Client, sandbox: &str) -> Result<SandboxStats, CallError> {
    client.json(client.request(Method::GET, client.sandbox_url(sandbox, &["stats"]))).await
}

fn show(all: &[(String, SandboxStats)]) -> Outcome<()> {
    output::table(
        &["SANDBOX", "MEMORY", "PEAK", "CPU", "PIDS", "DISK", "EXECS", "RUNNING", "OOM KILLS"],
        all.iter().map(|(sandbox, stats)| {
            vec![
                sandbox.clone(),
                output::size(stats.memory_bytes),
                output::size(stats.memory_peak_bytes),
                format!("{}.{:02} s", stats.cpu_us / 1_000_000, stats.cpu_us % 1_000_000 / 10_000),
                stats.pids.to_string(),
                output::size(stats.disk_bytes),
                stats.execs_total.to_string(),
                stats.execs_running.to_string(),
                stats.oom_kills.to_string(),
            ]
        }),
    )
}
