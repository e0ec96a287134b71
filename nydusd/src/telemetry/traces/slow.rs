//! Only slow traces leave the process.
//!
//! Spans wait until the first span of their trace has ended, which in this process is the last to end; then all of them
//! go on or none. Invariant: what waits is bounded in traces and spans, and whoever ends a span never waits.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{SpanId, Status, TraceId};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

/// The most traces that are collected at a time: readers that wait.
const MAX_TRACES: usize = 1024;
/// The most spans of one trace; what is beyond is counted in the first span.
const MAX_SPANS_OF_ONE: usize = 1024;
/// The most spans that wait, of all traces.
pub const MAX_SPANS: usize = 16 << 10;

/// The first span of traces that are never dropped, since those of reads refer to it.
const ALWAYS: &str = "mount";

/// What a read tells of its reader, in microseconds.
const WAITED_US: &str = "nydus.waited_us";

/// Hands on the spans of traces whose reader waited long or in vain.
#[derive(Debug)]
pub struct SlowTraces<P> {
    threshold: Duration,
    waiting: Mutex<Waiting>,
    next: P,
}

/// Spans whose traces have not ended.
#[derive(Debug, Default)]
struct Waiting {
    traces: HashMap<TraceId, Trace>,
    /// Of all traces.
    spans: usize,
    /// Counts traces, to tell the oldest.
    begun: u64,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<SpanData>,
    left_out: i64,
    number: u64,
}

impl Waiting {
    /// Keeps a span until its trace ends.
    fn keep(&mut self, span: SpanData) {
        let id = span.span_context.trace_id();
        if !self.traces.contains_key(&id) {
            if self.traces.len() >= MAX_TRACES {
                self.forget_oldest();
            }
            self.begun += 1;
            self.traces.insert(id, Trace { number: self.begun, ..Trace::default() });
        }
        if self.spans >= MAX_SPANS {
            self.forget_spans_of_oldest();
        }
        let trace = self.traces.entry(id).or_default();
        if trace.spans.len() < MAX_SPANS_OF_ONE {
            trace.spans.push(span);
            self.spans += 1;
        } else {
            trace.left_out += 1;
        }
    }

    /// A trace that has not ended for the longest time may be one that never will.
    fn forget_oldest(&mut self) {
        let oldest = self.traces.iter().min_by_key(|(_, trace)| trace.number).map(|(id, _)| *id);
        oldest.and_then(|oldest| self.take(oldest));
    }

    /// Makes room for spans: the oldest trace that has any gives them up, and will say so.
    fn forget_spans_of_oldest(&mut self) {
        let with_spans = self.traces.values_mut().filter(|trace| !trace.spans.is_empty());
        if let Some(oldest) = with_spans.min_by_key(|trace| trace.number) {
            // With the room they took.
            let spans = std::mem::take(&mut oldest.spans);
            self.spans -= spans.len();
            oldest.left_out += spans.len() as i64;
        }
    }

    fn take(&mut self, id: TraceId) -> Option<Trace> {
        let trace = self.traces.remove(&id)?;
        self.spans -= trace.spans.len();
        Some(trace)
    }
}

/// How long somebody waited: as the read tells, since its trace may go on without its reader, else how long it took.
fn waited(first: &SpanData) -> Duration {
    let told = first.attributes.iter().find(|attribute| attribute.key.as_str() == WAITED_US);
    match told.map(|attribute| &attribute.value) {
        Some(Value::I64(micros)) => Duration::from_micros(u64::try_from(*micros).unwrap_or_default()),
        _ => first.end_time.duration_since(first.start_time).unwrap_or_default(),
    }
}

impl<P> SlowTraces<P> {
    /// Traces whose reader waited `threshold` or longer go on to `next`.
    pub fn new(threshold: Duration, next: P) -> Self {
        Self { threshold, waiting: Mutex::default(), next }
    }
}

