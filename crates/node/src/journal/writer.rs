//! The one writer of a journal.

use super::layout::{Layout, file_name, segments};
use isopod_model::{ExecId, exec::OutputStream};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{SpliceFlags, splice},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// How many segments a window may consist of. More than one come about only where writing failed and worked again; a
/// disk that flaps must not turn into thousands of files.
const SEGMENTS_PER_WINDOW: usize = 16;

/// What one [`JournalWriter::pump`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// So many bytes left the pipe (never 0); there may be more.
    Moved(u64),
    /// The pipe is empty and somebody can still write to it.
    WouldBlock,
    /// The pipe is empty and has no writer any more, or it cannot be read any more ([`JournalWriter::fault`]).
    Eof,
}

/// What is to be expected of a pipe.
enum Readiness {
    Bytes,
    Nothing,
    End,
}

/// The one writer of the journal of one stream of one exec. There must never be two: nothing here excludes it, the
/// lock on the data directory does.
#[derive(Debug)]
pub struct JournalWriter {
    dir: PathBuf,
    exec: ExecId,
    stream: OutputStream,
    layout: Layout,
    /// Starts of the segments on disk, ascending.
    held: Vec<u64>,
    current: Option<Current>,
    total: u64,
    lost: u64,
    fault: Option<io::Error>,
}

#[derive(Debug)]
struct Current {
    file: File,
    start: u64,
    /// Offset of the first byte after the window that it lies in.
    end: u64,
}

