//! What happened to one sandbox, and its figures now.

use crate::{
    ApiState,
    exec_stream::{event, problem_event, stream_response},
    extract::{Asking, Inside, Named, Params, Path, header_text, wants_events},
    problem::Answer,
    telemetry::RequestId,
};
use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, sse},
};
use futures::stream;
use http::HeaderMap;
use isopod_control::DataPlane;
use isopod_model::{Error, Result, event::Event};
use isopod_node_api::{SandboxStats, tokio_events::Changed};
use serde::Serialize;
use std::{collections::VecDeque, convert::Infallible};

const TAG: &str = "events";
/// How many entries a stream fetches at a time.
const BATCH: u32 = 200;

/// A part of a sandbox's history.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct EventList {
    /// The entries, oldest first.
    items: Vec<Event>,
}

/// Read a sandbox's history.
///
/// Its own log while it exists (life, execs, files); after its end what the platform keeps: how it lived and ended,
/// with positions of their own. With `follow=true` or `Accept: text/event-stream` it is an event stream: what is
/// there, then what comes, each with its position as id; when the sandbox ends, an `error` with that problem is last.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/events", tag = TAG,
    params(("after" = Option<i64>, Query, description = "Only what comes after this `seq`; 0 when absent"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 when absent"),
        ("follow" = Option<bool>, Query, description = "Stream"),
        ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, sent by browsers that reconnect")),
    responses((status = 200, description = "Its history",
        content((EventList = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn read_events(
    State(state): State<ApiState>,
    Asking(caller): Asking,
    Path(Named { id }): Path<Named>,
    params: Params,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
) -> Answer {
    let params = params.only(&["after", "limit", "follow"], &[])?;
    let limit = params.limit()?;
    let last = header_text(&headers, "last-event-id")?.and_then(|text| text.parse().ok());
    let after = last.or(params.number::<i64>("after")?).unwrap_or(0);
    let follow = params.flag("follow")? || wants_events(&headers);
    match state.control.data(&caller, &id).await {
        Ok(data) if follow => {
            let tail = Tail::new(data, after).await?;
            Ok(stream_response(tail.into_stream(request_id), state.settings.keep_alive))
        }
        Ok(data) => {
            let items = data.log_read(after, limit).await?;
            Ok(axum::Json(EventList { items }).into_response())
        }
        Err(Error::Gone { .. }) => {
            let items = state.control.events(&caller, &id, after, limit).await?;
            if follow {
                let items = items.into_iter().map(|entry| Ok::<_, Infallible>(encode(&entry)));
                return Ok(stream_response(stream::iter(items), state.settings.keep_alive));
            }
            Ok(axum::Json(EventList { items }).into_response())
        }
        Err(error) => Err(error.into()),
    }
}

/// A log that is being followed.
struct Tail {
    data: DataPlane,
    changed: Changed,
    after: i64,
    ready: VecDeque<Event>,
    /// Nothing is written to the log any more; a last look is due.
    closed: bool,
    /// Nothing is left to say.
    told: bool,
}

impl Tail {
    async fn new(data: DataPlane, after: i64) -> Result<Self> {
        let changed = data.log_changed().await?;
        Ok(Self { data, changed, after, ready: VecDeque::new(), closed: false, told: false })
    }

    /// The next entry; then, once the sandbox has ended and all is told, how it ended.
    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.after = entry.seq;
                return Some(Ok(entry));
            }
            if self.told {
                return None;
            }
            // Marked as seen before reading: what is written between the two is read again, never missed.
            self.changed.borrow_and_update();
            match self.data.log_read(self.after, BATCH).await {
                Ok(entries) => self.ready.extend(entries),
                Err(error) => {
                    self.told = true;
                    return Some(Err(error));
                }
            }
            if self.ready.is_empty() {
                self.told = self.closed;
                self.closed = self.changed.changed().await.is_err();
            }
        }
    }

    fn into_stream(
        self,
        request_id: RequestId,
    ) -> impl futures::Stream<Item = Result<sse::Event, Infallible>> + Send + 'static {
        stream::unfold((self, request_id), |(mut tail, request_id)| async move {
            let event = match tail.next().await? {
                Ok(entry) => encode(&entry),
                Err(error) => problem_event(&error.into(), &request_id),
            };
            Some((Ok(event), (tail, request_id)))
        })
    }
}

fn encode(entry: &Event) -> sse::Event {
    event("event", entry).id(entry.seq.to_string())
}

/// Get a sandbox's figures.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/stats", tag = TAG, responses((status = 200, description = "Its figures now", body = SandboxStats)))]
pub(crate) async fn read_stats(Inside(data): Inside) -> Answer<axum::Json<SandboxStats>> {
    Ok(axum::Json(data.stats().await?))
}
