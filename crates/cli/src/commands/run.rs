//! `isopod run`: one command in one fresh sandbox of an embedded node, then nothing is left.

use crate::{
    arguments::{InstanceTypeWord, ProcessArguments, TierWord},
    failure::{Failure, Outcome},
    node, output,
    process::{self, Streams},
    scratch::ScratchDir,
    settings::process_environment,
    signals::{self, Interrupts},
    system::{SystemClock, SystemEntropy},
    telemetry::Telemetry,
};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use isopod_model::{
    Clock, EndReason, Ending, Error, ExecId, SandboxId,
    exec::Exec,
    limits::InstanceType,
    sandbox::{Tier, TierRequest},
};
use isopod_node_api::{HostReport, Node, OutputEvent, SandboxSpec};
use std::{io::IsTerminal, sync::Arc};
use tokio::io::AsyncReadExt;

/// What is logged unless `ISOPOD_LOG` says otherwise: the command's own output must stay readable.
const LOG: &str = "error";
/// The template that names none get, and the one that stands in for it until it has been built.
const DEFAULT_TEMPLATES: [&str; 2] = ["base", "host"];

/// Arguments of `isopod run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Standard input is passed on when it is not a terminal. The exit code is the command's own.\n\n\
    Examples:\n  \
    sudo isopod run -- python3 -c 'print(6*7)'\n  \
    echo hello | sudo isopod run -- tr a-z A-Z\n  \
    sudo isopod run --instance-type standard --timeout 60 -- bash -c 'cat /proc/meminfo | head -1'"
)]
pub(crate) struct Arguments {
    /// The tier to run in
    #[arg(long, value_enum, default_value = "auto")]
    tier: TierWord,
    /// What the sandbox starts from
    #[arg(long)]
    template: Option<String>,
    /// A named set of limits
    #[arg(long, value_enum, default_value = "lite")]
    instance_type: InstanceTypeWord,
    /// How the command is started.
    #[command(flatten)]
    pub(crate) process: ProcessArguments,
    /// Pass standard input on even from a terminal
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Print the result as JSON, output included, instead of streaming it
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// Runs the command and removes everything, however it ends.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    node::require_root("run")?;
    let mut interrupts = Interrupts::listen()?;
    let log = process_environment("ISOPOD_LOG").unwrap_or_else(|| LOG.to_owned());
    let _telemetry = Telemetry::install(&log, None)?;
    let entropy = SystemEntropy::open()?;
    let directory = ScratchDir::create(&entropy)?;
    let node = node::open(node::Options {
        data_dir: directory.path().to_owned(),
        disk_mib: None,
        pool: 0,
        max_sandboxes: None,
        ephemeral: true,
    })
    .await?;
    let sandbox = SandboxId::new(&SystemClock, &entropy);
    let exec = ExecId::new(&SystemClock, &entropy);
    let job = Job { node: node.clone(), sandbox: sandbox.clone(), exec };
    let result = job.run(&arguments, &mut interrupts).await;

    let ending = Ending::new(EndReason::Killed, SystemClock.now(), "caller", "the run is over");
    let removed = node.delete(&sandbox, ending).await;
    node.shutdown(true).await;
    drop(node);
    drop(job);
    directory.remove();
    let code = result?;
    removed?;
    Ok(code)
}

/// One command in one sandbox.
struct Job {
    node: Arc<dyn Node>,
    sandbox: SandboxId,
    exec: ExecId,
}

