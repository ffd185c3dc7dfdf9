//! The data plane: what may be asked of a sandbox that is already resolved.

mod exec;
mod file;

use async_trait::async_trait;
use isopod_model::{Clock, Entropy, Result, SandboxId, SandboxState, event::Event};
use isopod_node_api::{Node, SandboxStats, tokio_events};
use std::sync::Arc;

/// How a data plane learns the state of its sandbox, and gets it started.
///
/// `control` implements it from its registry; a node of a cluster will implement it from what its token says.
#[async_trait]
pub trait Waker: Send + Sync {
    /// Counts a call as begun and says which state the sandbox is in. Each `begin` is followed by one
    /// [`Waker::finish`]; between the two the sandbox is not stopped for being idle.
    fn begin(&self) -> SandboxState;
    /// Counts a call as finished.
    fn finish(&self);
    /// Starts the sandbox if it is stopped; concurrent callers share one start.
    ///
    /// # Errors
    /// [`isopod_model::Error::Gone`] when it ended meanwhile, `NoCapacity` when the node is full, `WrongState` when
    /// it is paused.
    async fn wake(&self) -> Result<()>;
}

/// A resolved sandbox: whoever holds this may do everything inside of it.
#[derive(Clone)]
pub struct DataPlane {
    id: SandboxId,
    node: Arc<dyn Node>,
    waker: Arc<dyn Waker>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl DataPlane {
    /// The data plane of sandbox `id` on `node`.
    pub fn new(
        id: SandboxId,
        node: Arc<dyn Node>,
        waker: Arc<dyn Waker>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { id, node, waker, clock, entropy }
    }

    /// The sandbox.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Its figures; see [`Node::stats`].
    pub async fn stats(&self) -> Result<SandboxStats> {
        self.node.stats(&self.id).await
    }

    /// Appends to its own log; see [`Node::log`].
    pub async fn log(&self, kind: &str, data: serde_json::Value) {
        self.node.log(&self.id, kind, data).await;
    }

    /// Reads its own log after a position; see [`Node::log_read`].
    pub async fn log_read(&self, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.node.log_read(&self.id, after, limit).await
    }

    /// Told whenever its log grows; see [`Node::log_changed`].
    pub async fn log_changed(&self) -> Result<tokio_events::Changed> {
        self.node.log_changed(&self.id).await
    }
}
