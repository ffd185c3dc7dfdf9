//! Execs of a resolved sandbox.

use super::DataPlane;
use crate::check;
use bytes::Bytes;
use futures::stream::BoxStream;
use isopod_model::{
    ExecId, Result,
    exec::{Exec, ExecRequest, ExecResult},
};
use isopod_node_api::{OutputEvent, OutputSlice, WaitFor};
use std::time::Duration;

impl DataPlane {
    /// Starts a command, and first the sandbox if it is stopped; see [`isopod_node_api::Node::exec`].
    ///
    /// # Errors
    /// `Invalid` and `NotBuilt` for the request, `WrongState` while paused, `Gone`, `NoCapacity` when it would have
    /// to be started, and those of the node.
    pub async fn exec(&self, request: ExecRequest, key: Option<String>) -> Result<Exec> {
        let command = check::exec(&request, key.as_deref())?;
        let id = ExecId::new(self.clock.as_ref(), self.entropy.as_ref());
        let start = || self.node.exec(&self.id, id.clone(), request.clone(), key.clone());
        let exec = self.awake(start).await?;
        // Another id is an exec of before, found by its key.
        if exec.id == id {
            self.meter.started(&self.node, &exec, command.first().map_or("", String::as_str));
        }
        Ok(exec)
    }

    /// One exec's record.
    pub async fn exec_get(&self, exec: &ExecId) -> Result<Exec> {
        self.quietly(self.node.exec_get(&self.id, exec).await).await
    }

    /// Records of execs, newest first, older than `before`.
    pub async fn exec_list(&self, before: Option<ExecId>, limit: u32) -> Result<Vec<Exec>> {
        self.quietly(self.node.exec_list(&self.id, before, limit).await).await
    }

    /// Waits for the end and gives the buffered result; see [`isopod_node_api::Node::exec_result`].
    pub async fn exec_result(&self, exec: &ExecId) -> Result<ExecResult> {
        self.quietly(self.node.exec_result(&self.id, exec).await).await
    }

    /// What the journal holds from the two offsets on; see [`isopod_node_api::Node::exec_output`].
    pub async fn exec_output(&self, exec: &ExecId, stdout: u64, stderr: u64) -> Result<OutputSlice> {
        self.quietly(self.node.exec_output(&self.id, exec, stdout, stderr).await).await
    }

    /// Output as it comes, and then the end; see [`isopod_node_api::Node::exec_follow`].
    pub async fn exec_follow(
        &self,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<BoxStream<'static, Result<OutputEvent>>> {
        self.quietly(self.node.exec_follow(&self.id, exec, stdout, stderr).await).await
    }

    /// Waits for something, at most so long; see [`isopod_node_api::Node::exec_wait`].
    pub async fn exec_wait(&self, exec: &ExecId, wait: WaitFor, timeout: Duration) -> Result<Exec> {
        self.quietly(self.node.exec_wait(&self.id, exec, wait, timeout).await).await
    }

    /// Writes to an open standard input; `close` ends it afterwards.
    pub async fn exec_stdin(&self, exec: &ExecId, data: Bytes, close: bool) -> Result<()> {
        self.quietly(self.node.exec_stdin(&self.id, exec, data, close).await).await
    }

    /// Sends a signal to the first process, or with `tree` to all its descendants too.
    pub async fn exec_signal(&self, exec: &ExecId, signal: i32, tree: bool) -> Result<()> {
        self.quietly(self.node.exec_signal(&self.id, exec, signal, tree).await).await
    }
}
