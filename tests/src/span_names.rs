//! The spans that docs/observability.md lists, with their attributes: whatever is sent must stand there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::collector::{Span, Type};

const PAGE: &str = include_str!("../../docs/observability.md");

/// The sections that hold the two tables.
const SPANS: &str = "### Spans";
const ATTRIBUTES: &str = "### Attributes";

static LISTED: LazyLock<Listed> = LazyLock::new(|| Listed::of(PAGE));

/// What the page says.
struct Listed {
    /// By name: what a span is part of, and what may be told in it.
    spans: BTreeMap<&'static str, (BTreeSet<&'static str>, BTreeSet<&'static str>)>,
    /// What is explained, and what kind of value it is.
    attributes: BTreeMap<&'static str, Type>,
}

impl Listed {
    fn of(page: &'static str) -> Self {
        let mut spans = BTreeMap::new();
        for row in rows(page, SPANS) {
            let [names, parents, _, attributes] = row[..] else { panic!("a row of {SPANS}: {row:?}") };
            for name in quoted(names) {
                spans.insert(name, (quoted(parents), quoted(attributes)));
            }
        }
        let mut attributes = BTreeMap::new();
        for row in rows(page, ATTRIBUTES) {
            let [names, kind, _] = row[..] else { panic!("a row of {ATTRIBUTES}: {row:?}") };
            let kind = match kind {
                "text" => Type::Text,
                "number" => Type::Number,
                "true" => Type::Truth,
                other => panic!("a type of {ATTRIBUTES}: {other:?}"),
            };
            attributes.extend(quoted(names).into_iter().map(|name| (name, kind)));
        }
        Self { spans, attributes }
    }
}

/// The cells of the table of a section, row by row, its head left out.
fn rows(page: &'static str, section: &str) -> Vec<Vec<&'static str>> {
    let start = page.find(&format!("{section}\n")).unwrap_or_else(|| panic!("the page has no {section}"));
    let lines = page[start..].lines().skip(1).take_while(|line| !line.starts_with('#'));
    let table = lines.filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    table.skip(2).map(|line| line.split('|').map(str::trim).collect()).collect()
}

/// What stands between backquotes.
fn quoted(text: &'static str) -> BTreeSet<&'static str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Panics if the page does not list this span, one of its attributes, or the name of its parent.
pub fn check(span: &Span, parent: Option<&Span>) {
    let Some((parents, attributes)) = LISTED.spans.get(span.name.as_str()) else {
        panic!("docs/observability.md does not list the span {:?}", span.name);
    };
    for (name, kind) in &span.types {
        let listed = LISTED.attributes.get(name.as_str()).filter(|_| attributes.contains(name.as_str()));
        assert_eq!(
            listed,
            Some(kind),
            "what docs/observability.md says of the attribute {name:?} of the span {:?}",
            span.name
        );
    }
    if let Some(parent) = parent {
        assert!(
            parents.contains(parent.name.as_str()),
            "docs/observability.md does not say that {:?} is part of {:?}",
            span.name,
            parent.name
        );
    }
}
