//! Reading a journal while it is written, and long after.

use super::layout::{file_name, segments};
use bytes::{Bytes, BytesMut};
use isopod_model::{ExecId, exec::OutputStream};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// How often a read begins anew because what it had found was dropped meanwhile. Each time takes the writer a whole
/// window of output, so it never comes to this.
const ATTEMPTS: usize = 64;

/// Some bytes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the first byte of `data`; larger than asked for when bytes in between were dropped or lost.
    pub start: u64,
    /// The bytes; empty when the journal holds none between the offset asked for and the total.
    pub data: Bytes,
}

/// A reader of the journal of one stream. Holds no file open between reads, so what the writer drops is gone.
#[derive(Debug)]
pub struct JournalReader {
    dir: PathBuf,
    exec: ExecId,
    stream: OutputStream,
    /// Start of the segment read last; the next read most likely goes on there.
    hint: AtomicU64,
}

impl JournalReader {
    /// A reader; touches no file.
    pub fn new(dir: &Path, exec: &ExecId, stream: OutputStream) -> Self {
        Self { dir: dir.to_owned(), exec: exec.clone(), stream, hint: AtomicU64::new(0) }
    }

    /// Bytes that the stream has had as far as its files tell: for a stream without a writer whose total is not on
    /// record.
    ///
    /// # Errors
    /// The directory or its files cannot be read.
    pub fn total(&self) -> io::Result<u64> {
        let found = segments(&self.dir, &self.exec, self.stream)?;
        Ok(found.last().map_or(0, |last| last.start + last.length))
    }

    /// At most `max` bytes from `offset` on, or from the first byte after it that is held. `total` is what the
    /// writer has counted ([`JournalWriter::total`](super::JournalWriter::total)) or the record of the ended exec
    /// says; nothing beyond it is read. The piece is shorter than `max` only when the total or a gap comes first.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&self, offset: u64, max: usize, total: u64) -> io::Result<Piece> {
        if offset >= total || max == 0 {
            return Ok(Piece { start: offset.min(total), data: Bytes::new() });
        }
        let (start, mut data) = self.first(offset, max, total)?;
        while !data.is_empty() && data.len() < max && start + (data.len() as u64) < total {
            let next = start + data.len() as u64;
            let more = match self.piece_of(next, next, max - data.len(), total)? {
                Some(more) if !more.is_empty() => more,
                _ => break,
            };
            data.extend_from_slice(&more);
        }
        Ok(Piece { start, data: data.freeze() })
    }

    /// The first bytes at or after `offset`, from one segment.
    fn first(&self, offset: u64, max: usize, total: u64) -> io::Result<(u64, BytesMut)> {
        for segment in [self.hint.load(Ordering::Relaxed), offset, 0] {
            if let Some(data) = self.piece_of(segment, offset, max, total)?
                && !data.is_empty()
            {
                return Ok((offset, data));
            }
        }
        for _ in 0..ATTEMPTS {
            let found = segments(&self.dir, &self.exec, self.stream)?;
            let Some(segment) = found.iter().find(|segment| segment.start + segment.length > offset) else {
                return Ok((total, BytesMut::new()));
            };
            let start = segment.start.max(offset);
            if start >= total {
                return Ok((total, BytesMut::new()));
            }
            if let Some(data) = self.piece_of(segment.start, start, max, total)? {
                return Ok((start, data));
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "output is dropped faster than it can be read"))
    }

    /// What one segment holds from `offset` on; none when there is no such file.
    fn piece_of(&self, segment: u64, offset: u64, max: usize, total: u64) -> io::Result<Option<BytesMut>> {
        if segment > offset {
            return Ok(None);
        }
        let file = match File::open(self.dir.join(file_name(&self.exec, self.stream, segment))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let end = (segment + file.metadata()?.len()).min(total);
        let length = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(max);
        let mut data = BytesMut::zeroed(length);
        file.read_exact_at(&mut data, offset - segment)?;
        if length > 0 {
            self.hint.store(segment, Ordering::Relaxed);
        }
        Ok(Some(data))
    }
}
