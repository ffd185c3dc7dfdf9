//! What a log holds in memory.

use super::{
    database::Summary,
    record::{Checkpoint, Entry, ExecRecord, Line, Pending},
    wal::Wal,
};
use isopod_model::{ExecId, SandboxId, Timestamp, event::Event, exec::ExecState};
use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    io,
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) wal: Wal,
    pub(super) next_seq: i64,
    pub(super) execs_total: u64,
    /// Execs that have not ended, and those whose end waits for a flush.
    pub(super) execs: BTreeMap<ExecId, ExecRecord>,
    /// Records that are not known to be in the database, in order.
    pub(super) pending: VecDeque<Pending>,
    /// How many of those, from the front, are in `records.wal.flushing`.
    pub(super) flushing: usize,
    pub(super) waiting_bytes: u64,
    pub(super) has_database: bool,
    /// Length of the line written last.
    last_line: u64,
}

/// What one flush writes to the database.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) execs: Vec<ExecRecord>,
    pub(super) events: Vec<Event>,
}

impl State {
    pub(super) fn new(wal: Wal, has_database: bool) -> Self {
        Self {
            wal,
            next_seq: 1,
            execs_total: 0,
            execs: BTreeMap::new(),
            pending: VecDeque::new(),
            flushing: 0,
            waiting_bytes: 0,
            has_database,
            last_line: 0,
        }
    }

    /// The position of the newest record; 0 before the first.
    pub(super) fn newest(&self) -> i64 {
        self.next_seq - 1
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &ExecRecord> {
        self.execs.values().filter(|record| record.exec.state != ExecState::Ended)
    }

    /// Appends a line to the file. The record itself is entered afterwards.
    pub(super) fn write(&mut self, line: &Line<'_>) -> io::Result<()> {
        let bytes = encode(line)?;
        self.wal.append(&bytes)?;
        self.last_line = bytes.len() as u64;
        Ok(())
    }

    /// Enters the record whose line was just written.
    pub(super) fn enter(&mut self, seq: i64, at: Timestamp, entry: Entry) {
        self.next_seq = self.next_seq.max(seq + 1);
        self.waiting_bytes += self.last_line;
        self.pending.push_back(Pending { seq, at, entry, bytes: self.last_line });
    }

    /// Enters what an earlier server wrote.
    pub(super) fn replay(&mut self, line: &Line<'_>) {
        self.last_line = encode(line).map_or(0, |bytes| bytes.len() as u64);
        match line {
            Line::Checkpoint(checkpoint) => {
                self.next_seq = self.next_seq.max(checkpoint.next_seq);
                self.execs_total = self.execs_total.max(checkpoint.execs_total);
                for record in &checkpoint.open {
                    self.execs.entry(record.exec.id.clone()).or_insert_with(|| (**record).clone());
                }
            }
            Line::Started { seq, at, record } => {
                let id = record.exec.id.clone();
                self.execs_total += 1;
                self.execs.entry(id.clone()).or_insert_with(|| (**record).clone());
                self.enter(*seq, *at, Entry::Started(id));
            }
            Line::Ended { seq, at, exec } => {
                let id = exec.id.clone();
                self.execs
                    .entry(id.clone())
                    .and_modify(|record| record.exec = (**exec).clone())
                    .or_insert_with(|| ExecRecord {
                        exec: (**exec).clone(),
                        idempotency: None,
                        stdin_open: false,
                    });
                self.enter(*seq, *at, Entry::Ended(id));
            }
            Line::Event { seq, at, kind, data } => {
                let entry = Entry::Event { kind: kind.clone().into_owned(), data: (**data).clone() };
                self.enter(*seq, *at, entry);
            }
        }
    }

    /// Enters what the database knows and the lines may have lost.
    pub(super) fn adopt(&mut self, summary: Summary) {
        self.next_seq = self.next_seq.max(summary.newest + 1);
        self.execs_total = self.execs_total.max(summary.execs_total);
        for record in summary.open {
            self.execs.entry(record.exec.id.clone()).or_insert(record);
        }
    }

    fn checkpoint(&self) -> io::Result<Vec<u8>> {
        encode(&Line::Checkpoint(Checkpoint {
            next_seq: self.next_seq,
            execs_total: self.execs_total,
            open: self.open().map(Cow::Borrowed).collect(),
        }))
    }

    pub(super) fn write_checkpoint(&mut self) -> io::Result<()> {
        let checkpoint = self.checkpoint()?;
        self.wal.append(&checkpoint)
    }

    /// Makes a batch of all that waits; false when nothing does.
    pub(super) fn rotate(&mut self) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let checkpoint = self.checkpoint()?;
        self.wal.rotate(&checkpoint)?;
        self.flushing = self.pending.len();
        Ok(true)
    }

    /// What the rotated file holds. An exec is taken as it is known by now, which may be newer: writing it early does
    /// no harm, its end is written again with its own line.
    pub(super) fn batch(&self, sandbox: &SandboxId) -> Batch {
        let records = || self.pending.iter().take(self.flushing);
        let mut execs: BTreeMap<&ExecId, &ExecRecord> = BTreeMap::new();
        for record in records() {
            if let Entry::Started(id) | Entry::Ended(id) = &record.entry
                && let Some((id, exec)) = self.execs.get_key_value(id)
            {
                execs.insert(id, exec);
            }
        }
        Batch {
            execs: execs.into_values().cloned().collect(),
            events: records().map(|record| record.event(sandbox, &self.execs)).collect(),
        }
    }

    /// Forgets the batch, which is in the database now.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.wal.discard_flushing()?;
        for record in self.pending.drain(..self.flushing) {
            self.waiting_bytes -= record.bytes;
            if let Entry::Ended(id) = record.entry {
                self.execs.remove(&id);
            }
        }
        self.flushing = 0;
        self.pending.shrink_to_fit();
        self.has_database = true;
        self.wal.close();
        Ok(())
    }
}

fn encode(line: &Line<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}
