//! `isopod stop`, `start`, `pause`, `resume`: steps in the life of sandboxes.

use crate::{client::Client, failure::Outcome, output};
use clap::Args;
use isopod_model::sandbox::Sandbox;
use reqwest::Method;

/// Arguments of these commands.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  isopod stop my-project\n  isopod start my-project\n  isopod pause my-project\n  \
                        isopod resume my-project"
)]
pub(crate) struct Arguments {
    /// Ids or names of sandboxes
    #[arg(value_name = "SANDBOX", required = true)]
    sandboxes: Vec<String>,
    /// Print the sandboxes as a JSON array
    #[arg(long)]
    json: bool,
}

/// Takes the step that `verb` names with each sandbox, in order; stops at the first that fails.
pub(crate) async fn run(verb: &str, arguments: Arguments) -> Outcome {
    let client = Client::from_environment()?;
    let mut done = Vec::new();
    for name in &arguments.sandboxes {
        let id = client.resolve(name).await?;
        let request = client.request(Method::POST, client.sandbox_url(&id, &[verb]));
        let sandbox: Sandbox = client.json(request).await?;
        if arguments.json {
            done.push(sandbox);
        } else {
            output::line(name)?;
        }
    }
    if arguments.json {
        output::json(&done)?;
    }
    Ok(0)
}
