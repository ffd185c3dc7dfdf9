//! `isopod openapi`: the document that describes the API.

use crate::{failure::Outcome, output};
use clap::Args;

/// Arguments of `isopod openapi`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  isopod openapi > openapi.json")]
pub(crate) struct Arguments {
    /// Accepted for symmetry: the document is JSON anyway
    #[arg(long, hide = true)]
    json: bool,
}

/// Prints the document that the server serves at `/openapi.json`.
pub(crate) fn run(_: &Arguments) -> Outcome {
    output::json(&isopod_api::openapi())?;
    Ok(0)
}
