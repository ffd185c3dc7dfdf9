//! `isopod exec`: a command in a sandbox of the server, as if it ran here.

use crate::{
    arguments::ProcessArguments,
    client::{
        CallError, Client,
        converse::{Input, converse},
        follow::{self, Follower},
    },
    failure::{Failure, Outcome},
    output,
    process::{self, Streams},
    signals::{self, Interrupts},
    system::SystemEntropy,
};
use clap::Args;
use isopod_model::{
    Entropy,
    exec::{Exec, ExecRequest, ExecResult},
};
use reqwest::Method;
use serde::de::DeserializeOwned;

/// How often the start of a command is tried again when the connection breaks on the way.
const TRIES: u32 = 5;

/// Arguments of `isopod exec`.
#[derive(Debug, Args)]
#[command(
    after_help = "The exit code is the command's own. When the connection breaks, output continues where it \
    stopped.\nCtrl-C interrupts the command; a second Ctrl-C leaves it running and comes back.\n\n\
    Examples:\n  \
    isopod exec my-project -- python3 -c 'print(6*7)'\n  \
    tar c src | isopod exec -i my-project -- tar x\n  \
    isopod exec -d my-project -- make           # prints the id of the exec\n  \
    isopod exec my-project --attach ex0abc…     # shows its output from the beginning"
)]
pub(crate) struct Arguments {
    /// Id or name of the sandbox
    sandbox: String,
    /// Pass standard input on
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Print the exec's id and let the command run
    #[arg(long, short = 'd', conflicts_with_all = ["interactive", "attach"])]
    detach: bool,
    /// Attach to a command that runs or ran
    #[arg(long, value_name = "EXEC_ID", conflicts_with_all = ["command", "user", "cwd", "env", "timeout", "idempotency_key"])]
    attach: Option<String>,
    /// Start at most one command with this key, also across tries
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// How the command is started.
    #[command(flatten)]
    process: ProcessArguments,
    /// Print the record as JSON, output included, instead of streaming it
    #[arg(long, conflicts_with_all = ["interactive", "attach"])]
    json: bool,
    /// The command and its arguments
    #[arg(last = true, required_unless_present = "attach", value_name = "CMD")]
    command: Vec<String>,
}

/// Runs a command or attaches to one, and passes its exit code on.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let client = Client::from_environment()?;
    let sandbox = arguments.sandbox.clone();
    if let Some(exec) = arguments.attach {
        return stream(Follower::existing(&client, sandbox, exec), arguments.interactive, false).await;
    }
    let key = match arguments.idempotency_key {
        Some(key) => key,
        None => fresh_key(&SystemEntropy::open()?),
    };
    let mut request = arguments.process.request(&arguments.command);
    request.command()?;
    if arguments.detach {
        request.background = true;
        let exec: Exec = post(&client, &sandbox, &request, &key).await?;
        if arguments.json {
            output::json(&exec)?;
        } else {
            output::line(&exec.id)?;
        }
        return Ok(0);
    }
    if arguments.json {
        let result: ExecResult = post(&client, &sandbox, &request, &key).await?;
        output::json(&result)?;
        return Ok(process::conclude(&result.exec));
    }
    stream(Follower::starting(&client, sandbox, request, key), arguments.interactive, true).await
}

/// A key that nobody else has, so that starting may be tried again.
fn fresh_key(entropy: &dyn Entropy) -> String {
    format!("cli-{:016x}{:016x}", entropy.bits(), entropy.bits())
}

async fn post<T: DeserializeOwned>(
    client: &Client,
    sandbox: &str,
    request: &ExecRequest,
    key: &str,
) -> Result<T, CallError> {
    let mut tries = 1;
    loop {
        let call = client
            .request(Method::POST, client.sandbox_url(sandbox, &["exec"]))
            .header("Idempotency-Key", key)
            .json(request);
        match client.json(call).await {
            Err(CallError::Broken(_)) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Shows output until the end. `owned`: the command is ours to interrupt.
async fn stream(mut follower: Follower<'_>, interactive: bool, owned: bool) -> Outcome {
    let mut interrupts = Interrupts::listen()?;
    let mut streams = Streams::of_this_process();
    let (client, sandbox, known) = (follower.client, follower.sandbox.clone(), follower.exec.clone());
    let following = async {
        if interactive {
            converse(&mut follower, Input::of_this_process(), &mut streams).await
        } else {
            follower.run(&mut streams).await
        }
    };
    tokio::pin!(following);
    let mut interrupted = false;
    loop {
        let number = tokio::select! {
            end = following.as_mut() => {
                if let (Err(Failure::BrokenPipe), true, Some(exec)) = (&end, owned, known.get()) {
                    // As it would be if the command wrote into the pipe itself.
                    let _ = follow::signal(client, &sandbox, exec, libc::SIGPIPE).await;
                }
                return end.map(|exec| process::conclude(&exec));
            }
            number = interrupts.next() => number,
        };
        let exec = known.get();
        // A terminal that closes takes only us with it.
        if interrupted || !owned || number == libc::SIGHUP || exec.is_none() {
            follow::note_left(&sandbox, exec);
            return Ok(signals::exit_code(number));
        }
        interrupted = true;
        if let Some(exec) = exec
            && let Err(error) = follow::signal(client, &sandbox, exec, number).await
            && !error.is_not_found()
        {
            output::note(Failure::from(error));
        }
    }
}
