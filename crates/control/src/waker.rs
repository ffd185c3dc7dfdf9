//! How a data plane reaches the registry.

use crate::{Waker, core::Core, registry::Live};
use async_trait::async_trait;
use isopod_model::{Result, SandboxState};
use std::sync::Arc;

/// One sandbox of this server.
pub(crate) struct LiveWaker {
    pub(crate) core: Arc<Core>,
    pub(crate) live: Arc<Live>,
}

#[async_trait]
impl Waker for LiveWaker {
    fn begin(&self) -> SandboxState {
        self.live.begin_call()
    }

    fn finish(&self) {
        self.live.finish_call();
    }

    async fn wake(&self) -> Result<()> {
        self.core.check_open()?;
        let (core, live) = (self.core.clone(), self.live.clone());
        self.core.finish(async move { core.start(&live).await }).await
    }
}
