//! Files in a map from absolute path to content. Directories exist as far as something is in them, or when made.

use super::{FakeNode, FakeSandbox};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use isopod_model::{
    Error, Result, SandboxId, Timestamp,
    file::{FileKind, FileStat, MakeDirectory, MoveFile},
};
use isopod_node_api::{ByteRange, FileRead, FileWrite, Preconditions};

#[derive(Clone)]
pub(super) struct FakeFile {
    pub(super) content: Bytes,
    directory: bool,
    mode: u32,
    modified_at: Timestamp,
    version: u64,
}

/// The path as the map knows it.
fn normal(path: &str) -> Result<String> {
    let refused = |reason: &str| Error::PathRefused { path: path.to_owned(), reason: reason.to_owned() };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(refused("must be absolute, without NUL"));
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let normal = format!("/{}", parts.join("/"));
    if ["/proc", "/dev", "/run"].iter().any(|root| normal == *root || normal.starts_with(&format!("{root}/")))
    {
        return Err(refused("is not part of the sandbox's own file system"));
    }
    Ok(normal)
}

fn below(directory: &str) -> String {
    if directory == "/" { directory.to_owned() } else { format!("{directory}/") }
}

impl FakeFile {
    fn stat(&self, path: &str) -> FileStat {
        FileStat {
            name: path.rsplit('/').next().unwrap_or_default().to_owned(),
            path: path.to_owned(),
            kind: if self.directory { FileKind::Directory } else { FileKind::File },
            size_bytes: self.content.len() as u64,
            mode: format!("{:04o}", self.mode),
            uid: 1000,
            gid: 1000,
            modified_at: self.modified_at,
            target: None,
            etag: (!self.directory).then(|| self.etag()),
        }
    }

    fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }
}

fn check(path: &str, present: Option<&FakeFile>, conditions: &Preconditions) -> Result<()> {
    let etag = present.map(FakeFile::etag);
    let named = |tags: &Vec<String>| {
        tags.iter().any(|tag| (tag == "*" && etag.is_some()) || Some(tag) == etag.as_ref())
    };
    let failed = conditions.if_match.as_ref().is_some_and(|tags| !named(tags))
        || conditions.if_none_match.as_ref().is_some_and(named);
    if failed {
        let etag = etag.unwrap_or_else(|| "none".to_owned());
        return Err(Error::PreconditionFailed { path: path.to_owned(), etag });
    }
    Ok(())
}

impl FakeSandbox {
    /// What is at a path; directories above files are there although the map does not hold them.
    fn file(&self, path: &str) -> Result<FakeFile> {
        if let Some(file) = self.files.get(path) {
            return Ok(file.clone());
        }
        let implied = path == "/workspace" || path == "/" || self.has_below(path);
        if !implied {
            return Err(Error::FileNotFound { path: path.to_owned() });
        }
        let modified_at = self.last_active_at;
        Ok(FakeFile { content: Bytes::new(), directory: true, mode: 0o755, modified_at, version: 0 })
    }

    fn has_below(&self, directory: &str) -> bool {
        let below = below(directory);
        self.files.keys().any(|path| path.starts_with(&below))
    }

    fn put(&mut self, path: &str, content: Bytes, directory: bool, mode: u32, now: Timestamp) -> FileStat {
        self.writes += 1;
        let file = FakeFile { content, directory, mode, modified_at: now, version: self.writes };
        let stat = file.stat(path);
        self.files.insert(path.to_owned(), file);
        stat
    }
}

impl FakeNode {
    pub(super) fn stat(&self, id: &SandboxId, path: &str) -> Result<FileStat> {
        let path = normal(path)?;
        self.with_shell(id, |sandbox| Ok(sandbox.file(&path)?.stat(&path)))
    }

    pub(super) fn read(&self, id: &SandboxId, path: &str, range: Option<ByteRange>) -> Result<FileRead> {
        let path = normal(path)?;
        self.with_shell(id, |sandbox| {
            let file = sandbox.file(&path)?;
            if file.directory {
                return Err(Error::WrongFileKind { path, reason: "is a directory, not a file".to_owned() });
            }
            let size = file.content.len() as u64;
            let (start, end) = match range {
                None => (0, size),
                Some(ByteRange::From(first, last)) => {
                    (first, last.map_or(size, |last| size.min(last.saturating_add(1))))
                }
                Some(ByteRange::Last(count)) => (size.saturating_sub(count), size),
            };
            if start > end || (range.is_some() && start >= size) {
                return Err(Error::RangeNotSatisfiable { size_bytes: size });
            }
            let place = |offset: u64| usize::try_from(offset).expect("it lies within a buffer");
            let body = file.content.slice(place(start)..place(end));
            let pieces: Vec<_> =
                body.chunks(256 * 1024).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            Ok(FileRead {
                stat: file.stat(&path),
                start,
                length: end - start,
                body: stream::iter(pieces).boxed(),
            })
        })
    }

