//! Reading execs' output: once, or as it comes. Everybody reads the journal.

use crate::{journal::JournalReader, sandbox::Sandbox, tiers::container::exec::Progress};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use isopod_model::{
    Error, ExecId, Result,
    exec::{Exec, ExecResult, ExecState, OutputStream, RESULT_LIMIT},
};
use isopod_node_api::{OutputEvent, OutputSlice};
use std::{path::Path, sync::Arc};
use tokio::sync::watch;

/// The longest piece of one stream that is read at once while following.
const PIECE: usize = 64 * 1024;

/// Both journals of one exec.
struct Journals {
    stdout: JournalReader,
    stderr: JournalReader,
}

impl Journals {
    fn open(directory: &Path, id: &ExecId) -> Self {
        let reader = |stream| JournalReader::new(directory, id, stream);
        Self { stdout: reader(OutputStream::Stdout), stderr: reader(OutputStream::Stderr) }
    }

    fn of(&self, stream: OutputStream) -> &JournalReader {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }

    /// Bytes that a stream without a writer has had as far as its files tell.
    fn total(&self, stream: OutputStream) -> Result<u64> {
        self.of(stream).total().map_err(Error::internal)
    }

    /// Bytes from `offset` on, and where they really begin.
    fn read(&self, stream: OutputStream, offset: u64, most: usize, total: u64) -> Result<(u64, Bytes)> {
        if offset >= total {
            return Ok((total, Bytes::new()));
        }
        let piece = self.of(stream).read(offset, most, total).map_err(Error::internal)?;
        Ok((piece.start, piece.data))
    }
}

/// What there is now, for an exec that ended or runs, and what comes. The record counts what children have written
/// since its end too. Refuses offsets that lie behind that.
async fn present(
    sandbox: &Sandbox,
    id: &ExecId,
    offsets: [u64; 2],
) -> Result<(Exec, Journals, watch::Receiver<Progress>)> {
    // Looked for first: an exec that ends meanwhile still tells whoever holds it.
    let live = sandbox.live_exec(id);
    let mut record = sandbox.exec_record(id).await?;
    let live = live.or_else(|| sandbox.live_exec(id));
    let journals = Journals::open(&sandbox.place.journals, id);
    let (stdout, stderr) = match &live {
        Some((_, exec)) => {
            let progress = exec.progress();
            let progress = progress.borrow();
            (progress.stdout, progress.stderr)
        }
        None => (journals.total(OutputStream::Stdout)?, journals.total(OutputStream::Stderr)?),
    };
    record.stdout_bytes = record.stdout_bytes.max(stdout);
    record.stderr_bytes = record.stderr_bytes.max(stderr);
    for (offset, size_bytes) in offsets.into_iter().zip([record.stdout_bytes, record.stderr_bytes]) {
        if offset > size_bytes {
            return Err(Error::RangeNotSatisfiable { size_bytes });
        }
    }
    let progress = live.map_or_else(
        || {
            let ended = (record.state == ExecState::Ended).then(|| Arc::new(record.clone()));
            watch::channel(Progress { stdout: record.stdout_bytes, stderr: record.stderr_bytes, ended }).1
        },
        |(_, exec)| exec.progress(),
    );
    Ok((record, journals, progress))
}

/// Waits for the end and gives the beginning of both streams.
pub(crate) async fn result(sandbox: &Sandbox, id: &ExecId) -> Result<ExecResult> {
    let exec = sandbox.exec_ended(id).await?;
    let (stdout_total, stderr_total) = (exec.stdout_bytes, exec.stderr_bytes);
    let (mut stdout, mut stderr) = (String::new(), String::new());
    if stdout_total + stderr_total > 0 {
        let journals = Journals::open(&sandbox.place.journals, id);
        let text = |stream, total| -> Result<String> {
            let (start, data) = journals.read(stream, 0, RESULT_LIMIT, total)?;
            Ok(if start == 0 { String::from_utf8_lossy(&data).into_owned() } else { String::new() })
        };
        stdout = text(OutputStream::Stdout, stdout_total)?;
        stderr = text(OutputStream::Stderr, stderr_total)?;
    }
    Ok(ExecResult {
        exec,
        stdout,
        stderr,
        stdout_truncated: stdout_total > RESULT_LIMIT as u64,
        stderr_truncated: stderr_total > RESULT_LIMIT as u64,
    })
}

