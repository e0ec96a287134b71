//! Keeps the spans of a test: a subscriber in place of the daemon's, which sends them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage::trace::TARGET;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Subscriber, span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// A span that was told.
#[derive(Clone, Debug)]
pub struct Told {
    id: u64,
    parent: Option<u64>,
    pub name: String,
    pub fields: BTreeMap<&'static str, String>,
    pub began: Instant,
    /// When it was last left, as the bridge to OpenTelemetry takes it.
    pub left: Option<Instant>,
    pub is_closed: bool,
}

impl Told {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    fn end(&self) -> Instant {
        self.left.unwrap_or(self.began)
    }
}

/// All spans that were told so far, in the order they began.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Told>>>);

impl Recorder {
    /// Keeps the spans of this thread until the guard is dropped.
    pub fn start() -> (Self, DefaultGuard) {
        let recorder = Self::default();
        let ours = Targets::new().with_target(TARGET, tracing::Level::TRACE);
        let subscriber = tracing_subscriber::registry().with(recorder.clone().with_filter(ours));
        (recorder, tracing::subscriber::set_default(subscriber))
    }

    pub fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    pub fn named(&self, name: &str) -> Vec<Told> {
        self.all().into_iter().filter(|span| span.name == name).collect()
    }

    pub fn children(&self, parent: &Told) -> Vec<Told> {
        self.all().into_iter().filter(|span| span.parent == Some(parent.id)).collect()
    }

    /// Panics unless all spans are closed, each lies in its parent, and the parts of `read` cover it but for `gaps`.
    pub fn check(&self, read: &Told, gaps: Duration) {
        for span in self.all() {
            assert!(span.is_closed, "{span:?} is still open");
            for part in self.children(&span) {
                assert!(part.began >= span.began && part.end() <= span.end(), "{part:?} is not in {span:?}");
            }
        }
        let mut reached = read.began;
        let mut uncovered = Duration::ZERO;
        let mut parts = self.children(read);
        parts.sort_by_key(|part| part.began);
        for part in parts {
            uncovered += part.began.saturating_duration_since(reached);
            reached = reached.max(part.end());
        }
        uncovered += read.end().saturating_duration_since(reached);
        assert!(uncovered <= gaps, "{uncovered:?} of {read:?} are not covered: {:?}", self.children(read));
    }

    fn with(&self, id: &Id, change: impl FnOnce(&mut Told)) {
        let mut all = self.0.lock().unwrap();
        if let Some(told) = all.iter_mut().rev().find(|told| told.id == id.into_u64() && !told.is_closed) {
            change(told);
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let contextual = || context.current_span().id().cloned().filter(|_| attributes.is_contextual());
        let parent = attributes.parent().cloned().or_else(contextual);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.0.lock().unwrap().push(Told {
            id: id.into_u64(),
            parent: parent.map(|id| id.into_u64()),
            name: attributes.metadata().name().to_owned(),
            fields: fields.0,
            began: Instant::now(),
            left: None,
            is_closed: false,
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.with(id, |told| told.fields.extend(fields.0));
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        self.with(id, |told| told.left = Some(Instant::now()));
    }

    fn on_close(&self, id: span::Id, _: Context<'_, S>) {
        self.with(&id, |told| {
            told.left.get_or_insert_with(Instant::now);
            told.is_closed = true;
        });
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
