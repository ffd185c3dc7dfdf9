//! Names of segments and the windows they lie in.

use isopod_model::{ExecId, exec::OutputStream};
use std::{io, path::Path};

/// How a stream is cut into windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    head: u64,
    segment: u64,
}

impl Layout {
    pub(super) fn new(limit: u64) -> Self {
        let segment = (limit / 8).max(1);
        Self { head: limit.saturating_sub(2 * segment), segment }
    }

    /// The window that the byte at `offset` belongs to.
    pub(super) fn window(self, offset: u64) -> u64 {
        if offset < self.head { 0 } else { 1 + (offset - self.head) / self.segment }
    }

    /// The offset of the first byte after the window that holds `offset`.
    pub(super) fn window_end(self, offset: u64) -> u64 {
        self.head + self.window(offset) * self.segment
    }

    /// Whether the byte at `offset` is still held once the next byte to be written is the one at `next`.
    pub(super) fn holds(self, offset: u64, next: u64) -> bool {
        let window = self.window(offset);
        window == 0 || window + 1 >= self.window(next)
    }
}

/// A segment file as its name describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentName {
    pub(super) exec: ExecId,
    pub(super) stream: OutputStream,
    pub(super) start: u64,
}

impl SegmentName {
    /// What `name` means; nothing when it is no segment of a journal.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        let exec = parts.next()?.parse().ok()?;
        let stream = match parts.next()? {
            "out" => OutputStream::Stdout,
            "err" => OutputStream::Stderr,
            _ => return None,
        };
        let start = parts.next()?.parse().ok()?;
        let parsed = Self { exec, stream, start };
        (file_name(&parsed.exec, stream, start) == name).then_some(parsed)
    }
}

/// The name of the segment that begins at `start`.
pub(super) fn file_name(exec: &ExecId, stream: OutputStream, start: u64) -> String {
    let word = match stream {
        OutputStream::Stdout => "out",
        OutputStream::Stderr => "err",
    };
    format!("{exec}.{word}.{start}")
}

/// A segment as it lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// The segments of one stream in order; none when the directory does not exist.
pub(super) fn segments(dir: &Path, exec: &ExecId, stream: OutputStream) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for_each(dir, |name, facts| {
        if name.exec == *exec && name.stream == stream {
            found.push(Segment { start: name.start, length: facts()?.len() });
        }
        Ok(())
    })?;
    found.sort_unstable();
    Ok(found)
}

/// Calls `each` with every segment in the directory; `facts` asks the file system only when called. A file that
/// vanishes meanwhile is passed over.
pub(super) fn for_each(
    dir: &Path,
    mut each: impl FnMut(SegmentName, &dyn Fn() -> io::Result<std::fs::Metadata>) -> io::Result<()>,
) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(SegmentName::parse) else { continue };
        match each(name, &|| entry.metadata()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}
