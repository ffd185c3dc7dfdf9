//! The node as `control` sees it: each call finds its sandbox and walks straight to where the work is done.

use crate::{LocalNode, output, sandbox::Sandbox, tiers::container::slot};
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
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// The node with the means to keep itself alive in background work.
#[derive(Debug, Clone)]
pub(crate) struct Seam(pub(crate) Arc<LocalNode>);

impl LocalNode {
    /// This node as what `control` talks to.
    pub fn seam(self: &Arc<Self>) -> Arc<dyn Node> {
        Arc::new(Seam(Arc::clone(self)))
    }
}

impl Seam {
    fn files(&self, id: &SandboxId) -> Result<(Arc<Sandbox>, crate::files::GuestRoot)> {
        let sandbox = self.0.find(id)?;
        let root = sandbox.running()?.root().clone();
        sandbox.touch();
        Ok((sandbox, root))
    }
}

#[async_trait]
impl Node for Seam {
    async fn report(&self) -> HostReport {
        self.0.report.clone()
    }

    async fn node_stats(&self) -> NodeStats {
        let (subvolumes, namespaces) = self.0.tier().map_or((0, 0), |tier| tier.slots.waiting());
        NodeStats {
            running: self.0.all().iter().filter(|sandbox| sandbox.shell().is_some()).count() as u64,
            teardowns_pending: self.0.teardowns.load(Ordering::Relaxed),
            pooled_namespaces: namespaces as u64,
            pooled_subvolumes: subvolumes as u64,
        }
    }

    async fn inspect(&self) -> Vec<SandboxStatus> {
        self.0.all().iter().map(|sandbox| sandbox.status()).collect()
    }

    async fn status(&self, id: &SandboxId) -> Result<SandboxStatus> {
        Ok(self.0.find(id)?.status())
    }

    fn events(&self) -> tokio_events::Receiver {
        self.0.events.subscribe()
    }

    async fn create(&self, spec: SandboxSpec) -> Result<()> {
        self.0.create_sandbox(spec).await
    }

    async fn start(&self, id: &SandboxId) -> Result<()> {
        self.0.start_sandbox(id).await
    }

    async fn stop(&self, id: &SandboxId, ending: Ending) -> Result<()> {
        let sandbox = self.0.find(id)?;
        let _life = sandbox.life.lock().await;
        self.0.stop_sandbox(&sandbox, ending).await;
        Ok(())
    }

    async fn pause(&self, id: &SandboxId) -> Result<()> {
        let shell = self.0.find(id)?.running()?;
        shell
            .cgroup()
            .freeze(true)
            .map_err(|_| Error::NotBuilt { feature: "pausing on a host without a freezer".into() })
    }

    async fn resume(&self, id: &SandboxId) -> Result<()> {
        let sandbox = self.0.find(id)?;
        sandbox.touch();
        sandbox.running()?.cgroup().freeze(false).map_err(Error::internal)
    }

    async fn delete(&self, id: &SandboxId, ending: Ending) -> Result<()> {
        self.0.delete_sandbox(id, ending).await
    }

    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats> {
        let sandbox = self.0.find(id)?;
        let mut stats = SandboxStats { execs_total: sandbox.log().execs_total(), ..SandboxStats::default() };
        if let Some(shell) = sandbox.shell() {
            let group = shell.cgroup();
            stats.memory_bytes = group.memory();
            stats.memory_peak_bytes = group.memory_peak();
            stats.cpu_us = group.cpu_us();
            stats.pids = group.pids();
            stats.execs_running = shell.running_execs();
            stats.oom_kills = group.oom_kills();
        }
        let (tier, slot) = (self.0.tier()?, sandbox.record.slot);
        let usage = tokio::task::spawn_blocking(move || tier.subvolumes.usage(&slot::name(slot)));
        stats.disk_bytes = usage.await.map_err(Error::internal)?.map_err(Error::internal)?;
        Ok(stats)
    }

    async fn exec(
        &self,
        id: &SandboxId,
        exec: ExecId,
        request: ExecRequest,
        key: Option<String>,
    ) -> Result<Exec> {
        let sandbox = self.0.find(id)?;
        // A task of its own: a caller who leaves in the middle leaves no exec half started.
        tokio::spawn(async move { sandbox.exec(exec, request, key).await }).await.map_err(Error::internal)?
    }

    async fn exec_get(&self, id: &SandboxId, exec: &ExecId) -> Result<Exec> {
        self.0.find(id)?.exec_record(exec).await
    }

