//! From here into a sandbox.

use super::{AT_ONCE, Copy, path::Remote};
use crate::failure::{Failure, Outcome};
use futures::{StreamExt, TryStreamExt, stream};
use isopod_model::file::{FileKind, MakeDirectory};
use reqwest::{Body, Method, header};
use std::{
    fs::Metadata,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::ReaderStream;

/// How much is read at a time.
const PIECE: usize = 128 * 1024;

/// A file or directory that is to go over.
struct Entry {
    source: PathBuf,
    target: String,
    metadata: Metadata,
}

impl Copy {
    /// Standard input becomes one file.
    pub(super) async fn upload_stdin(&self, target: &Remote) -> Outcome<()> {
        if target.is_directory || target.name().is_none() {
            return Err(Failure::Usage("standard input needs the name of a file to become".to_owned()));
        }
        self.progress.expect(None);
        self.put(&target.sandbox, &target.path, tokio::io::stdin(), None, None).await
    }

    /// A file or directory goes over.
    pub(super) async fn upload(&self, source: &Path, target: &Remote) -> Outcome<()> {
        let metadata = std::fs::metadata(source).map_err(|error| Failure::io(source.display(), &error))?;
        let target = self.target_of(source, &metadata, target).await?;
        let top = Entry { source: source.to_owned(), target: target.path.clone(), metadata };
        if top.metadata.is_file() {
            self.progress.expect(Some(top.metadata.len()));
            return self.put_file(&target.sandbox, &top).await;
        }
        if !top.metadata.is_dir() {
            return Err(Failure::new(format_args!(
                "{}: is neither a file nor a directory",
                source.display()
            )));
        }
        let (directories, files) = self.walk(top)?;
        self.progress.expect(Some(files.iter().map(|file| file.metadata.len()).sum()));
        for directory in &directories {
            self.make_directory(&target.sandbox, directory).await?;
        }
        stream::iter(&files)
            .map(|file| self.put_file(&target.sandbox, file))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Where the source itself goes: below a directory that exists, or exactly where it was said.
    async fn target_of(&self, source: &Path, metadata: &Metadata, target: &Remote) -> Outcome<Remote> {
        let existing = self.stat(target).await?;
        let is_directory = target.path == "/"
            || existing.is_some_and(|stat| stat.kind == FileKind::Directory)
            || (target.is_directory && metadata.is_file());
        if !is_directory || (self.contents_only && metadata.is_dir()) {
            return Ok(target.clone());
        }
        let name = std::path::absolute(source)
            .ok()
            .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .ok_or_else(|| Failure::new(format_args!("{}: has no name to copy it to", source.display())))?;
        Ok(Remote { path: target.join(&name), ..target.clone() })
    }

    /// All below a directory, directories first and parents before children.
    fn walk(&self, top: Entry) -> Outcome<(Vec<Entry>, Vec<Entry>)> {
        let (mut directories, mut files) = (vec![top], Vec::new());
        let mut next = 0;
        while let Some(directory) = directories.get(next) {
            next += 1;
            let fail = |path: &Path, error: &std::io::Error| Failure::io(path.display(), error);
            let source = directory.source.clone();
            let target = directory.target.trim_end_matches('/').to_owned();
            for entry in std::fs::read_dir(&source).map_err(|error| fail(&source, &error))? {
                let entry = entry.map_err(|error| fail(&source, &error))?;
                let path = entry.path();
                // Of the link itself, not of what it points to.
                let metadata = entry.metadata().map_err(|error| fail(&path, &error))?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    return Err(Failure::new(format_args!("{}: the name is not UTF-8", path.display())));
                };
                let entry = Entry { source: path, target: format!("{target}/{name}"), metadata };
                if entry.metadata.is_dir() {
                    directories.push(entry);
                } else if entry.metadata.is_file() {
                    files.push(entry);
                } else {
                    self.progress.skipped();
                }
            }
        }
        Ok((directories, files))
    }

    async fn make_directory(&self, sandbox: &str, directory: &Entry) -> Outcome<()> {
        if directory.target.is_empty() || directory.target == "/" {
            return Ok(());
        }
        let request = MakeDirectory {
            path: directory.target.clone(),
            user: self.user.clone(),
            mode: Some(mode_of(&directory.metadata)),
        };
        let url = self.client.sandbox_url(sandbox, &["mkdir"]);
        self.client.send(self.request(Method::POST, url).json(&request)).await?;
        self.progress.directory();
        Ok(())
    }

    async fn put_file(&self, sandbox: &str, entry: &Entry) -> Outcome<()> {
        let fail = |error: std::io::Error| Failure::io(entry.source.display(), &error);
        let file = tokio::fs::File::open(&entry.source).await.map_err(fail)?;
        let length = file.metadata().await.map_err(fail)?.len();
        // What is appended meanwhile does not belong to the announced length.
        let (body, mode) = (file.take(length), mode_of(&entry.metadata));
        self.put(sandbox, &entry.target, body, Some(length), Some(mode)).await
    }

    async fn put(
        &self,
        sandbox: &str,
        target: &str,
        source: impl AsyncRead + Send + 'static,
        length: Option<u64>,
        mode: Option<String>,
    ) -> Outcome<()> {
        let mut url = self.url(sandbox, "files", target);
        if let Some(mode) = mode {
            url.query_pairs_mut().append_pair("mode", &mode);
        }
        let progress = Arc::clone(&self.progress);
        let body =
            ReaderStream::with_capacity(source, PIECE).inspect_ok(move |piece| progress.bytes(piece.len()));
        let mut request = self.request(Method::PUT, url).body(Body::wrap_stream(body));
        if let Some(length) = length {
            request = request.header(header::CONTENT_LENGTH, length);
        }
        self.client.send(request).await?;
        self.progress.file();
        Ok(())
    }
}

/// Permission bits in octal.
fn mode_of(metadata: &Metadata) -> String {
    format!("{:04o}", metadata.permissions().mode() & 0o777)
}