/// What the journals hold from two offsets on.
pub(crate) async fn slice(sandbox: &Sandbox, id: &ExecId, stdout: u64, stderr: u64) -> Result<OutputSlice> {
    let (exec, journals, _) = present(sandbox, id, [stdout, stderr]).await?;
    let (stdout_start, stdout) =
        journals.read(OutputStream::Stdout, stdout, RESULT_LIMIT, exec.stdout_bytes)?;
    let (stderr_start, stderr) =
        journals.read(OutputStream::Stderr, stderr, RESULT_LIMIT, exec.stderr_bytes)?;
    Ok(OutputSlice { exec, stdout, stdout_start, stderr, stderr_start })
}

/// Someone who reads an exec's output as it comes.
struct Follower {
    journals: Journals,
    progress: watch::Receiver<Progress>,
    offsets: [u64; 2],
    turn: usize,
    done: bool,
}

const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

impl Follower {
    async fn next(&mut self) -> Option<Result<OutputEvent>> {
        if self.done {
            return None;
        }
        loop {
            let progress = self.progress.borrow_and_update().clone();
            let totals = [progress.stdout, progress.stderr];
            for _ in 0..2 {
                self.turn ^= 1;
                let (stream, offset, total) =
                    (STREAMS[self.turn], self.offsets[self.turn], totals[self.turn]);
                if offset < total {
                    return Some(self.read(stream, offset, total));
                }
            }
            if let Some(record) = progress.ended {
                self.done = true;
                return Some(Ok(OutputEvent::Ended(Box::new((*record).clone()))));
            }
            if self.progress.changed().await.is_err() {
                self.done = true;
                return Some(Err(Error::Unavailable {
                    reason: "the server is going down; attach again".into(),
                }));
            }
        }
    }

    fn read(&mut self, stream: OutputStream, offset: u64, total: u64) -> Result<OutputEvent> {
        let (start, data) = self.journals.read(stream, offset, PIECE, total)?;
        if start > offset {
            self.offsets[self.turn] = start;
            return Ok(OutputEvent::Skipped { stream, offset, bytes: start - offset });
        }
        self.offsets[self.turn] = start + data.len() as u64;
        if data.is_empty() {
            return Err(Error::internal("the journal is shorter than was counted"));
        }
        Ok(OutputEvent::Output { stream, offset, data })
    }
}

/// Output from two offsets on, as it comes, and then the end.
pub(crate) async fn follow(
    sandbox: &Sandbox,
    id: &ExecId,
    stdout: u64,
    stderr: u64,
) -> Result<BoxStream<'static, Result<OutputEvent>>> {
    let (_, journals, progress) = present(sandbox, id, [stdout, stderr]).await?;
    let follower = Follower { journals, progress, offsets: [stdout, stderr], turn: 1, done: false };
    let events = futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        follower.done |= event.is_err();
        Some((event, follower))
    });
    Ok(events.boxed())
}

/// Waits until either stream holds `text`.
pub(crate) async fn wait_for_text(sandbox: &Sandbox, id: &ExecId, text: &str) -> Result<Exec> {
    if text.is_empty() || text.len() > 4096 {
        return Err(Error::invalid("text", "must be 1 to 4096 bytes long"));
    }
    let mut events = follow(sandbox, id, 0, 0).await?;
    let mut tails = [Vec::new(), Vec::new()];
    while let Some(event) = events.next().await {
        match event? {
            OutputEvent::Output { stream, data, .. } => {
                let tail = &mut tails[usize::from(stream == OutputStream::Stderr)];
                tail.extend_from_slice(&data);
                if tail.windows(text.len()).any(|window| window == text.as_bytes()) {
                    return sandbox.exec_record(id).await;
                }
                let keep = tail.len().min(text.len() - 1);
                tail.drain(..tail.len() - keep);
            }
            OutputEvent::Skipped { .. } => tails = [Vec::new(), Vec::new()],
            OutputEvent::Ended(_) => return Err(Error::ExecEnded { id: id.to_string() }),
        }
    }
    Err(Error::ExecEnded { id: id.to_string() })
}