impl Job {
    async fn run(&self, arguments: &Arguments, interrupts: &mut Interrupts) -> Outcome {
        let report = self.node.report().await;
        let instance_type = InstanceType::from(arguments.instance_type);
        let limits = instance_type.limits();
        limits.check(report.most)?;
        let spec = SandboxSpec {
            id: self.sandbox.clone(),
            tier: choose_tier(arguments.tier.into(), &report)?,
            template: choose_template(arguments.template.as_deref(), &report)?,
            limits,
            env: Default::default(),
        };
        let mut request = arguments.process.request(&arguments.command);
        request.stdin_open = arguments.interactive || !std::io::stdin().is_terminal();
        request.command()?;
        self.node.create(spec).await?;
        let stdin_open = request.stdin_open;
        self.node.exec(&self.sandbox, self.exec.clone(), request, None).await?;
        let input = stdin_open
            .then(|| tokio::spawn(pass_input(self.node.clone(), self.sandbox.clone(), self.exec.clone())));
        let result = tokio::select! {
            result = self.result(arguments.json) => result,
            signal = interrupts.next() => {
                // Removing the sandbox, which comes next, kills everything in it.
                Ok(signals::exit_code(signal))
            }
        };
        if let Some(input) = input {
            input.abort();
        }
        result
    }

    async fn result(&self, json: bool) -> Outcome {
        if json {
            let result = self.node.exec_result(&self.sandbox, &self.exec).await?;
            output::json(&result)?;
            return Ok(process::conclude(&result.exec));
        }
        let exec = self.stream().await?;
        Ok(process::conclude(&exec))
    }

    async fn stream(&self) -> Outcome<Exec> {
        let mut streams = Streams::of_this_process();
        let mut events = self.node.exec_follow(&self.sandbox, &self.exec, 0, 0).await?;
        while let Some(event) = events.next().await {
            match event? {
                OutputEvent::Output { stream, data, .. } => streams.write(stream, &data).await?,
                OutputEvent::Skipped { stream, bytes, .. } => process::note_skipped(stream, bytes),
                OutputEvent::Ended(exec) => return Ok(*exec),
            }
        }
        Err(Failure::new("the sandbox's output ended before the command did"))
    }
}

/// Passes our standard input on until it ends or the command does not take it any more.
async fn pass_input(node: Arc<dyn Node>, sandbox: SandboxId, exec: ExecId) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stdin.read(&mut buffer).await.unwrap_or(0);
        let data = Bytes::copy_from_slice(&buffer[..count]);
        let ended = count == 0;
        if node.exec_stdin(&sandbox, &exec, data, ended).await.is_err() || ended {
            return;
        }
    }
}

/// The tier asked for, or the lightest that works here.
fn choose_tier(asked: TierRequest, report: &HostReport) -> Outcome<Tier> {
    let wanted = match asked {
        TierRequest::Auto => None,
        TierRequest::Wasm => Some(Tier::Wasm),
        TierRequest::Container => Some(Tier::Container),
        TierRequest::Microvm => Some(Tier::Microvm),
    };
    let candidate = |tier: &Tier| report.tiers.iter().find(|report| report.tier == *tier);
    let advice = "`isopod doctor` explains what this host can do";
    match wanted {
        None => Tier::ALL
            .into_iter()
            .find(|tier| candidate(tier).is_some_and(|report| report.available))
            .ok_or_else(|| Failure::hinted("no tier works on this host", advice)),
        Some(tier) => match candidate(&tier) {
            Some(report) if report.available => Ok(tier),
            Some(report) => {
                let reason = report.reason.clone();
                Err(Failure::hinted(Error::TierUnavailable { tier, reason }, advice))
            }
            None => Err(Failure::hinted(format_args!("tier {} is not known here", tier.as_str()), advice)),
        },
    }
}

fn choose_template(asked: Option<&str>, report: &HostReport) -> Outcome<String> {
    let exists = |name: &&str| report.templates.contains_key(*name);
    let known = || report.templates.keys().cloned().collect::<Vec<_>>().join(", ");
    let candidates = match asked {
        None | Some("base") => &DEFAULT_TEMPLATES[..],
        Some(name) => &[name][..],
    };
    candidates.iter().copied().find(exists).map(str::to_owned).ok_or_else(|| {
        Failure::new(format_args!("no template {} here; there are: {}", candidates[0], known()))
    })
}
