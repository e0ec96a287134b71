//! Spans as a tree: what lies in what, and how much of it is told.

use std::time::Duration;

use nydus_tests::collector::Span;

/// How much of a wait its parts must cover.
const ENOUGH: f64 = 0.95;
/// What may be missing in any case: between two parts a thread is woken, which takes its time on a busy machine. The parts
/// that a test knows of are longer.
const WAKING: Duration = Duration::from_millis(100);

/// All spans that came to a collector.
pub struct Tree(pub Vec<Span>);

impl Tree {
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    pub fn children(&self, parent: &Span) -> Vec<&Span> {
        self.0.iter().filter(|span| span.trace == parent.trace && span.parent == parent.id).collect()
    }

    /// Panics unless every span of the trace lies in its parent, which is there.
    pub fn assert_nested(&self, root: &Span) {
        assert!(root.parent.is_empty(), "{root:?}");
        for span in self.0.iter().filter(|span| span.trace == root.trace && !span.parent.is_empty()) {
            let parent = self.0.iter().find(|parent| parent.trace == span.trace && parent.id == span.parent);
            let parent = parent.unwrap_or_else(|| panic!("the parent of {span:?} did not come"));
            let is_inside = span.time.0 >= parent.time.0 && span.time.1 <= parent.time.1;
            assert!(is_inside, "{span:?} is not inside {parent:?}");
        }
    }

    /// Panics unless the parts of `whole` together cover it, and what its reader waited.
    pub fn assert_covered(&self, whole: &Span) {
        let parts = self.children(whole);
        let mut times = vec![whole.time];
        if let Some(waited) = whole.attributes.get("nydus.waited_us") {
            let waited: u64 = waited.parse().unwrap();
            // By another clock, which may be set meanwhile.
            assert!(waited <= took(whole).as_micros() as u64 + 1000, "{whole:?}");
            times.push((whole.time.0, whole.time.0 + waited * 1000));
        }
        for time in times {
            let share = covered(time, &parts);
            let told: Vec<_> = parts.iter().map(|part| (part.name.as_str(), took(part))).collect();
            println!(
                "{share:.4} of the {:.1} ms of a {} are told",
                (time.1 - time.0) as f64 / 1e6,
                whole.name
            );
            let untold = Duration::from_nanos(time.1 - time.0).mul_f64(1.0 - share);
            let is_enough = share >= ENOUGH || untold <= WAKING;
            assert!(is_enough, "{told:?} cover {share:.3} of {:?} of {whole:?}", time.1 - time.0);
        }
    }
}

/// How long a span lasted.
pub fn took(span: &Span) -> Duration {
    Duration::from_nanos(span.time.1 - span.time.0)
}

/// How much of `whole` the spans cover together, from 0 to 1.
fn covered(whole: (u64, u64), parts: &[&Span]) -> f64 {
    let mut times: Vec<(u64, u64)> = parts.iter().map(|span| span.time).collect();
    times.sort_unstable();
    let (mut sum, mut reached) = (0, whole.0);
    for (from, to) in times {
        let (from, to) = (from.max(reached), to.min(whole.1));
        sum += to.saturating_sub(from);
        reached = reached.max(to);
    }
    sum as f64 / (whole.1 - whole.0) as f64
}
