//! The one executable of Isopod: server, embedded runner, and client.

mod arguments;
mod cli;
mod client;
mod commands;
mod failure;
mod guest_programs;
mod node;
mod output;
mod process;
mod scratch;
mod server;
mod settings;
mod signals;
mod system;
mod telemetry;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format_args!("the runtime cannot start: {error}"));
            return ExitCode::from(failure::OWN_FAILURE);
        }
    };
    let code = match runtime.block_on(cli.command.run()) {
        Ok(code) => code,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                output::error_bytes(format!("{text}\n").as_bytes());
            }
            failure.exit_code()
        }
    };
    // A thread may still wait for standard input, which nothing can interrupt.
    runtime.shutdown_background();
    ExitCode::from(code)
}
