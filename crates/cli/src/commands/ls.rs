//! `isopod ls`: which sandboxes there are.

use crate::{arguments, client::Client, failure::Outcome, output, system::SystemClock};
use clap::Args;
use isopod_model::{Clock, Timestamp, sandbox::Sandbox};

/// Arguments of `isopod ls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isopod ls\n  isopod ls --label team=red --state running --json\n  \
                        isopod rm $(isopod ls -q --state stopped)")]
pub(crate) struct Arguments {
    /// Only sandboxes with this label (may be repeated: all must match)
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = arguments::label_filter)]
    label: Vec<String>,
    /// Only sandboxes in this state (`ended` shows those that are gone)
    #[arg(long, value_parser = ["creating", "running", "paused", "stopped", "deleting", "ended"])]
    state: Option<String>,
    /// Print ids only
    #[arg(long, short = 'q', conflicts_with = "json")]
    quiet: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Lists sandboxes, newest first.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = Client::from_environment()?;
    let sandboxes = client.list(&arguments.label, arguments.state.as_deref()).await?;
    if arguments.json {
        output::json(&sandboxes)?;
    } else if arguments.quiet {
        let ids: String = sandboxes.iter().map(|sandbox| format!("{}\n", sandbox.id)).collect();
        output::bytes(ids.as_bytes())?;
    } else {
        let now = SystemClock.now();
        output::table(
            &["ID", "NAME", "STATE", "TIER", "TEMPLATE", "TYPE", "AGE", "LABELS"],
            sandboxes.iter().map(|sandbox| row(sandbox, now)),
        )?;
    }
    Ok(0)
}

fn row(sandbox: &Sandbox, now: Timestamp) -> Vec<String> {
    let labels: Vec<String> = sandbox.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let instance_type = serde_json::to_value(sandbox.instance_type).ok();
    vec![
        sandbox.id.to_string(),
        sandbox.name.clone().unwrap_or_default(),
        sandbox.state.as_str().to_owned(),
        sandbox.tier.as_str().to_owned(),
        sandbox.template.clone(),
        instance_type.as_ref().and_then(|word| word.as_str()).unwrap_or_default().to_owned(),
        output::age(sandbox.created_at, now),
        labels.join(","),
    ]
}
