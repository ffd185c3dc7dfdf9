//! An exec's output as server-sent events.

use crate::{
    output::{Chunk, Piece, Pieces, Skip, stream_name},
    problem::Problem,
    telemetry::RequestId,
};
use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use futures::stream::{self, BoxStream};
use http::{HeaderName, HeaderValue};
use isopod_model::Result;
use isopod_node_api::OutputEvent;
use serde::Serialize;
use std::{convert::Infallible, time::Duration};

/// Streams output and the end. The client's reading is what drives it, so a slow one costs no memory.
pub(crate) fn respond(
    events: BoxStream<'static, Result<OutputEvent>>,
    keep_alive: Duration,
    request_id: RequestId,
) -> Response {
    let stream = stream::unfold((Pieces::new(events), request_id), |(mut pieces, request_id)| async move {
        let piece = pieces.next().await?;
        let event = encode(piece, &request_id);
        Some((Ok(event), (pieces, request_id)))
    });
    stream_response(stream, keep_alive)
}

fn encode(piece: Result<Piece>, request_id: &RequestId) -> Event {
    match piece {
        Ok(Piece::Output { stream, offset, data }) => event(stream_name(stream), &Chunk::new(offset, &data)),
        Ok(Piece::Skipped { stream, offset, bytes }) => event("skipped", &Skip { stream, offset, bytes }),
        Ok(Piece::Exit(exec)) => event("exit", &exec),
        Err(error) => problem_event(&error.into(), request_id),
    }
}

/// An event with JSON data.
pub(crate) fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).unwrap_or_else(|error| {
        tracing::error!(%error, "an event does not serialise");
        Event::default().event("error")
    })
}

/// An `error` event: what went wrong after the answer had begun.
pub(crate) fn problem_event(problem: &Problem, request_id: &RequestId) -> Event {
    if let Some(detail) = problem.hidden() {
        tracing::error!(detail, request_id = request_id.as_str(), "internal error while streaming");
    }
    event("error", &problem.document(Some(request_id.as_str())))
}

/// The answer that carries `stream`, with comments while it is silent and nothing buffered on the way.
pub(crate) fn stream_response<S>(stream: S, keep_alive: Duration) -> Response
where
    S: futures::Stream<Item = std::result::Result<Event, Infallible>> + Send + 'static,
{
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"))];
    let sse = Sse::new(stream).keep_alive(KeepAlive::new().interval(keep_alive).text("keep-alive"));
    (unbuffered, sse).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::StreamExt;
    use http::HeaderMap;
    use http_body_util::BodyExt;
    use isopod_model::exec::OutputStream;
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    #[tokio::test]
    async fn nothing_is_read_ahead_of_the_client() {
        let read = Arc::new(AtomicU64::new(0));
        let count = read.clone();
        let endless = stream::repeat_with(move || {
            let offset = count.fetch_add(1, Ordering::SeqCst);
            Ok(OutputEvent::Output { stream: OutputStream::Stdout, offset, data: Bytes::from_static(b"x") })
        });
        let id = RequestId(HeaderValue::from_static("r1"));
        let mut body = respond(endless.boxed(), Duration::from_secs(3600), id).into_body();
        for _ in 0..5 {
            body.frame().await.expect("endless").expect("whole");
        }
        assert!(read.load(Ordering::SeqCst) <= 6, "{read:?}");
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_once_and_last() {
        let broken: Vec<Result<OutputEvent>> = vec![
            Ok(OutputEvent::Skipped { stream: OutputStream::Stderr, offset: 3, bytes: 4 }),
            Err(isopod_model::Error::internal("secret")),
            Ok(OutputEvent::Skipped { stream: OutputStream::Stderr, offset: 7, bytes: 1 }),
        ];
        for (events, code) in [(broken, "internal"), (vec![], "unavailable")] {
            let id = RequestId(HeaderValue::from_static("r1"));
            let response = respond(stream::iter(events).boxed(), Duration::from_secs(3600), id);
            let headers: HeaderMap = response.headers().clone();
            assert_eq!(headers["x-accel-buffering"], "no");
            let body = response.into_body().collect().await.expect("whole").to_bytes();
            let text = String::from_utf8_lossy(&body);
            assert_eq!(text.matches("event: error").count(), 1, "{text}");
            assert!(
                text.trim_end().ends_with('}') && text.contains(&format!("\"code\":\"{code}\"")),
                "{text}"
            );
            assert!(!text.contains("secret") && !text.contains("\"offset\":7"), "{text}");
        }
    }
}
