//! Logs, traces and metrics of this process.

use crate::failure::{Failure, Outcome};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use std::{io::IsTerminal, time::Duration};
use tokio_util::context::TokioContext;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// Upper bounds in seconds: sandboxes start in milliseconds, execs may take minutes.
const SECONDS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    1800.0,
];
/// How often histograms are folded and idle ones dropped, also when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Keeps the exporter of traces; [`Telemetry::shutdown`] sends what is left.
#[derive(Debug)]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logging to standard error (for people on a terminal, as JSON lines otherwise) and, with an endpoint,
    /// sending traces there. Must be called inside of the runtime.
    ///
    /// # Errors
    /// When the filter or the endpoint makes no sense.
    pub(crate) fn install(log: &str, otlp_endpoint: Option<&str>) -> Outcome<Self> {
        let filter = EnvFilter::try_new(log).map_err(|error| {
            Failure::hinted(format_args!("LOG: {log:?}: {error}"), "use `info`, or `warn,isopod_node=debug`")
        })?;
        let terminal = std::io::stderr().is_terminal();
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines: Box<dyn Layer<Registry> + Send + Sync> = if terminal {
            lines.with_target(false).boxed()
        } else {
            lines.json().flatten_event(true).with_span_list(false).boxed()
        };
        let traces = otlp_endpoint.map(trace_provider).transpose()?;
        let spans = traces.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("isopod"))
                // What exporting itself does must not be exported again.
                .with_filter(EnvFilter::new("info,hyper=off,h2=off,opentelemetry=off,reqwest=off,tower=off"))
        });
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(spans)
            .try_init()
            .map_err(Failure::new)?;
        Ok(Self { traces })
    }

    /// Sends the traces that are still waiting; takes at most some seconds.
    pub(crate) async fn shutdown(self) {
        let Some(traces) = self.traces else { return };
        // The exporter needs the runtime to go on while this waits.
        let ended = tokio::task::spawn_blocking(move || traces.shutdown()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "some traces could not be sent");
        }
    }
}

fn trace_provider(endpoint: &str) -> Outcome<SdkTracerProvider> {
    // The environment variable names the collector; the path of the traces is added as its specification says.
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter =
        opentelemetry_otlp::SpanExporter::builder().with_http().with_endpoint(url).build().map_err(
            |error| Failure::new(format_args!("OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint:?}: {error}")),
        )?;
    let exporter = OnRuntime { exporter, runtime: tokio::runtime::Handle::current() };
    let resource = Resource::builder()
        .with_attributes([opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))])
        .with_service_name("isopod")
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Exports on our runtime: the batch processor has a thread of its own, where the HTTP client would find none.
#[derive(Debug)]
struct OnRuntime<E> {
    exporter: E,
    runtime: tokio::runtime::Handle,
}

impl<E: SpanExporter> SpanExporter for OnRuntime<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        TokioContext::new(self.exporter.export(batch), self.runtime.clone()).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Starts counting: every room counts with the `metrics` macros, the API shows it under `/metrics`.
///
/// # Errors
/// When this process counts already.
pub(crate) fn install_metrics() -> Outcome<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(Failure::new)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