    async fn exec_list(&self, id: &SandboxId, before: Option<ExecId>, limit: u32) -> Result<Vec<Exec>> {
        let sandbox = self.0.find(id)?;
        let mut listed = Vec::new();
        for record in sandbox.log().list(before.as_ref(), limit).await? {
            // What runs is further than its record.
            listed.push(match sandbox.live_exec(&record.exec.id) {
                Some(_) => sandbox.exec_record(&record.exec.id).await?,
                None => record.exec,
            });
        }
        Ok(listed)
    }

    async fn exec_result(&self, id: &SandboxId, exec: &ExecId) -> Result<ExecResult> {
        let sandbox = self.0.find(id)?;
        let result = output::result(&sandbox, exec).await;
        sandbox.touch();
        result
    }

    async fn exec_output(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<OutputSlice> {
        output::slice(&*self.0.find(id)?, exec, stdout, stderr).await
    }

    async fn exec_follow(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        stdout: u64,
        stderr: u64,
    ) -> Result<BoxStream<'static, Result<OutputEvent>>> {
        output::follow(&*self.0.find(id)?, exec, stdout, stderr).await
    }

    async fn exec_wait(
        &self,
        id: &SandboxId,
        exec: &ExecId,
        wait: WaitFor,
        timeout: Duration,
    ) -> Result<Exec> {
        self.0.find(id)?.exec_wait(exec, wait, timeout).await
    }

    async fn exec_stdin(&self, id: &SandboxId, exec: &ExecId, data: Bytes, close: bool) -> Result<()> {
        self.0.find(id)?.exec_stdin(exec, &data, close).await
    }

    async fn exec_signal(&self, id: &SandboxId, exec: &ExecId, signal: i32, tree: bool) -> Result<()> {
        self.0.find(id)?.exec_signal(exec, signal, tree).await
    }

    async fn file_stat(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        follow: bool,
    ) -> Result<FileStat> {
        self.files(id)?.1.stat(path, context, follow).await
    }

    async fn file_read(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        range: Option<ByteRange>,
    ) -> Result<FileRead> {
        self.files(id)?.1.read(path, context, range).await
    }

    async fn file_write(
        &self,
        id: &SandboxId,
        path: &str,
        write: FileWrite,
        body: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<(bool, FileStat)> {
        let (sandbox, root) = self.files(id)?;
        let written = root.write(path, write, body).await?;
        sandbox.touch();
        sandbox.note("file.written", serde_json::json!({ "path": path, "size_bytes": written.1.size_bytes }));
        Ok(written)
    }

    async fn file_list(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        recursive: bool,
    ) -> Result<Vec<FileStat>> {
        self.files(id)?.1.list(path, context, recursive).await
    }

    async fn file_mkdir(&self, id: &SandboxId, request: &MakeDirectory) -> Result<bool> {
        self.files(id)?.1.make_directory(request).await
    }

    async fn file_move(&self, id: &SandboxId, request: &MoveFile) -> Result<()> {
        let (sandbox, root) = self.files(id)?;
        root.move_file(request).await?;
        sandbox.note("file.moved", serde_json::json!({ "from": request.from, "to": request.to }));
        Ok(())
    }

    async fn file_delete(
        &self,
        id: &SandboxId,
        path: &str,
        context: &FileContext,
        recursive: bool,
        preconditions: &Preconditions,
    ) -> Result<()> {
        let (sandbox, root) = self.files(id)?;
        root.delete(path, context, recursive, preconditions).await?;
        sandbox.note("file.deleted", serde_json::json!({ "path": path }));
        Ok(())
    }

    async fn log(&self, id: &SandboxId, kind: &str, data: serde_json::Value) {
        if let Ok(sandbox) = self.0.find(id) {
            sandbox.note(kind, data);
        }
    }

    async fn log_read(&self, id: &SandboxId, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.0.find(id)?.log().events(after, limit).await
    }

    async fn log_changed(&self, id: &SandboxId) -> Result<tokio_events::Changed> {
        Ok(self.0.find(id)?.log().changed())
    }

    async fn shutdown(&self, stop_sandboxes: bool) {
        let sandboxes = self.0.all();
        if stop_sandboxes {
            let ending =
                self.0.ending_by_operator("the server was stopped with --stop-sandboxes; files are kept");
            let stops = sandboxes.iter().map(|sandbox| self.0.stop_sandbox(sandbox, ending.clone()));
            futures::future::join_all(stops).await;
        }
        for sandbox in &sandboxes {
            if let Err(error) = sandbox.log().flush().await {
                tracing::warn!(sandbox = %sandbox.id(), ?error, "a sandbox's log could not be flushed");
            }
        }
        self.0.background.close();
        self.0.background.wait().await;
        self.0.closing.store(true, Ordering::Relaxed);
        if let Ok(tier) = self.0.tier() {
            tier.close().await;
        }
    }
}
