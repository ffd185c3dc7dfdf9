//! `isopod doctor`: what this host can and cannot do, found out without a server.

use crate::{
    failure::{Failure, Outcome},
    node, output,
};
use clap::Args;
use isopod_node_api::HostReport;

/// Arguments of `isopod doctor`.
#[derive(Debug, Args)]
#[command(after_help = "The exit code is 1 when no tier works here.\n\nExamples:\n  \
                        sudo isopod doctor\n  isopod doctor --json | jq '.checks[] | select(.verdict != \"ok\")'")]
pub(crate) struct Arguments {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Looks at the host and prints what it found, with remedies.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let report = tokio::task::spawn_blocking(node::doctor).await.map_err(Failure::new)?;
    if arguments.json {
        output::json(&report)?;
    } else {
        show(&report)?;
    }
    Ok(u8::from(!report.tiers.iter().any(|tier| tier.available)))
}

fn show(report: &HostReport) -> Outcome<()> {
    output::table(
        &["TIER", "WORKS", "REMARK"],
        report.tiers.iter().map(|tier| {
            let works = if tier.available { "yes" } else { "no" };
            vec![tier.tier.as_str().to_owned(), works.to_owned(), tier.reason.clone()]
        }),
    )?;
    output::line("")?;
    output::table(
        &["CHECK", "VERDICT", "FOUND"],
        report
            .checks
            .iter()
            .map(|check| vec![check.name.clone(), check.verdict.clone(), check.found.clone()]),
    )?;
    let remedies: String = report
        .checks
        .iter()
        .filter(|check| !check.remedy.is_empty())
        .map(|check| format!("  {}: {}\n", check.name, check.remedy))
        .collect();
    if !remedies.is_empty() {
        output::line(format_args!("\nWhat would help:\n{}", remedies.trim_end()))?;
    }
    let templates: Vec<&str> = report.templates.keys().map(String::as_str).collect();
    output::line(format_args!(
        "\nRoom for {} sandboxes; one may have {} MiB memory, {} CPUs, {} MiB disk, {} processes. Templates: {}.",
        report.max_sandboxes,
        report.most.memory_mib,
        report.most.cpus,
        report.most.disk_mib,
        report.most.pids,
        templates.join(", "),
    ))
}
