//! A body that may be offered twice, as long as nobody has read from it.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

type Stream = BoxStream<'static, std::io::Result<Bytes>>;

/// A stream that a call takes, and the next call can take again if the first one did not touch it.
#[derive(Clone)]
pub(super) struct Body(Arc<Mutex<Source>>);

struct Source {
    stream: Stream,
    touched: bool,
}

impl Body {
    pub(super) fn new(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(Source { stream, touched: false })))
    }

    /// The stream, for one call.
    pub(super) fn offer(&self) -> Stream {
        let body = self.clone();
        stream::poll_fn(move |context| body.poll(context)).boxed()
    }

    /// Whether somebody has read from it.
    pub(super) fn touched(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).touched
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        let mut source = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        source.touched = true;
        source.stream.poll_next_unpin(context)
    }
}
