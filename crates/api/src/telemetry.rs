//! The outermost layer: request ids, one span and one set of figures per request, and the writing of problems.

use crate::problem::Problem;
use axum::{
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, request::Parts};
use isopod_model::Error;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use std::{
    any::Any,
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header that carries a request's id in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The id of the request being answered; an extension of every request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) HeaderValue);

impl RequestId {
    /// The id as text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The caller's id when it is sane, else a fresh one.
    fn of(headers: &HeaderMap) -> Self {
        headers
            .get(REQUEST_ID)
            .filter(|value| {
                (1..=128).contains(&value.len())
                    && value
                        .as_bytes()
                        .iter()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
            })
            .map_or_else(Self::fresh, |value| Self(value.clone()))
    }

    /// Unique within and across runs of the server, without being a secret.
    fn fresh() -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let text = format!("{:016x}-{:x}", *RUN, COUNT.fetch_add(1, Ordering::Relaxed));
        Self(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("-")))
    }
}

/// The layer itself.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let method = method_word(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let template = path.as_ref().map_or("unknown", MatchedPath::as_str);
    let (mut parts, body) = request.into_parts();
    let sandbox = sandbox_of(&mut parts).await;
    let span = span(&parts.headers, &id, method, template, sandbox.as_deref());

    let response = next.run(Request::from_parts(parts, body)).instrument(span.clone()).await;
    let mut response = match response.extensions().get::<Problem>().cloned() {
        Some(problem) => {
            span.in_scope(|| note(&problem));
            problem.write(response, id.as_str())
        }
        None => response,
    };

    let status = response.status();
    let elapsed = started.elapsed();
    span.record("status", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    span.in_scope(|| {
        #[allow(clippy::cast_precision_loss, reason = "requests do not last 2^52 microseconds")]
        let duration_ms = elapsed.as_micros() as f64 / 1000.0;
        tracing::debug!(duration_ms, "answered");
    });
    let template = template.to_owned();
    counter!("http_requests_total", "method" => method, "path" => template.clone(), "status" => status.as_u16().to_string())
        .increment(1);
    histogram!("http_request_duration_seconds", "method" => method, "path" => template)
        .record(elapsed.as_secs_f64());
    response.headers_mut().insert(REQUEST_ID, id.0);
    response
}

/// The sandbox of the path, as the caller named it, for the log.
async fn sandbox_of(parts: &mut Parts) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let (_, id) = params.iter().find(|(name, _)| *name == "id")?;
    // A name has up to 128 characters; what is longer is nobody's.
    Some(id.chars().take(128).collect())
}

fn span(
    headers: &HeaderMap,
    id: &RequestId,
    method: &'static str,
    template: &str,
    sandbox: Option<&str>,
) -> tracing::Span {
    let span = tracing::info_span!(
        "request",
        request_id = id.as_str(),
        method,
        path = template,
        sandbox_id = sandbox,
        trace_id = tracing::field::Empty,
        status = tracing::field::Empty,
        otel.name = format_args!("{method} {template}"),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
    );
    if let Some(parent) = headers.get(TRACEPARENT).and_then(parse_traceparent) {
        span.record("trace_id", tracing::field::display(parent.trace_id()));
        // Without an exporter there is no layer that could use it; the log has the trace id then.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    span
}

/// W3C Trace Context, version 00 and what later versions keep of it.
fn parse_traceparent(value: &HeaderValue) -> Option<SpanContext> {
    let text = value.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !(hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2))
        || version == "ff"
        || (version == "00" && parts.next().is_some())
    {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

fn note(problem: &Problem) {
    match problem.hidden() {
        Some(detail) => tracing::error!(detail, "internal error"),
        None => tracing::debug!(problem = %problem, "refused"),
    }
}

/// A bounded set of words: methods are free text of the client's.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// What a handler that panicked answers; the detail is for the log.
#[allow(clippy::needless_pass_by_value, reason = "the signature that the panic layer asks for")]
pub(crate) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Problem::from(Error::internal(format_args!("a handler panicked: {text}"))).into_response()
}

/// Tells the metrics recorder what the API's figures mean. Call once, after the recorder is installed.
pub fn describe_metrics() {
    describe_counter!("http_requests_total", "Requests answered, by method, path template and status.");
    describe_histogram!(
        "http_request_duration_seconds",
        metrics::Unit::Seconds,
        "Time until the head of the answer was ready."
    );
    describe_gauge!("sandboxes", "Sandboxes that have not ended, by state.");
    describe_gauge!("pool_ready", "Parts made beforehand and waiting, by kind.");
    describe_gauge!("teardowns_pending", "Removals that still go on in the background.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_taken_only_when_sane() {
        let id = |text: &'static [u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(text).expect("a header"));
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(id(b"abc-1.2:3_4"), "abc-1.2:3_4");
        for bad in [&b""[..], b"a b", b"<script>", b"\xff\xfe", &[b'a'; 129]] {
            assert_ne!(id(bad).as_bytes(), bad);
        }
        assert_ne!(RequestId::fresh().as_str(), RequestId::fresh().as_str());
    }

    #[test]
    fn traceparents_are_read_or_ignored() {
        let read = |text: &'static str| parse_traceparent(&HeaderValue::from_static(text));
        let good = read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").expect("valid");
        assert_eq!(good.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(good.is_sampled() && good.is_remote());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_and_keeps_its_words() {
        use tower::ServiceExt;
        let router: axum::Router = axum::Router::new()
            .route("/", axum::routing::get(|| async { panic!("the password is hunter2") as &str }))
            .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
            .layer(axum::middleware::from_fn(observe));
        let request = Request::builder().uri("/").body(axum::body::Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 500);
        assert!(response.headers().contains_key(REQUEST_ID));
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("\"internal\"") && !text.contains("hunter2"), "{text}");
    }
}
