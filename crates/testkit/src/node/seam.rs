//! The seam itself: every call passes the door, then does its work.

use super::FakeNode;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use isopod_model::{
    Ending, Error, ExecId, Result, SandboxId,
    event::Event,
    exec::{Exec, ExecRequest, ExecResult},
    file::{FileStat, MakeDirectory, MoveFile},
};
use isopod_node_api::{
    ByteRange, FileContext, FileRead, FileWrite, HostReport, Node, NodeStats, OutputEvent, OutputSlice,
    Preconditions, SandboxSpec, SandboxStats, SandboxStatus, WaitFor, tokio_events,
};
use std::time::Duration;

#[async_trait]
impl Node for FakeNode {
    async fn report(&self) -> HostReport {
        self.lock().report.clone()
    }

    async fn node_stats(&self) -> NodeStats {
        let running = self.lock().sandboxes.values().filter(|sandbox| sandbox.running).count() as u64;
        NodeStats { running, ..NodeStats::default() }
    }

    async fn inspect(&self) -> Vec<SandboxStatus> {
        self.lock().sandboxes.values().map(super::FakeSandbox::status).collect()
    }

    async fn status(&self, id: &SandboxId) -> Result<SandboxStatus> {
        self.door("status").await?;
        self.with(id, |sandbox| Ok(sandbox.status()))
    }

    fn events(&self) -> tokio_events::Receiver {
        self.events.subscribe()
    }

    async fn create(&self, spec: SandboxSpec) -> Result<()> {
        self.door("create").await?;
        self.create_sandbox(spec)
    }

    async fn start(&self, id: &SandboxId) -> Result<()> {
        self.door("start").await?;
        self.start_shell(id)
    }

    async fn stop(&self, id: &SandboxId, ending: Ending) -> Result<()> {
        self.door("stop").await?;
        self.stop_shell(id, ending)
    }

    async fn pause(&self, id: &SandboxId) -> Result<()> {
        self.door("pause").await?;
        self.freeze(id, true)
    }

    async fn resume(&self, id: &SandboxId) -> Result<()> {
        self.door("resume").await?;
        self.freeze(id, false)
    }

    async fn delete(&self, id: &SandboxId, ending: Ending) -> Result<()> {
        self.door("delete").await?;
        self.remove(id, ending);
        Ok(())
    }

    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats> {
        self.door("stats").await?;
        self.figures(id)
    }

    async fn exec(
        &self,
        id: &SandboxId,
        exec: ExecId,
        request: ExecRequest,
        key: Option<String>,
    ) -> Result<Exec> {
        self.door("exec").await?;
        self.start_exec(id, exec, request, key)
    }

    async fn exec_get(&self, id: &SandboxId, exec: &ExecId) -> Result<Exec> {
        self.door("exec_get").await?;
        self.exec_record(id, exec)
    }

    async fn exec_list(&self, id: &SandboxId, before: Option<ExecId>, limit: u32) -> Result<Vec<Exec>> {
        self.door("exec_list").await?;
        self.exec_records(id, before.as_ref(), limit)
    }

    async fn exec_result(&self, id: &SandboxId, exec: &ExecId) -> Result<ExecResult> {
        self.door("exec_result").await?;
        self.exec_ended(id, exec).await
    }

    async fn exec_output(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<OutputSlice> {
        self.door("exec_output").await?;
        self.exec_slice(id, exec, stdout, stderr)
    }

    async fn exec_follow(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<BoxStream<'static, Result<OutputEvent>>> {
        self.door("exec_follow").await?;
        self.follow(id, exec, stdout, stderr)
    }

    async fn exec_wait(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        wait: WaitFor,
        timeout: Duration,
    ) -> Result<Exec> {
        self.door("exec_wait").await?;
        let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let late = Error::WaitTimeout { what: format!("{wait:?}"), after_ms };
        tokio::time::timeout(timeout, self.wait(id, exec, &wait)).await.map_err(|_| late)?
    }

    async fn exec_stdin(&self, id: &SandboxId, exec: &ExecId, data: Bytes, close: bool) -> Result<()> {
        self.door("exec_stdin").await?;
        self.feed(id, exec, &data, close)
    }

    async fn exec_signal(&self, id: &SandboxId, exec: &ExecId, signal: i32, tree: bool) -> Result<()> {
        self.door("exec_signal").await?;
        self.signal(id, exec, signal, tree)
    }

    async fn file_stat(&self, id: &SandboxId, path: &str, _: &FileContext, _: bool) -> Result<FileStat> {
        self.door("file_stat").await?;
        self.stat(id, path)
    }

    async fn file_read(
        &self,
        id: &SandboxId,
        path: &str,
        _: &FileContext,
        range: Option<ByteRange>,
    ) -> Result<FileRead> {
        self.door("file_read").await?;
        self.read(id, path, range)
    }

    async fn file_write(
        &self,
        id: &SandboxId,
        path: &str,
        write: FileWrite,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)> {
        self.door("file_write").await?;
        self.write(id, path, write, body).await
    }

    async fn file_list(
        &self,
        id: &SandboxId,
        path: &str,
        _: &FileContext,
        recursive: bool,
    ) -> Result<Vec<FileStat>> {
        self.door("file_list").await?;
        self.list(id, path, recursive)
    }

    async fn file_mkdir(&self, id: &SandboxId, request: &MakeDirectory) -> Result<bool> {
        self.door("file_mkdir").await?;
        self.mkdir(id, request)
    }

    async fn file_move(&self, id: &SandboxId, request: &MoveFile) -> Result<()> {
        self.door("file_move").await?;
        self.rename(id, request)
    }

    async fn file_delete(
        &self,
        id: &SandboxId,
        path: &str,
        _: &FileContext,
        recursive: bool,
        preconditions: &Preconditions,
    ) -> Result<()> {
        self.door("file_delete").await?;
        self.unlink(id, path, recursive, preconditions)
    }

    async fn log(&self, id: &SandboxId, kind: &str, data: serde_json::Value) {
        let now = self.clock.now();
        // The seam promises nothing for a sandbox that is not there.
        let _ = self.with(id, |sandbox| {
            sandbox.note(now, kind, data);
            Ok(())
        });
    }

    async fn log_read(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.door("log_read").await?;
        self.with(id, |sandbox| {
            let later = sandbox.log.iter().filter(|event| event.seq > after);
            Ok(later.take(limit as usize).cloned().collect())
        })
    }

    async fn log_changed(&self, id: &SandboxId) -> Result<tokio_events::Changed> {
        self.with(id, |sandbox| Ok(sandbox.log_changed.subscribe()))
    }

    async fn shutdown(&self, stop_sandboxes: bool) {
        self.end_all(stop_sandboxes);
    }
}
