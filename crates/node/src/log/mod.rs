//! The sandbox's own log: its execs with timing, and what happened to it, in order.
//!
//! Two layers in the sandbox's directory:
//!
//! - `records.wal`: one JSON line per record, appended with a single `write(2)`, which takes microseconds. This is
//!   all that an exec pays. Nothing is synced here: a process death loses nothing, a power loss may take the last
//!   seconds.
//! - `log.db`: SQLite. [`SandboxLog::flush`] moves lines there in batches. A sandbox that is never flushed never
//!   has one.
//!
//! Reads merge both; what has not been flushed is in memory. After a flush only the execs that have not ended are.
//!
//! # A flush, and what a crash after each step leaves
//! ```text
//!   append to records.wal                      lines are read again from records.wal
//!   1. rename it to records.wal.flushing       … from both files
//!   2. new records.wal with a checkpoint       … the same
//!   3. write the batch to log.db               … and written to log.db once more, which changes nothing
//!   4. sync records.wal                        … the same
//!   5. remove records.wal.flushing             the checkpoint says which execs are open and how far the log is
//! ```
//! The checkpoint is why opening a log does not open its database. Only when a power loss has taken the checkpoint
//! is the database asked instead.

mod database;
mod flush;
mod read;
mod record;
mod state;
mod wal;

#[cfg(test)]
mod tests;

pub use flush::Pruned;
pub use record::{ExecRecord, Idempotency};