impl JournalWriter {
    /// The journal of an exec that never had one. Touches no file: the first comes with the first byte. `dir` is
    /// made then too, its parent must exist. At most `limit` bytes are held.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub fn create(dir: &Path, exec: &ExecId, stream: OutputStream, limit: u64) -> io::Result<Self> {
        null()?;
        Ok(Self {
            dir: dir.to_owned(),
            exec: exec.clone(),
            stream,
            layout: Layout::new(limit),
            held: Vec::new(),
            current: None,
            total: 0,
            lost: 0,
            fault: None,
        })
    }

    /// The journal of an exec as an earlier server left it, to go on with; an empty one when there is none. Lists
    /// `dir`. Bytes that were lost to a fault at the very end of the earlier writer's life are not known any more.
    ///
    /// # Errors
    /// The directory or its files cannot be read.
    pub fn open(dir: &Path, exec: &ExecId, stream: OutputStream, limit: u64) -> io::Result<Self> {
        let mut writer = Self::create(dir, exec, stream, limit)?;
        let found = segments(dir, exec, stream)?;
        let Some(last) = found.last() else { return Ok(writer) };
        writer.total = last.start + last.length;
        writer.held = found.iter().map(|segment| segment.start).collect();
        writer.drop_middle();
        if writer.held.contains(&last.start)
            && writer.layout.window(last.start) == writer.layout.window(writer.total)
        {
            let file = OpenOptions::new().write(true).open(writer.path(last.start))?;
            let end = writer.layout.window_end(last.start);
            writer.current = Some(Current { file, start: last.start, end });
        }
        Ok(writer)
    }

    /// Bytes that the stream has had so far: the offset of the next one. Counts what was dropped and lost too.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that were taken from the pipe and thrown away because the file could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Why bytes were lost, or why the pipe was given up: the latest reason.
    pub fn fault(&self) -> Option<&io::Error> {
        self.fault.as_ref()
    }

    /// Moves at most `budget` bytes from the pipe into the journal, without waiting for the pipe. The bytes are on
    /// the reader's side once [`total`](Self::total) counts them.
    ///
    /// A file that cannot be written (disk full, over quota, I/O error) does not stop the guest: what comes is
    /// counted and thrown away, and the file is tried again with the next call. Blocks only as long as a write to a
    /// file may.
    ///
    /// # Errors
    /// `pipe` is not the reading end of a pipe.
    pub fn pump(&mut self, pipe: BorrowedFd<'_>, budget: usize) -> io::Result<Pumped> {
        let mut moved = 0;
        while moved < budget {
            if self.current.as_ref().is_none_or(|current| self.total >= current.end) {
                match readiness(pipe)? {
                    Readiness::Bytes => {}
                    _ if moved > 0 => break,
                    Readiness::Nothing => return Ok(Pumped::WouldBlock),
                    Readiness::End => return Ok(Pumped::Eof),
                }
                if let Err(fault) = self.begin_segment() {
                    return self.drain(pipe, budget - moved, moved, fault);
                }
            }
            let Some(current) = &self.current else { break };
            let room = usize::try_from(current.end - self.total).unwrap_or(usize::MAX);
            let wanted = room.min(budget - moved);
            let mut at = self.total - current.start;
            match splice(pipe, None, &current.file, Some(&mut at), wanted, SpliceFlags::NONBLOCK) {
                Ok(0) if moved > 0 => break,
                Ok(0) => return self.ended(pipe, budget),
                Ok(bytes) => {
                    moved += bytes;
                    self.total += bytes as u64;
                    if bytes < wanted {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if moved > 0 => break,
                Err(Errno::AGAIN) => return Ok(Pumped::WouldBlock),
                Err(fault) => {
                    let fault = io::Error::from(fault);
                    return self.drain(pipe, budget - moved, moved, fault);
                }
            }
        }
        Ok(Pumped::Moved(moved as u64))
    }

    /// A splice gave nothing: usually the end, but a pipe can also hold a page that the kernel cannot hand over any
    /// more (a guest may put pages of a file there and truncate the file).
    fn ended(&mut self, pipe: BorrowedFd<'_>, budget: usize) -> io::Result<Pumped> {
        match readiness(pipe)? {
            Readiness::End => Ok(Pumped::Eof),
            Readiness::Nothing => Ok(Pumped::WouldBlock),
            Readiness::Bytes => {
                let fault = io::Error::other("the pipe holds bytes that cannot be read");
                self.drain(pipe, budget, 0, fault)
            }
        }
    }

    /// Takes bytes from the pipe and throws them away; `moved` bytes were moved by the same pump before.
    fn drain(
        &mut self,
        pipe: BorrowedFd<'_>,
        budget: usize,
        moved: usize,
        fault: io::Error,
    ) -> io::Result<Pumped> {
        if self.fault.as_ref().is_none_or(|before| before.raw_os_error() != fault.raw_os_error()) {
            tracing::warn!(exec = %self.exec, stream = ?self.stream, %fault, "output is lost");
        }
        self.fault = Some(fault);
        self.end_segment();
        let mut drained = 0;
        let mut after = Pumped::Eof;
        while drained < budget {
            match splice(pipe, None, null()?, None, budget - drained, SpliceFlags::NONBLOCK) {
                Ok(0) => break,
                Err(Errno::AGAIN) => {
                    after = Pumped::WouldBlock;
                    break;
                }
                Ok(bytes) => {
                    drained += bytes;
                    self.total += bytes as u64;
                    self.lost += bytes as u64;
                }
                Err(Errno::INTR) => {}
                Err(error @ (Errno::INVAL | Errno::BADF)) => return Err(error.into()),
                Err(_) => break,
            }
        }
        Ok(if moved + drained > 0 { Pumped::Moved((moved + drained) as u64) } else { after })
    }

    /// Makes the file for the byte at `total`, and room for it.
    fn begin_segment(&mut self) -> io::Result<()> {
        self.current = None;
        self.drop_middle();
        let window = self.layout.window(self.total);
        let before = self.held.iter().rev().take_while(|start| self.layout.window(**start) == window).count();
        if before >= SEGMENTS_PER_WINDOW {
            return Err(io::Error::other("writing failed too often"));
        }
        let path = self.path(self.total);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().mode(0o700).create(&self.dir)?;
                options.open(&path)
            }
            result => result,
        }?;
        self.held.push(self.total);
        self.current = Some(Current { file, start: self.total, end: self.layout.window_end(self.total) });
        Ok(())
    }

    /// Leaves the current file; the next byte begins another one. An empty file goes again.
    fn end_segment(&mut self) {
        if let Some(current) = self.current.take()
            && current.start == self.total
        {
            self.held.pop();
            self.unlink(current.start);
        }
    }

    /// Unlinks what is not held any more now that the next byte is the one at `total`.
    fn drop_middle(&mut self) {
        let (layout, total) = (self.layout, self.total);
        let (kept, dropped) = self.held.iter().partition(|start| layout.holds(**start, total));
        self.held = kept;
        let dropped: Vec<u64> = dropped;
        for start in dropped {
            self.unlink(start);
        }
    }

    fn unlink(&self, start: u64) {
        if let Err(error) = fs::remove_file(self.path(start))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(exec = %self.exec, stream = ?self.stream, start, %error, "a journal segment stays");
        }
    }

    fn path(&self, start: u64) -> PathBuf {
        self.dir.join(file_name(&self.exec, self.stream, start))
    }
}

fn readiness(pipe: BorrowedFd<'_>) -> io::Result<Readiness> {
    let mut fds = [PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut fds, Some(&at_once)) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let seen = fds[0].revents();
    Ok(if seen.contains(PollFlags::IN) {
        Readiness::Bytes
    } else if seen.is_empty() {
        Readiness::Nothing
    } else {
        Readiness::End
    })
}

/// `/dev/null`, opened once: when a fault comes from a lack of descriptors there is none left to drain with.
fn null() -> io::Result<&'static File> {
    static NULL: OnceLock<File> = OnceLock::new();
    if let Some(file) = NULL.get() {
        return Ok(file);
    }
    let file = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(NULL.get_or_init(|| file))
}