impl<P: SpanProcessor> SpanProcessor for SlowTraces<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.next.on_start(span, context);
    }

    fn on_end(&self, mut span: SpanData) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if span.parent_span_id != SpanId::INVALID {
            return waiting.keep(span);
        }
        let Trace { spans, left_out, .. } = waiting.take(span.span_context.trace_id()).unwrap_or_default();
        drop(waiting);
        if waited(&span) < self.threshold
            && span.name != ALWAYS
            && !matches!(span.status, Status::Error { .. })
        {
            return;
        }
        if left_out > 0 {
            span.attributes.push(KeyValue::new("nydus.spans_left_out", left_out));
        }
        for span in spans {
            self.next.on_end(span);
        }
        self.next.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.next.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.next.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::{
        Span as _, SpanBuilder, TraceContextExt as _, Tracer as _, TracerProvider as _,
    };
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SimpleSpanProcessor};

    use super::*;

    /// Names of what goes on when a first span of this name takes `took`, with `children` parts.
    fn sent(
        name: &'static str,
        took: Duration,
        children: usize,
        status: Status,
    ) -> (Vec<String>, Vec<KeyValue>) {
        sent_of(SpanBuilder::from_name(name), took, children, status)
    }

    fn sent_of(
        first: SpanBuilder,
        took: Duration,
        children: usize,
        status: Status,
    ) -> (Vec<String>, Vec<KeyValue>) {
        let exporter = InMemorySpanExporter::default();
        let next = SimpleSpanProcessor::new(exporter.clone());
        let processor = SlowTraces::new(Duration::from_millis(100), next);
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let tracer = provider.tracer("test");
        let start = std::time::UNIX_EPOCH;
        let mut root = first.with_start_time(start).start(&tracer);
        root.set_status(status);
        let context = Context::new().with_span(root);
        for _ in 0..children {
            tracer.start_with_context("part", &context).end();
        }
        context.span().end_with_timestamp(start + took);
        let spans = exporter.get_finished_spans().unwrap();
        let last = spans.last().map(|span| span.attributes.clone()).unwrap_or_default();
        (spans.into_iter().map(|span| span.name.into_owned()).collect(), last)
    }

    #[test]
    fn fast_traces_are_dropped_whole_and_slow_ones_go_on_whole() {
        let (fast, slow) = (Duration::from_millis(99), Duration::from_millis(100));
        assert!(sent("read", fast, 2, Status::Unset).0.is_empty());
        assert_eq!(sent("read", slow, 2, Status::Unset).0, ["part", "part", "read"]);
        assert_eq!(sent("read", fast, 1, Status::error("no")).0, ["part", "read"]);
        assert_eq!(sent("mount", fast, 0, Status::Unset).0, ["mount"]);
    }

    #[test]
    fn what_counts_is_how_long_the_reader_waited() {
        for (waited_us, names) in [(99_999, vec![]), (100_000, vec!["part".to_owned(), "read".to_owned()])] {
            let first =
                SpanBuilder::from_name("read").with_attributes([KeyValue::new(WAITED_US, waited_us as i64)]);
            assert_eq!(sent_of(first, Duration::from_secs(1), 1, Status::Unset).0, names);
        }
    }

    #[test]
    fn a_trace_of_too_many_spans_says_how_many_were_left_out() {
        let (names, attributes) = sent("read", Duration::from_secs(1), MAX_SPANS_OF_ONE + 3, Status::Unset);
        assert_eq!(names.len(), MAX_SPANS_OF_ONE + 1);
        assert_eq!(attributes, [KeyValue::new("nydus.spans_left_out", 3_i64)]);
    }

    #[test]
    fn a_trace_that_gave_its_spans_up_for_others_says_so() {
        let exporter = InMemorySpanExporter::default();
        let next = SimpleSpanProcessor::new(exporter.clone());
        let processor = SlowTraces::new(Duration::ZERO, next);
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let tracer = provider.tracer("test");
        let begin = |parts: usize| {
            let context = Context::new().with_span(tracer.start_with_context("read", &Context::new()));
            (0..parts).for_each(|_| tracer.start_with_context("part", &context).end());
            context
        };
        let oldest = begin(10);
        let _others: Vec<Context> = (0..=MAX_SPANS / 1000).map(|_| begin(1000)).collect();
        oldest.span().end();
        let sent = exporter.get_finished_spans().unwrap();
        let [read] = &sent[..] else { panic!("{} spans", sent.len()) };
        assert_eq!(read.attributes, [KeyValue::new("nydus.spans_left_out", 10_i64)]);
    }

    #[test]
    fn traces_that_never_end_make_room_for_those_that_do() {
        let exporter = InMemorySpanExporter::default();
        let next = SimpleSpanProcessor::new(exporter.clone());
        let processor = Arc::new(SlowTraces::new(Duration::ZERO, next));
        let provider = SdkTracerProvider::builder().with_span_processor(Shared(processor.clone())).build();
        let tracer = provider.tracer("test");
        let begin = || Context::new().with_span(tracer.start_with_context("read", &Context::new()));
        let part = |context: &Context| tracer.start_with_context("part", context).end();
        // More traces, and more spans in them, than are kept.
        let endless: Vec<Context> = (0..MAX_TRACES + 100).map(|_| begin()).collect();
        for _ in 0..2 * MAX_SPANS / MAX_TRACES {
            endless.iter().for_each(part);
        }
        let waiting = processor.waiting.lock().unwrap();
        assert!(waiting.spans <= MAX_SPANS && waiting.traces.len() <= MAX_TRACES, "{waiting:?}");
        assert_eq!(waiting.spans, waiting.traces.values().map(|trace| trace.spans.len()).sum::<usize>());
        drop(waiting);
        let ends = begin();
        part(&ends);
        ends.span().end();
        let sent = exporter.get_finished_spans().unwrap();
        let names: Vec<&str> = sent.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["part", "read"]);
    }

    /// A processor that the test looks into.
    #[derive(Debug)]
    struct Shared<P>(Arc<SlowTraces<P>>);

    impl<P: SpanProcessor> SpanProcessor for Shared<P> {
        fn on_start(&self, span: &mut Span, context: &Context) {
            self.0.on_start(span, context);
        }

        fn on_end(&self, span: SpanData) {
            self.0.on_end(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            self.0.force_flush()
        }

        fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
            self.0.shutdown_with_timeout(timeout)
        }
    }
}
