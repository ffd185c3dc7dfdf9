//! `isopod create`: a sandbox on the server.

use crate::{
    arguments::{self, InstanceTypeWord, PromotionWord, TierWord},
    client::Client,
    failure::Outcome,
    output,
};
use clap::Args;
use isopod_model::{
    limits::LimitsRequest,
    sandbox::{CreateSandbox, NetworkRequest, Sandbox},
};
use reqwest::Method;

/// Arguments of `isopod create`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isopod create\n  isopod create --name build --instance-type standard --label team=red\n  \
                        isopod create --name build --get     # the one of that name, made if there is none"
)]
pub(crate) struct Arguments {
    /// A name of your own, unique among your live sandboxes
    #[arg(long)]
    name: Option<String>,
    /// Take the sandbox of that name if there is one
    #[arg(long, requires = "name")]
    get: bool,
    /// What it starts from
    #[arg(long)]
    template: Option<String>,
    /// The tier to start in
    #[arg(long, value_enum)]
    tier: Option<TierWord>,
    /// A named set of limits
    #[arg(long, value_enum)]
    instance_type: Option<InstanceTypeWord>,
    /// Memory limit in MiB
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,
    /// Processor limit in CPUs, such as 0.5
    #[arg(long)]
    cpus: Option<f64>,
    /// Disk limit in MiB
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<u64>,
    /// Limit of processes and threads
    #[arg(long)]
    pids: Option<u64>,
    /// Set an environment variable of everything inside (may be repeated)
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = arguments::pair)]
    env: Vec<(String, String)>,
    /// Set a label (may be repeated)
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = arguments::pair)]
    labels: Vec<(String, String)>,
    /// Any JSON of your own
    #[arg(long, value_name = "JSON", value_parser = arguments::json)]
    metadata: Option<serde_json::Value>,
    /// End it after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Stop it after so many seconds in which nothing ran; 0 for never
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u64>,
    /// Never stop it for being idle
    #[arg(long)]
    keep_alive: bool,
    /// Keep it running across restarts of the host
    #[arg(long)]
    always_on: bool,
    /// Whether it may move into a heavier tier
    #[arg(long, value_enum)]
    promotion: Option<PromotionWord>,
    /// A command it may run; all when none is given (may be repeated)
    #[arg(long = "allow", value_name = "COMMAND")]
    allow: Vec<String>,
    /// Network preset; `deny` (loopback only) is the default
    #[arg(long, value_name = "PRESET")]
    network: Option<String>,
    /// Print the sandbox as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn request(&self) -> CreateSandbox {
        let limits = LimitsRequest {
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            disk_mib: self.disk_mib,
            pids: self.pids,
        };
        CreateSandbox {
            name: if self.get { None } else { self.name.clone() },
            template: self.template.clone(),
            tier: self.tier.map(Into::into).unwrap_or_default(),
            instance_type: self.instance_type.map(Into::into),
            limits: (limits != LimitsRequest::default()).then_some(limits),
            env: self.env.iter().cloned().collect(),
            labels: self.labels.iter().cloned().collect(),
            metadata: self.metadata.clone(),
            timeout_s: self.timeout,
            idle_timeout_s: self.idle_timeout,
            keep_alive: self.keep_alive,
            always_on: self.always_on,
            promotion: self.promotion.map(Into::into).unwrap_or_default(),
            allow: (!self.allow.is_empty()).then(|| self.allow.clone()),
            network: self
                .network
                .clone()
                .map(|preset| NetworkRequest { preset: Some(preset), ..NetworkRequest::default() }),
        }
    }
}

/// Creates a sandbox and prints its id.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = Client::from_environment()?;
    let (method, url) = match &arguments.name {
        Some(name) if arguments.get => (Method::PUT, client.url(["sandboxes", "by-name", name])),
        _ => (Method::POST, client.url(["sandboxes"])),
    };
    let sandbox: Sandbox = client.json(client.request(method, url).json(&arguments.request())).await?;
    if arguments.json {
        output::json(&sandbox)?;
    } else {
        output::line(&sandbox.id)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn request(options: &str) -> serde_json::Value {
        let words = ["isopod", "create"].into_iter().chain(options.split_whitespace());
        let Command::Create(arguments) = Cli::try_parse_from(words).expect("valid").command else {
            panic!("another command")
        };
        serde_json::to_value(arguments.request()).expect("serialises")
    }

    #[test]
    fn options_become_members() {
        let body = request(
            "--name n --template host --tier container --instance-type standard --cpus 0.5 --env A=b --label k=v \
             --metadata {\"a\":1} --timeout 60 --idle-timeout 0 --keep-alive --promotion never --network deny",
        );
        assert_eq!(body["name"], "n");
        assert_eq!(body["tier"], "container");
        assert_eq!(body["instance_type"], "standard");
        assert_eq!(body["limits"]["cpus"], 0.5);
        assert_eq!(body["env"]["A"], "b");
        assert_eq!(body["labels"]["k"], "v");
        assert_eq!(body["metadata"]["a"], 1);
        assert_eq!((body["timeout_s"].clone(), body["idle_timeout_s"].clone()), (60.into(), 0.into()));
        assert_eq!(body["keep_alive"], true);
        assert_eq!(body["promotion"], "never");
        assert_eq!(body["network"]["preset"], "deny");
    }

    #[test]
    fn nothing_asked_for_is_nothing_sent() {
        let body = request("");
        assert!(body["limits"].is_null() && body["allow"].is_null() && body["network"].is_null());
    }
}
