//! Files of a resolved sandbox.

use super::{DataPlane, body::Body};
use bytes::Bytes;
use futures::stream::BoxStream;
use isopod_model::{
    Error, Result,
    file::{FileStat, MakeDirectory, MoveFile},
};
use isopod_node_api::{ByteRange, FileContext, FileRead, FileWrite, Preconditions};

impl DataPlane {
    /// A file's facts; see [`isopod_node_api::Node::file_stat`].
    pub async fn file_stat(&self, path: &str, context: &FileContext, follow: bool) -> Result<FileStat> {
        self.awake(|| self.node.file_stat(&self.id, path, context, follow)).await
    }

    /// Opens a regular file for reading; see [`isopod_node_api::Node::file_read`].
    pub async fn file_read(
        &self,
        path: &str,
        context: &FileContext,
        range: Option<ByteRange>,
    ) -> Result<FileRead> {
        self.awake(|| self.node.file_read(&self.id, path, context, range)).await
    }

    /// Writes a file from a stream; whether it is new, and its facts. See [`isopod_node_api::Node::file_write`].
    pub async fn file_write(
        &self,
        path: &str,
        write: FileWrite,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)> {
        let body = Body::new(body);
        let write = || async {
            if body.touched() {
                let reason = "the sandbox stopped while the file was being written; send it again".to_owned();
                return Err(Error::Unavailable { reason });
            }
            self.node.file_write(&self.id, path, write.clone(), body.offer()).await
        };
        self.awake(write).await
    }

    /// A directory's entries; see [`isopod_node_api::Node::file_list`].
    pub async fn file_list(
        &self,
        path: &str,
        context: &FileContext,
        recursive: bool,
    ) -> Result<Vec<FileStat>> {
        self.awake(|| self.node.file_list(&self.id, path, context, recursive)).await
    }

    /// Makes a directory and its parents; Ok(false) when it was there.
    pub async fn file_mkdir(&self, request: &MakeDirectory) -> Result<bool> {
        self.awake(|| self.node.file_mkdir(&self.id, request)).await
    }

    /// Moves a file or directory within the sandbox.
    pub async fn file_move(&self, request: &MoveFile) -> Result<()> {
        self.awake(|| self.node.file_move(&self.id, request)).await
    }

    /// Deletes a file, or with `recursive` a directory and all below it.
    pub async fn file_delete(
        &self,
        path: &str,
        context: &FileContext,
        recursive: bool,
        preconditions: &Preconditions,
    ) -> Result<()> {
        self.awake(|| self.node.file_delete(&self.id, path, context, recursive, preconditions)).await
    }
}