    pub(super) async fn write(
        &self,
        id: &SandboxId,
        path: &str,
        write: FileWrite,
        mut body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)> {
        let path = normal(path)?;
        self.with_shell(id, |sandbox| check(&path, sandbox.files.get(&path), &write.preconditions))?;
        let mut content = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Error::Malformed { reason: error.to_string() })?;
            content.extend_from_slice(&piece);
        }
        let now = self.clock.now();
        self.with_shell(id, |sandbox| {
            let present = sandbox.file(&path).ok();
            if present.as_ref().is_some_and(|file| file.directory) {
                return Err(Error::WrongFileKind { path, reason: "is a directory, not a file".to_owned() });
            }
            check(&path, present.as_ref(), &write.preconditions)?;
            let mode = write.mode.unwrap_or(present.as_ref().map_or(0o644, |file| file.mode));
            Ok((present.is_none(), sandbox.put(&path, content.into(), false, mode, now)))
        })
    }

    pub(super) fn list(&self, id: &SandboxId, path: &str, recursive: bool) -> Result<Vec<FileStat>> {
        let path = normal(path)?;
        self.with_shell(id, |sandbox| {
            if !sandbox.file(&path)?.directory {
                return Err(Error::WrongFileKind { path, reason: "is a file, not a directory".to_owned() });
            }
            let below = below(&path);
            let mut entries = std::collections::BTreeSet::new();
            for file in sandbox.files.keys().filter_map(|file| file.strip_prefix(&below)) {
                let ends = file.match_indices('/').map(|(end, _)| end).chain([file.len()]);
                entries.extend(
                    ends.take(if recursive { usize::MAX } else { 1 })
                        .map(|end| format!("{below}{}", &file[..end])),
                );
            }
            entries.iter().map(|entry| Ok(sandbox.file(entry)?.stat(entry))).collect()
        })
    }

    pub(super) fn mkdir(&self, id: &SandboxId, request: &MakeDirectory) -> Result<bool> {
        let path = normal(&request.path)?;
        let now = self.clock.now();
        self.with_shell(id, |sandbox| match sandbox.file(&path) {
            Ok(file) if file.directory => Ok(false),
            Ok(_) => Err(Error::FileExists { path }),
            Err(_) => {
                sandbox.put(&path, Bytes::new(), true, 0o755, now);
                Ok(true)
            }
        })
    }

    pub(super) fn rename(&self, id: &SandboxId, request: &MoveFile) -> Result<()> {
        let (from, to) = (normal(&request.from)?, normal(&request.to)?);
        self.with_shell(id, |sandbox| {
            sandbox.file(&from)?;
            if sandbox.file(&to).is_ok() && !request.overwrite {
                return Err(Error::FileExists { path: to });
            }
            let (old, new) = (below(&from), below(&to));
            let moved: Vec<_> = sandbox
                .files
                .keys()
                .filter(|path| **path == from || path.starts_with(&old))
                .cloned()
                .collect();
            for path in moved {
                let target = path.strip_prefix(&old).map_or(to.clone(), |rest| format!("{new}{rest}"));
                if let Some(file) = sandbox.files.remove(&path) {
                    sandbox.files.insert(target, file);
                }
            }
            Ok(())
        })
    }

    pub(super) fn unlink(
        &self,
        id: &SandboxId,
        path: &str,
        recursive: bool,
        conditions: &Preconditions,
    ) -> Result<()> {
        let path = normal(path)?;
        self.with_shell(id, |sandbox| {
            let file = sandbox.file(&path)?;
            check(&path, Some(&file), conditions)?;
            if file.directory && sandbox.has_below(&path) && !recursive {
                return Err(Error::DirectoryNotEmpty { path });
            }
            let below = below(&path);
            sandbox.files.retain(|file, _| *file != path && !file.starts_with(&below));
            Ok(())
        })
    }
}
