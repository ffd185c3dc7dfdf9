//! `isopod cp`: files into and out of sandboxes, streamed.

mod download;
mod path;
mod progress;
mod upload;

use crate::{
    client::{CallError, Client},
    failure::{Failure, Outcome},
    output,
};
use clap::Args;
use isopod_model::file::FileStat;
use path::{End, Remote};
use progress::Progress;
use reqwest::{Method, RequestBuilder, Url};
use std::sync::Arc;

/// How many files of a directory are under way at once.
const AT_ONCE: usize = 4;

/// Arguments of `isopod cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "Directories are copied with all below them; links inside of them are left out. Into a \
    directory that exists, the source is\nput under its own name; SRC/. means what is in it. Relative paths in a \
    sandbox are below /workspace.\n\n\
    Examples:\n  \
    isopod cp script.py my-project:\n  \
    isopod cp src my-project:/home/user/src\n  \
    isopod cp my-project:/workspace/out.tar.gz .\n  \
    isopod cp my-project:result.json - | jq .\n  \
    tar c . | isopod cp - my-project:/tmp/all.tar"
)]
pub(crate) struct Arguments {
    /// A path here, SANDBOX:PATH, or `-` for standard input
    #[arg(value_name = "SRC")]
    source: String,
    /// A path here, SANDBOX:PATH, or `-` for standard output
    #[arg(value_name = "DST")]
    target: String,
    /// Read or write as `user` (the default), `root`, or a number
    #[arg(long, short = 'u')]
    user: Option<String>,
    /// Print what was copied as JSON (to standard error when standard output takes the file)
    #[arg(long)]
    json: bool,
}

/// Copies.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let copy = Copy {
        client: Client::from_environment()?,
        user: arguments.user,
        progress: Arc::new(Progress::new()),
        // What is in a directory, instead of the directory itself.
        contents_only: arguments.source.ends_with("/.") || arguments.source == ".",
    };
    let source = path::parse(&arguments.source)?;
    let target = path::parse(&arguments.target)?;
    let to_stdout = target == End::Stream;
    match (source, target) {
        (End::Stream, End::Remote(target)) => copy.upload_stdin(&target).await?,
        (End::Local(source), End::Remote(target)) => copy.upload(&source, &target).await?,
        (End::Remote(source), End::Stream) => copy.download_to_stdout(&source).await?,
        (End::Remote(source), End::Local(target)) => copy.download(&source, &target).await?,
        (End::Remote(_), End::Remote(_)) => {
            return Err(Failure::Usage("one side must be here: copy in two steps".to_owned()));
        }
        _ => return Err(Failure::Usage("one side must be in a sandbox: SANDBOX:PATH".to_owned())),
    }
    let summary = copy.progress.finish();
    if summary.skipped > 0 {
        output::note(format_args!("{} links and special files were left out", summary.skipped));
    }
    if arguments.json {
        let text = serde_json::to_string(&summary).map_err(Failure::new)?;
        if to_stdout {
            output::error_bytes(format!("{text}\n").as_bytes());
        } else {
            output::line(text)?;
        }
    }
    Ok(0)
}

/// One copy.
struct Copy {
    client: Client,
    user: Option<String>,
    progress: Arc<Progress>,
    contents_only: bool,
}

impl Copy {
    /// The address of a path in a sandbox for one of the file calls.
    fn url(&self, sandbox: &str, call: &str, path: &str) -> Url {
        let segments: Vec<&str> =
            std::iter::once(call).chain(path.split('/').filter(|part| !part.is_empty())).collect();
        let mut url = self.client.sandbox_url(sandbox, &segments);
        if let Some(user) = &self.user {
            url.query_pairs_mut().append_pair("user", user);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// What is at a path in a sandbox, links followed; nothing when nothing is.
    async fn stat(&self, remote: &Remote) -> Outcome<Option<FileStat>> {
        if remote.path == "/" {
            // It is there in every sandbox, and it has no name to ask for.
            return Ok(None);
        }
        let mut url = self.url(&remote.sandbox, "stat", &remote.path);
        url.query_pairs_mut().append_pair("follow", "true");
        match self.client.json(self.request(Method::GET, url)).await {
            Ok(stat) => Ok(Some(stat)),
            Err(CallError::Problem(problem)) if problem.code == "file_not_found" => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
