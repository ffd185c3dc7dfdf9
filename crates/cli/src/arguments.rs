//! Arguments that several commands share, and how their values are read.

use clap::{Args, ValueEnum};
use isopod_model::{
    exec::ExecRequest,
    limits::InstanceType,
    sandbox::{Promotion, TierRequest},
};
use std::time::Duration;

/// How a process in a sandbox is started.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ProcessArguments {
    /// Run as `user` (the default), `root`, or a number with an optional `:group`
    #[arg(long, short = 'u')]
    pub(crate) user: Option<String>,
    /// Working directory, absolute or below /workspace
    #[arg(long, short = 'w', value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set an environment variable (may be repeated)
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Kill the command after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

impl ProcessArguments {
    /// The request for a command.
    pub(crate) fn request(&self, command: &[String]) -> ExecRequest {
        ExecRequest {
            argv: Some(command.to_vec()),
            user: self.user.clone(),
            cwd: self.cwd.clone(),
            env: self.env.iter().cloned().collect(),
            timeout_ms: self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            ..ExecRequest::default()
        }
    }
}

/// The tiers, as words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words of TierRequest")]
pub(crate) enum TierWord {
    Auto,
    Wasm,
    Container,
    Microvm,
}

impl From<TierWord> for TierRequest {
    fn from(word: TierWord) -> Self {
        match word {
            TierWord::Auto => Self::Auto,
            TierWord::Wasm => Self::Wasm,
            TierWord::Container => Self::Container,
            TierWord::Microvm => Self::Microvm,
        }
    }
}

/// The instance types, as words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InstanceTypeWord {
    /// 0.25 CPU, 256 MiB memory, 1 GiB disk
    Lite,
    /// 1 CPU, 1 GiB memory, 5 GiB disk
    Standard,
    /// 2 CPU, 4 GiB memory, 20 GiB disk
    Premium,
}

impl From<InstanceTypeWord> for InstanceType {
    fn from(word: InstanceTypeWord) -> Self {
        match word {
            InstanceTypeWord::Lite => Self::Lite,
            InstanceTypeWord::Standard => Self::Standard,
            InstanceTypeWord::Premium => Self::Premium,
        }
    }
}

/// When a sandbox may move into a heavier tier, as words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words of Promotion")]
pub(crate) enum PromotionWord {
    Auto,
    Ask,
    Never,
}

impl From<PromotionWord> for Promotion {
    fn from(word: PromotionWord) -> Self {
        match word {
            PromotionWord::Auto => Self::Auto,
            PromotionWord::Ask => Self::Ask,
            PromotionWord::Never => Self::Never,
        }
    }
}

/// Reads `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// Reads `KEY=VALUE` (or `KEY:VALUE`) of a label filter and writes it as the API's query has it.
pub(crate) fn label_filter(text: &str) -> Result<String, String> {
    match text.split_once(['=', ':']) {
        Some((key, value)) if !key.is_empty() => Ok(format!("{key}:{value}")),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// Reads a positive number of seconds, fractions included.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration >= Duration::from_millis(1))
        .ok_or_else(|| "must be a positive number of seconds".to_owned())
}

/// Reads any JSON.
pub(crate) fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_keep_what_follows_the_first_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(pair("A="), Ok(("A".into(), String::new())));
        assert!(pair("A").is_err() && pair("=b").is_err());
        assert_eq!(label_filter("team=red"), Ok("team:red".into()));
        assert_eq!(label_filter("team:red"), Ok("team:red".into()));
    }

    #[test]
    fn seconds_are_positive() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for bad in ["0", "-1", "NaN", "inf", "soon", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
