//! The data plane: what may be asked of a sandbox that is already resolved.

mod body;
mod exec;
mod file;

use crate::ExecMeter;
use async_trait::async_trait;
use isopod_model::{Clock, Entropy, Error, Result, SandboxId, SandboxState, event::Event};
use isopod_node_api::{Node, SandboxStats, tokio_events};
use std::{future::Future, sync::Arc};

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
///
/// Execs and file calls start a stopped sandbox first. Once the sandbox has ended every call is
/// [`isopod_model::Error::Gone`].
#[derive(Clone)]
pub struct DataPlane {
    id: SandboxId,
    node: Arc<dyn Node>,
    waker: Arc<dyn Waker>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    meter: ExecMeter,
}

/// A call that has begun; finished when dropped, also when its caller goes away.
struct Call<'plane>(&'plane dyn Waker);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl DataPlane {
    /// The data plane of sandbox `id` on `node`.
    pub fn new(
        id: SandboxId,
        node: Arc<dyn Node>,
        waker: Arc<dyn Waker>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        meter: ExecMeter,
    ) -> Self {
        Self { id, node, waker, clock, entropy, meter }
    }

    /// The sandbox.
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// Its figures; see [`Node::stats`].
    pub async fn stats(&self) -> Result<SandboxStats> {
        self.quietly(self.node.stats(&self.id).await).await
    }

    /// Appends to its own log; see [`Node::log`].
    pub async fn log(&self, kind: &str, data: serde_json::Value) {
        self.node.log(&self.id, kind, data).await;
    }

    /// Reads its own log after a position; see [`Node::log_read`].
    pub async fn log_read(&self, after: i64, limit: u32) -> Result<Vec<Event>> {
        self.quietly(self.node.log_read(&self.id, after, limit).await).await
    }

    /// Told whenever its log grows; see [`Node::log_changed`].
    pub async fn log_changed(&self) -> Result<tokio_events::Changed> {
        self.quietly(self.node.log_changed(&self.id).await).await
    }

    /// Makes a call that needs the shell; starts the sandbox when it, or the node, says that it is stopped, and then
    /// makes the call once more.
    async fn awake<T, Answer>(&self, call: impl Fn() -> Answer) -> Result<T>
    where
        Answer: Future<Output = Result<T>>,
    {
        let state = self.waker.begin();
        let _call = Call(self.waker.as_ref());
        match state {
            SandboxState::Running => {}
            SandboxState::Paused => {
                return Err(Error::WrongState { state, hint: "resume it first" });
            }
            // Those that are being made are waited for, those that are being removed give their ending.
            _ => self.waker.wake().await?,
        }
        match call().await {
            Err(Error::WrongState { state: SandboxState::Stopped, .. }) => {
                self.waker.wake().await?;
                self.quietly(call().await).await
            }
            answer => self.quietly(answer).await,
        }
    }

    /// Passes an answer on; if the node does not know the sandbox any more, says how that ended.
    async fn quietly<T>(&self, answer: Result<T>) -> Result<T> {
        if let Err(Error::NotFound { what: "sandbox", .. }) = &answer {
            self.waker.wake().await?;
        }
        answer
    }
}
