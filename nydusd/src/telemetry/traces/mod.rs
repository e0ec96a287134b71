//! Traces of slow reads, sent to a collector by OTLP over HTTP (docs/observability.md).
//!
//! ```text
//!   spans of target "trace" ──▶ bridge to OpenTelemetry ──▶ slow: whole traces, or nothing ──▶ batches ──▶ collector
//! ```
//!
//! Invariant: a collector that is slow or gone costs spans, never a read. Without an address nothing of this exists.

mod settings;
mod slow;

use std::time::Duration;

use anyhow::{Context as _, Result};
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

pub use settings::Settings;
use slow::SlowTraces;

/// How long the last spans may take to leave at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The traces of this process. Dropping it sends what is left, for five seconds at most.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts what sends traces. Nothing is sent before there is a slow one, so a collector may come later.
    pub fn start(settings: &Settings) -> Result<Self> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&settings.address)
            .with_timeout(settings.timeout)
            .with_headers(settings.headers.clone())
            .build()
            .context("cannot make a client of the trace collector")?;
        let attributes =
            settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let batches = BatchConfigBuilder::default().with_max_queue_size(slow::MAX_SPANS).build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let processor = SlowTraces::new(settings.threshold, batches);
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder_empty().with_attributes(attributes).build())
            .with_span_processor(processor)
            .build();
        storage::trace::set_propagator(traceparent);
        Ok(Self(provider))
    }

    /// The layer that turns spans of [`storage::trace::TARGET`] into those of OpenTelemetry.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("nydusd"))
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            // Nobody here asks OpenTelemetry which span is the current one.
            .with_context_activation(false)
            .with_filter(Targets::new().with_target(storage::trace::TARGET, tracing::Level::TRACE))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let _ = self.0.shutdown_with_timeout(FLUSH_LIMIT);
    }
}

/// Refers to a span of another trace.
#[derive(Clone, Debug)]
pub struct TraceLink(SpanContext);

impl TraceLink {
    /// The span that is entered on this thread.
    pub fn current() -> Self {
        Self(Span::current().context().span().span_context().clone())
    }

    /// Makes `span` refer to it. Nothing happens if one of them is not traced.
    pub fn attach(&self, span: &Span) {
        if self.0.is_valid() && !span.is_disabled() {
            span.add_link(self.0.clone());
        }
    }
}

/// The header of the span that is entered on this thread.
fn traceparent() -> Option<String> {
    let mut headers = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
    headers.remove("traceparent")
}
