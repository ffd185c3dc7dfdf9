//! Files of a resolved sandbox.

use super::DataPlane;
use bytes::Bytes;
use futures::stream::BoxStream;
use isopod_model::{
    Result,
    file::{FileStat, MakeDirectory, MoveFile},
};
use isopod_node_api::{ByteRange, FileContext, FileRead, FileWrite, Preconditions};

impl DataPlane {
    /// A file's facts; see [`isopod_node_api::Node::file_stat`].
    pub async fn file_stat(&self, path: &str, context: &FileContext, follow: bool) -> Result<FileStat> {
        self.node.file_stat(&self.id, path, context, follow).await
    }

    /// Opens a regular file for reading; see [`isopod_node_api::Node::file_read`].
    pub async fn file_read(
        &self,
        path: &str,
        context: &FileContext,
        range: Option<ByteRange>,
    ) -> Result<FileRead> {
        self.node.file_read(&self.id, path, context, range).await
    }

    /// Writes a file from a stream; whether it is new, and its facts. See [`isopod_node_api::Node::file_write`].
    pub async fn file_write(
        &self,
        path: &str,
        write: FileWrite,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)> {
        self.node.file_write(&self.id, path, write, body).await
    }

    /// A directory's entries; see [`isopod_node_api::Node::file_list`].
    pub async fn file_list(
        &self,
        path: &str,
        context: &FileContext,
        recursive: bool,
    ) -> Result<Vec<FileStat>> {
        self.node.file_list(&self.id, path, context, recursive).await
    }

    /// Makes a directory and its parents; Ok(false) when it was there.
    pub async fn file_mkdir(&self, request: &MakeDirectory) -> Result<bool> {
        self.node.file_mkdir(&self.id, request).await
    }

    /// Moves a file or directory within the sandbox.
    pub async fn file_move(&self, request: &MoveFile) -> Result<()> {
        self.node.file_move(&self.id, request).await
    }

    /// Deletes a file, or with `recursive` a directory and all below it.
    pub async fn file_delete(
        &self,
        path: &str,
        context: &FileContext,
        recursive: bool,
        preconditions: &Preconditions,
    ) -> Result<()> {
        self.node.file_delete(&self.id, path, context, recursive, preconditions).await
    }
}
