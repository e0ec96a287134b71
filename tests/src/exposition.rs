//! A strict reader of the text format of OpenMetrics 1.0, as far as counters, gauges, histograms and infos go: what a
//! scraper might overlook is an error here.

use std::collections::{BTreeMap, BTreeSet};

/// Metrics as they were shown.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
    samples: BTreeMap<(String, Labels), f64>,
}

/// Labels of a sample, by name.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
struct Family {
    kind: String,
    help: String,
    unit: Option<String>,
}

/// What is known of a family before its first sample.
#[derive(Default)]
struct Head {
    name: String,
    kind: Option<String>,
    help: Option<String>,
    unit: Option<String>,
}

impl Exposition {
    /// Reads all of `text`, or says which line is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("the end is not `# EOF`")?;
        let (mut all, mut head) = (Self::default(), Head::default());
        for line in body.split_terminator('\n') {
            all.line(line, &mut head).map_err(|error| format!("{error}: {line:?}"))?;
        }
        all.end_family(&mut head)?;
        all.check_histograms()?;
        Ok(all)
    }

    fn line(&mut self, line: &str, head: &mut Head) -> Result<(), String> {
        let Some(rest) = line.strip_prefix("# ") else {
            let family = head.name.clone();
            self.end_family(head)?;
            // What follows belongs to the same family.
            head.name = family;
            return self.sample(line, &head.name);
        };
        let (word, rest) = rest.split_once(' ').ok_or("a comment without a name")?;
        let (name, value) = rest.split_once(' ').ok_or("nothing behind the name")?;
        if name != head.name {
            self.end_family(head)?;
            if self.families.contains_key(name) {
                return Err("the family was there before".to_owned());
            }
            *head = Head { name: name.to_owned(), ..Head::default() };
        }
        let slot = match word {
            "HELP" => &mut head.help,
            "TYPE" => &mut head.kind,
            "UNIT" => &mut head.unit,
            _ => return Err("an unknown comment".to_owned()),
        };
        match slot.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(format!("a second {word}")),
        }
    }

    /// Takes the family whose head is complete.
    fn end_family(&mut self, head: &mut Head) -> Result<(), String> {
        let Head { name, kind, help, unit } = std::mem::take(head);
        if name.is_empty() || self.families.contains_key(&name) {
            return Ok(());
        }
        let kind = kind.ok_or_else(|| format!("{name} has no TYPE"))?;
        let help = help
            .filter(|help| help.ends_with('.'))
            .ok_or_else(|| format!("{name} has no sentence of HELP"))?;
        if !["counter", "gauge", "histogram", "info"].contains(&&*kind) {
            return Err(format!("{name} is a {kind}"));
        }
        if unit.as_ref().is_some_and(|unit| !name.ends_with(&format!("_{unit}"))) {
            return Err(format!("{name} does not end with its unit"));
        }
        self.families.insert(name, Family { kind, help, unit });
        Ok(())
    }

    fn sample(&mut self, line: &str, family: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (Labels::new(), rest),
        };
        let value = value.strip_prefix(' ').ok_or("no space before the value")?;
        let value: f64 = value.parse().map_err(|_| "the value is no number")?;
        let known = self.families.get(family).ok_or("a sample before its family")?;
        let suffix = name.strip_prefix(family).ok_or("a sample of another family")?;
        let (allowed, whole): (&[&str], bool) = match known.kind.as_str() {
            "counter" => (&["_total"], true),
            "gauge" => (&[""], false),
            "info" => (&["_info"], true),
            _ => (&["_bucket", "_count", "_sum"], suffix != "_sum"),
        };
        if !allowed.contains(&suffix) {
            return Err(format!("not a name for a {}", known.kind));
        }
        if known.kind == "info" && value != 1.0 || whole && (value < 0.0 || value.fract() != 0.0) {
            return Err("the value is not a count".to_owned());
        }
        if !value.is_finite() {
            return Err("the value is not finite".to_owned());
        }
        match self.samples.insert((name.to_owned(), labels), value) {
            None => Ok(()),
            Some(_) => Err("the sample was there before".to_owned()),
        }
    }

    /// Buckets ascend, and the last one has all.
    fn check_histograms(&self) -> Result<(), String> {
        let mut buckets: BTreeMap<(&str, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), count) in &self.samples {
            let Some(family) = name.strip_suffix("_bucket") else { continue };
            let mut labels = labels.clone();
            let bound = labels.remove("le").ok_or_else(|| format!("{name} without le"))?;
            let bound = if bound == "+Inf" { Ok(f64::INFINITY) } else { bound.parse() };
            let bound = bound.map_err(|_| format!("{name}: le is no number"))?;
            buckets.entry((family, labels)).or_default().push((bound, *count));
        }
        for ((family, labels), mut buckets) in buckets {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            let ascends = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let count = self.samples.get(&(format!("{family}_count"), labels.clone()));
            let sum = self.samples.get(&(format!("{family}_sum"), labels));
            let last = buckets.last().filter(|last| last.0 == f64::INFINITY).map(|last| &last.1);
            if !ascends || last.is_none() || last != count || sum.is_none() {
                return Err(format!("{family}: {buckets:?}, count {count:?}, sum {sum:?}"));
            }
        }
        Ok(())
    }

    /// The sum of the samples called `name` that have all of `labels`. Fails the test if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values: Vec<f64> = self.matching(name, labels).map(|(_, value)| value).collect();
        assert!(!values.is_empty(), "no sample {name} with {labels:?} in {:#?}", self.samples);
        values.iter().sum()
    }

    /// The samples called `name` that have all of `labels`.
    pub fn matching<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = (&'a Labels, f64)> {
        let named = self.samples.iter().filter(move |((other, _), _)| other == name);
        let has =
            |of: &Labels| labels.iter().all(|(key, value)| of.get(*key).is_some_and(|other| other == value));
        named.filter(move |((_, of), _)| has(of)).map(|((_, of), value)| (of, *value))
    }

    /// The names of all families.
    pub fn families(&self) -> BTreeSet<&str> {
        self.families.keys().map(String::as_str).collect()
    }

    /// All names of labels that occur.
    pub fn label_names(&self) -> BTreeSet<&str> {
        self.samples.keys().flat_map(|(_, labels)| labels.keys().map(String::as_str)).collect()
    }

    /// What is said of a family: type, sentence, unit.
    pub fn about(&self, family: &str) -> Option<(&str, &str, Option<&str>)> {
        let family = self.families.get(family)?;
        Some((&family.kind, &family.help, family.unit.as_deref()))
    }
}

