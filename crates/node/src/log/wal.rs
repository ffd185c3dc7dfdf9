//! The files `records.wal` and `records.wal.flushing`.

use super::record::Line;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The file that lines are appended to; opened with the first line and closed after a flush.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    flushing: PathBuf,
    file: Option<File>,
    /// How long the file is with whole lines only.
    length: u64,
    /// Whether part of a line is behind them, which could not be cut off.
    torn: bool,
}

/// What an earlier server left.
pub(super) struct Recovered {
    pub(super) wal: Wal,
    /// The lines of `records.wal.flushing`, where there is one.
    pub(super) flushing: Option<Vec<Line<'static>>>,
    pub(super) lines: Vec<Line<'static>>,
}

impl Wal {
    /// Reads both files and cuts off what is torn.
    pub(super) fn recover(dir: &Path) -> io::Result<Recovered> {
        let path = dir.join("records.wal");
        let flushing = dir.join("records.wal.flushing");
        let rotated = read(&flushing)?;
        let current = read(&path)?;
        let mut wal = Self { path, flushing, file: None, length: 0, torn: false };
        let mut lines = Vec::new();
        if let Some((content, whole)) = current {
            wal.length = whole as u64;
            if whole < content.len() {
                OpenOptions::new().write(true).open(&wal.path)?.set_len(wal.length)?;
            }
            lines = parse(&wal.path, &content[..whole]);
        }
        let rotated = rotated.map(|(content, whole)| parse(&wal.flushing, &content[..whole]));
        Ok(Recovered { wal, flushing: rotated, lines })
    }

    /// Appends whole lines with one write, or nothing.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?),
        };
        if self.torn {
            // What is torn becomes a line of its own, which readers pass over.
            file.write_all(b"\n")?;
            self.length = file.metadata()?.len();
            self.torn = false;
        }
        let written = match file.write(lines) {
            Ok(written) if written == lines.len() => {
                self.length += lines.len() as u64;
                return Ok(());
            }
            Ok(_) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Err(error) => Err(error),
        };
        self.torn = file.set_len(self.length).is_err();
        written
    }

    /// Puts the file aside and begins a new one with the checkpoint.
    pub(super) fn rotate(&mut self, checkpoint: &[u8]) -> io::Result<()> {
        if self.flushing.try_exists()? {
            return Err(io::Error::other("records.wal.flushing is there already"));
        }
        fs::rename(&self.path, &self.flushing)?;
        let before = (self.file.take(), self.length, self.torn);
        (self.length, self.torn) = (0, false);
        self.append(checkpoint).inspect_err(|_| {
            if fs::rename(&self.flushing, &self.path).is_ok() {
                (self.file, self.length, self.torn) = before;
            }
        })
    }

    /// Makes the new file survive a power loss. Blocks.
    pub(super) fn sync(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_data()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file that was put aside.
    pub(super) fn discard_flushing(&self) -> io::Result<()> {
        match fs::remove_file(&self.flushing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Gives the descriptor back; the next line opens the file again.
    pub(super) fn close(&mut self) {
        self.file = None;
    }
}

/// The content and how much of it is whole lines; none when there is no such file.
fn read(path: &Path) -> io::Result<Option<(Vec<u8>, usize)>> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => content?,
    };
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    Ok(Some((content, whole)))
}

fn parse(path: &Path, content: &[u8]) -> Vec<Line<'static>> {
    let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .filter_map(|line| match serde_json::from_slice(line) {
            Ok(line) => Some(line),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a line of a log cannot be read");
                None
            }
        })
        .collect()
}
