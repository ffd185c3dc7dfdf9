//! Out of a sandbox to here. Names and kinds come from hostile code: nothing is written outside of the target.

use super::{
    AT_ONCE, Copy,
    path::{Remote, landing},
};
use crate::{
    client::innermost,
    failure::{Failure, Outcome},
};
use futures::{StreamExt, TryStreamExt, stream};
use isopod_model::file::{FileKind, FileStat};
use reqwest::{Method, Response};
use serde::Deserialize;
use std::{
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use tokio::io::{AsyncWrite, AsyncWriteExt};

#[derive(Deserialize)]
struct Listing {
    items: Vec<FileStat>,
}

impl Copy {
    /// One file goes to standard output.
    pub(super) async fn download_to_stdout(&self, source: &Remote) -> Outcome<()> {
        let response = self.get(&source.sandbox, &source.path).await?;
        self.progress.expect(response.content_length());
        self.receive(response, tokio::io::stdout(), "standard output").await
    }

    /// A file or directory goes to a path here.
    pub(super) async fn download(&self, source: &Remote, target: &Path) -> Outcome<()> {
        let stat = self.stat(source).await?;
        let is_directory = match &stat {
            Some(stat) => stat.kind == FileKind::Directory,
            None if source.path == "/" => true,
            None => return Err(Failure::new(format_args!("{}: no such file or directory", source.path))),
        };
        let beneath = target.is_dir() || (!is_directory && ends_with_slash(target));
        let name = source.name().filter(|_| beneath && !(is_directory && self.contents_only));
        let target = name.map_or_else(|| target.to_owned(), |name| target.join(name));
        if is_directory {
            return self.download_directory(source, &target).await;
        }
        self.progress.expect(stat.as_ref().map(|stat| stat.size_bytes));
        let mode = stat.as_ref().map_or(0o644, |stat| mode_of(&stat.mode));
        self.download_file(&source.sandbox, &source.path, &target, mode).await
    }

    async fn download_directory(&self, source: &Remote, target: &Path) -> Outcome<()> {
        let mut url = self.url(&source.sandbox, "ls", &source.path);
        url.query_pairs_mut().append_pair("recursive", "true");
        let listing: Listing = self.client.json(self.request(Method::GET, url)).await?;
        self.make_directory_here(target)?;
        let mut files: Vec<(FileStat, PathBuf)> = Vec::new();
        for stat in listing.items {
            let path = landing(target, &source.path, &stat.path).ok_or_else(|| {
                Failure::new(format_args!("{:?} would lead out of {}", stat.path, target.display()))
            })?;
            match stat.kind {
                // Sorted by path, so parents come before children.
                FileKind::Directory => self.make_directory_here(&path)?,
                FileKind::File => files.push((stat, path)),
                FileKind::Symlink | FileKind::Other => self.progress.skipped(),
            }
        }
        self.progress.expect(Some(files.iter().map(|(stat, _)| stat.size_bytes).sum()));
        stream::iter(&files)
            .map(|(stat, path)| self.download_file(&source.sandbox, &stat.path, path, mode_of(&stat.mode)))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    fn make_directory_here(&self, path: &Path) -> Outcome<()> {
        match std::fs::DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => self.progress.directory(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(Failure::io(path.display(), &error)),
        }
        Ok(())
    }

    async fn download_file(&self, sandbox: &str, source: &str, target: &Path, mode: u32) -> Outcome<()> {
        let response = self.get(sandbox, source).await?;
        let file = tokio::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(target)
            .await
            .map_err(|error| Failure::io(target.display(), &error))?;
        self.receive(response, file, &target.display().to_string()).await
    }

    async fn get(&self, sandbox: &str, path: &str) -> Outcome<Response> {
        Ok(self.client.send(self.request(Method::GET, self.url(sandbox, "files", path))).await?)
    }

    async fn receive(
        &self,
        response: Response,
        mut target: impl AsyncWrite + Unpin,
        name: &str,
    ) -> Outcome<()> {
        let fail = |error: io::Error| Failure::io(name, &error);
        let mut body = response.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| {
                Failure::hinted(
                    format_args!("{name} is incomplete: {}", innermost(&error)),
                    "run the command again",
                )
            })?;
            target.write_all(&piece).await.map_err(fail)?;
            self.progress.bytes(piece.len());
        }
        target.flush().await.map_err(fail)?;
        self.progress.file();
        Ok(())
    }
}

/// The permission bits of a listing, without set-id bits: nothing from a sandbox may act as somebody else here.
fn mode_of(text: &str) -> u32 {
    u32::from_str_radix(text, 8).unwrap_or(0o644) & 0o777
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::mode_of;

    #[test]
    fn set_id_bits_do_not_come_along() {
        assert_eq!(mode_of("4755"), 0o755);
        assert_eq!(mode_of("0640"), 0o640);
        assert_eq!(mode_of("nonsense"), 0o644);
    }
}