/// Reads labels up to the brace that ends them; also what follows.
fn labels(text: &str) -> Result<(Labels, &str), String> {
    let (mut labels, mut rest) = (Labels::new(), text);
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let (value, after) = quoted(after)?;
        if !is_name || labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("a bad or second label {name:?}"));
        }
        match after.split_at_checked(1) {
            Some(("}", after)) => return Ok((labels, after)),
            Some((",", after)) => rest = after,
            _ => return Err("no end of the labels".to_owned()),
        }
    }
}

/// Reads up to the quote that ends a value; also what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, other @ ('\\' | '"'))) => other,
                _ => return Err("a bad escape".to_owned()),
            }),
            other => value.push(other),
        }
    }
    Err("a value without an end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_bytes Sentence.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
        a_bytes_total{x=\"1 \\\"2\\\\\",y=\"\"} 3\na_bytes_total{x=\"4\"} 5\n\
        # HELP h Sentence.\n# TYPE h histogram\nh_sum 1.5\nh_count 2\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\n\
        # HELP empty Sentence.\n# TYPE empty gauge\n# EOF\n";

    #[test]
    fn good_text_is_read() {
        let read = Exposition::parse(GOOD).unwrap();
        assert_eq!(read.sum("a_bytes_total", &[]), 8.0);
        assert_eq!(read.sum("a_bytes_total", &[("x", "1 \"2\\")]), 3.0);
        assert_eq!(read.families().into_iter().collect::<Vec<_>>(), ["a_bytes", "empty", "h"]);
        assert_eq!(read.about("a_bytes"), Some(("counter", "Sentence.", Some("bytes"))));
    }

    #[test]
    fn each_fault_is_found() {
        for (from, to) in [
            ("# EOF\n", ""),
            ("# HELP a_bytes Sentence.\n", ""),
            ("# HELP a_bytes Sentence.\n", "# HELP a_bytes no sentence\n"),
            ("# TYPE a_bytes counter\n", ""),
            ("# TYPE a_bytes counter\n", "# TYPE a_bytes counter\n# TYPE a_bytes counter\n"),
            ("# UNIT a_bytes bytes\n", "# UNIT a_bytes seconds\n"),
            ("a_bytes_total{x=\"4\"}", "a_bytes{x=\"4\"}"),
            ("a_bytes_total{x=\"4\"}", "b_bytes_total{x=\"4\"}"),
            ("{x=\"4\"} 5", "{x=\"1 \\\"2\\\\\",y=\"\"} 5"),
            ("{x=\"4\"} 5", "{x=\"4\"} -5"),
            ("{x=\"4\"} 5", "{x=\"4\",x=\"4\"} 5"),
            ("{x=\"4\"} 5", "{x=\"4\"}5"),
            ("{x=\"4\"} 5", "{x=4} 5"),
            ("h_bucket{le=\"1.0\"} 1", "h_bucket{le=\"1.0\"} 3"),
            ("h_bucket{le=\"+Inf\"} 2\n", ""),
            ("h_count 2\n", "h_count 3\n"),
            ("h_sum 1.5\n", ""),
            ("# TYPE empty gauge\n", ""),
            (
                "# HELP empty Sentence.\n# TYPE empty gauge\n",
                "# HELP a_bytes Sentence.\n# TYPE a_bytes gauge\n",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            assert!(Exposition::parse(&GOOD.replacen(from, to, 1)).is_err(), "{from:?} as {to:?}");
        }
    }
}
