//! A command in a sandbox as if it ran here: its output on our streams, its end as ours.

use crate::{
    failure::{Failure, OWN_FAILURE, Outcome},
    output,
};
use isopod_model::{
    EndReason,
    exec::{Exec, OutputStream},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Where a command's output goes, byte for byte.
#[derive(Debug)]
pub(crate) struct Streams<O = tokio::io::Stdout, E = tokio::io::Stderr> {
    stdout: O,
    stderr: E,
}

impl Streams {
    /// The streams of this process.
    pub(crate) fn of_this_process() -> Self {
        Self { stdout: tokio::io::stdout(), stderr: tokio::io::stderr() }
    }
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Streams<O, E> {
    /// Writes bytes and hands them on at once.
    ///
    /// # Errors
    /// [`Failure::BrokenPipe`] when the reader has gone, otherwise what the system says.
    pub(crate) async fn write(&mut self, stream: OutputStream, data: &[u8]) -> Outcome<()> {
        let (result, name) = match stream {
            OutputStream::Stdout => (write(&mut self.stdout, data).await, "standard output"),
            OutputStream::Stderr => (write(&mut self.stderr, data).await, "standard error"),
        };
        result.map_err(|error| Failure::io(format_args!("writing {name}"), &error))
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

/// Says that some output is not there any more.
pub(crate) fn note_skipped(stream: OutputStream, bytes: u64) {
    let name = match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    };
    output::note(format_args!("{} of {name} were not kept: the journal is full", output::size(bytes)));
}

/// The exit code to pass on; says on standard error what the code alone does not.
pub(crate) fn conclude(exec: &Exec) -> u8 {
    match (&exec.detail, exec.reason) {
        (Some(detail), _) => output::note(output::printable(detail)),
        (None, None | Some(EndReason::Exited | EndReason::Signaled)) => {}
        (None, Some(reason)) => output::note(format_args!("the command ended: {}", reason.as_str())),
    }
    exec.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(OWN_FAILURE)
}
