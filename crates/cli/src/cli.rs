//! The command line as a whole; each command's own arguments stand beside its code.

use crate::{
    commands::{cp, create, doctor, events, exec, life, logs, ls, openapi, rm, run, serve, stats},
    failure::Outcome,
};
use clap::{Parser, Subcommand};

/// Runs untrusted code in sandboxes, on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "isopod",
    version,
    propagate_version = true,
    after_help = "Environment of client commands:\n  \
        ISOPOD_URL       the server (default http://127.0.0.1:8080)\n  \
        ISOPOD_API_KEY   sent as `Authorization: Bearer`\n\n\
        Exit codes: that of the command for `run` and `exec`; 125 when Isopod itself fails; 2 for wrong usage.\n\n\
        Examples:\n  \
        isopod run -- python3 -c 'print(6*7)'\n  \
        isopod serve &\n  \
        isopod exec $(isopod create) -- uname -a"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(serve::Arguments),
    /// Run one command in a fresh sandbox and remove it; needs no server
    Run(run::Arguments),
    /// List sandboxes
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    /// Create a sandbox and print its id
    Create(create::Arguments),
    /// Run a command in a sandbox, or attach to one that runs
    Exec(exec::Arguments),
    /// Copy files into or out of a sandbox
    Cp(cp::Arguments),
    /// Remove sandboxes
    Rm(rm::Arguments),
    /// Show the output of a command that runs or ran
    Logs(logs::Arguments),
    /// Show what happened to a sandbox
    Events(events::Arguments),
    /// Show what sandboxes use
    Stats(stats::Arguments),
    /// Stop sandboxes, keeping their files
    Stop(life::Arguments),
    /// Start stopped sandboxes
    Start(life::Arguments),
    /// Freeze all processes of sandboxes
    Pause(life::Arguments),
    /// Thaw paused sandboxes
    Resume(life::Arguments),
    /// Explain what this host can and cannot do
    Doctor(doctor::Arguments),
    /// Print the OpenAPI document
    Openapi(openapi::Arguments),
}

impl Command {
    /// Does it; gives the exit code.
    ///
    /// # Errors
    /// As [`crate::failure::Failure`] says.
    pub(crate) async fn run(self) -> Outcome {
        match self {
            Self::Serve(arguments) => serve::run(arguments).await,
            Self::Run(arguments) => run::run(arguments).await,
            Self::Ls(arguments) => ls::run(arguments).await,
            Self::Create(arguments) => create::run(arguments).await,
            Self::Exec(arguments) => exec::run(arguments).await,
            Self::Cp(arguments) => cp::run(arguments).await,
            Self::Rm(arguments) => rm::run(arguments).await,
            Self::Logs(arguments) => logs::run(arguments).await,
            Self::Events(arguments) => events::run(arguments).await,
            Self::Stats(arguments) => stats::run(arguments).await,
            Self::Stop(arguments) => life::run("stop", arguments).await,
            Self::Start(arguments) => life::run("start", arguments).await,
            Self::Pause(arguments) => life::run("pause", arguments).await,
            Self::Resume(arguments) => life::run("resume", arguments).await,
            Self::Doctor(arguments) => doctor::run(arguments).await,
            Self::Openapi(arguments) => openapi::run(&arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("isopod "), "{} has no example", command.get_name());
        }
    }

    #[test]
    fn commands_keep_their_dashes() {
        let cli = Cli::try_parse_from(["isopod", "run", "--env", "A=b=c", "--", "ls", "--color", "-l"]);
        let Ok(Cli { command: Command::Run(arguments) }) = cli else { panic!("{cli:?}") };
        assert_eq!(arguments.command, ["ls", "--color", "-l"]);
        assert_eq!(arguments.process.env, [("A".to_owned(), "b=c".to_owned())]);
        for wrong in [
            &["isopod", "run"][..],
            &["isopod", "exec", "sb"],
            &["isopod", "exec", "sb", "--attach", "ex1", "--", "ls"],
            &["isopod", "rm"],
            &["isopod", "run", "--env", "=x", "--", "ls"],
            &["isopod", "create", "--tier", "docker"],
            &["isopod", "frobnicate"],
        ] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