use database::Database;
use isopod_model::{
    Clock, Error, ExecId, Result, SandboxId,
    exec::{Exec, ExecState},
};
use record::{Entry, Line};
use state::State;
use std::{
    borrow::Cow,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;
use wal::Wal;

/// The log asks for a flush when more records than this wait for it.
pub const FLUSH_RECORDS: usize = 256;
/// The log asks for a flush when more bytes than this wait for it.
pub const FLUSH_BYTES: u64 = 256 * 1024;

/// The log of one sandbox. Has no thread and no timer: its owner calls [`flush`](Self::flush) when
/// [`wants_flush`](Self::wants_flush) says so, some seconds after the last record, on stop and on shutdown.
#[derive(Debug)]
pub struct SandboxLog {
    sandbox: SandboxId,
    clock: Arc<dyn Clock>,
    database: Database,
    state: Mutex<State>,
    /// Held during a flush.
    flushing: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
}

impl SandboxLog {
    /// The log in `dir` (which must exist), with everything that an earlier server wrote; an empty one when there is
    /// none. A line that a crash tore is cut off.
    ///
    /// # Errors
    /// [`Error::Internal`]: files cannot be read, or `log.db` is of a newer version.
    pub async fn open(dir: &Path, sandbox: SandboxId, clock: Arc<dyn Clock>) -> Result<Self> {
        let fault = |error| Error::internal(format!("the log of {sandbox} cannot be recovered: {error}"));
        let database = Database::new(dir)?;
        let recovered = Wal::recover(dir).map_err(fault)?;
        let mut state = State::new(recovered.wal, database.exists());
        for line in recovered.flushing.iter().flatten() {
            state.replay(line);
        }
        state.flushing = state.pending.len();
        for line in &recovered.lines {
            state.replay(line);
        }
        let checkpointed = recovered.lines.iter().any(|line| matches!(line, Line::Checkpoint(_)));
        if state.has_database && (recovered.flushing.is_some() || !checkpointed) {
            state.adopt(database.summary().await?);
        }
        if !checkpointed && (state.has_database || recovered.flushing.is_some()) {
            state.write_checkpoint().map_err(fault)?;
        }
        if recovered.flushing.is_some() && state.flushing == 0 {
            state.wal.discard_flushing().map_err(fault)?;
        }
        let changed = watch::Sender::new(state.newest().cast_unsigned());
        let state = Mutex::new(state);
        Ok(Self { sandbox, clock, database, state, flushing: tokio::sync::Mutex::default(), changed })
    }

    /// Records that an exec starts; to be called before it is started. Returns the position in the log.
    ///
    /// # Errors
    /// [`Error::Internal`]: the line cannot be written (nothing is recorded then), or the id was used before.
    pub fn start(&self, record: ExecRecord) -> Result<i64> {
        let mut state = self.state();
        if state.execs.contains_key(&record.exec.id) || record.exec.state == ExecState::Ended {
            return Err(Error::internal(format!("{} was started before", record.exec.id)));
        }
        let (seq, at) = (state.next_seq, self.clock.now());
        let id = record.exec.id.clone();
        self.append(&mut state, &Line::Started { seq, at, record: Cow::Borrowed(&record) })?;
        state.execs_total += 1;
        state.execs.insert(id.clone(), record);
        self.appended(state, seq, at, Entry::Started(id))
    }

    /// Records how an exec ended. Returns the position in the log.
    ///
    /// # Errors
    /// [`Error::ExecEnded`]: it is not open, so it has ended before (or never started); nothing is written.
    /// [`Error::Internal`]: the line cannot be written and the exec stays open, so try again; or `exec` does not say
    /// that and when it ended.
    pub fn end(&self, exec: Exec) -> Result<i64> {
        if exec.state != ExecState::Ended || exec.ended_at.is_none() {
            return Err(Error::internal(format!("{} was to be ended without an end", exec.id)));
        }
        let mut state = self.state();
        if state.execs.get(&exec.id).is_none_or(|record| record.exec.state == ExecState::Ended) {
            return Err(Error::ExecEnded { id: exec.id.to_string() });
        }
        let (seq, at) = (state.next_seq, self.clock.now());
        let id = exec.id.clone();
        self.append(&mut state, &Line::Ended { seq, at, exec: Cow::Borrowed(&exec) })?;
        if let Some(record) = state.execs.get_mut(&id) {
            record.exec = exec;
        }
        self.appended(state, seq, at, Entry::Ended(id))
    }

    /// Records that something else happened. Returns the position in the log.
    ///
    /// # Errors
    /// [`Error::Internal`]: the line cannot be written; nothing is recorded then.
    pub fn event(&self, kind: &str, data: serde_json::Value) -> Result<i64> {
        let mut state = self.state();
        let (seq, at) = (state.next_seq, self.clock.now());
        let line = Line::Event { seq, at, kind: Cow::Borrowed(kind), data: Cow::Borrowed(&data) };
        self.append(&mut state, &line)?;
        self.appended(state, seq, at, Entry::Event { kind: kind.to_owned(), data })
    }

    /// Execs that have a start and no end: after a restart, what is to be reconciled.
    pub fn open_execs(&self) -> Vec<ExecRecord> {
        self.state().open().cloned().collect()
    }

    /// Whether this exec has a start and no end. Its journal must stay.
    pub fn is_open(&self, exec: &ExecId) -> bool {
        self.state().execs.get(exec).is_some_and(|record| record.exec.state != ExecState::Ended)
    }

    /// How many execs were ever started in this sandbox.
    pub fn execs_total(&self) -> u64 {
        self.state().execs_total
    }

    /// The position of the newest record, told whenever it changes; 0 before the first.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether so much waits that it should be flushed now.
    pub fn wants_flush(&self) -> bool {
        let state = self.state();
        state.pending.len() > FLUSH_RECORDS || state.waiting_bytes > FLUSH_BYTES
    }

    /// How many records wait for a flush.
    pub fn waiting(&self) -> usize {
        self.state().pending.len()
    }

    fn append(&self, state: &mut State, line: &Line<'_>) -> Result<()> {
        state.write(line).map_err(|error| {
            Error::internal(format!("the log of {} cannot be written: {error}", self.sandbox))
        })
    }

    /// Enters what was written into memory, and tells.
    fn appended(
        &self,
        mut state: MutexGuard<'_, State>,
        seq: i64,
        at: isopod_model::Timestamp,
        entry: Entry,
    ) -> Result<i64> {
        state.enter(seq, at, entry);
        drop(state);
        // Two calls may come here in either order; the position never goes back.
        self.changed.send_if_modified(|newest| {
            let grows = *newest < seq.cast_unsigned();
            *newest = (*newest).max(seq.cast_unsigned());
            grows
        });
        Ok(seq)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made after the write that can fail, so the state is whole even if a holder panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
