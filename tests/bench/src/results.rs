//! The results of one or more runs: kept as JSON, shown as tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::sample::{Case, Chapter, OverLink, Sample, Spread, Subject};

/// Between these, the tables of a document are ours.
const MARKERS: [(Chapter, &str, &str); 2] = [
    (Chapter::Local, "<!-- nydus-bench begin -->", "<!-- nydus-bench end -->"),
    (Chapter::Links, "<!-- nydus-bench links begin -->", "<!-- nydus-bench links end -->"),
];

/// Everything that was measured on one machine.
#[derive(Debug, Deserialize, Serialize)]
pub struct Results {
    /// Where and when, of the last run.
    pub machine: Machine,
    /// What.
    pub samples: Vec<Sample>,
}

impl Results {
    /// Puts `samples` in the place of what was measured of the same corpora and cases.
    pub fn replace(&mut self, samples: Vec<Sample>) {
        let new: BTreeSet<_> = samples.iter().map(|sample| (sample.corpus.clone(), sample.case)).collect();
        self.samples.retain(|sample| !new.contains(&(sample.corpus.clone(), sample.case)));
        self.samples.extend(samples);
    }

    /// Reads a file of results; `None` if there is none.
    pub fn load(file: &Path) -> Result<Option<Self>> {
        match fs::read(file) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| file.display().to_string()),
        }
    }

    /// Writes them.
    pub fn save(&self, file: &Path) -> Result<()> {
        fs::write(file, serde_json::to_vec_pretty(self)?).with_context(|| file.display().to_string())
    }

    /// One number of all samples of a case and subject.
    fn spread(
        &self,
        corpus: &str,
        case: Case,
        subject: Subject,
        number: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<Spread> {
        let samples = self.samples.iter();
        let samples = samples.filter(|s| s.corpus == corpus && s.case == case && s.subject == subject);
        Spread::of(samples.filter_map(number))
    }

    /// What a case is compared with, inside one run.
    fn baseline(&self, corpus: &str, case: Case) -> Option<(Subject, f64)> {
        let subject = match case {
            Case::Build => Subject::OursOneThread,
            Case::Find | Case::ReadWarm | Case::WarmStart => Subject::Unpacked,
            Case::ReadCold | Case::LinkParallel | Case::ColdStart => Subject::Peer,
        };
        Some((subject, self.spread(corpus, case, subject, |s| Some(s.seconds))?.median))
    }

    /// The tables of a chapter, in Markdown; `None` if nothing of it was measured.
    pub fn tables(&self, chapter: Chapter) -> Option<String> {
        let samples = self.samples.iter().filter(|s| s.case.chapter() == chapter);
        let corpora: BTreeSet<_> = samples.map(|s| s.corpus.as_str()).collect();
        if corpora.is_empty() {
            return None;
        }
        let mut text = format!(
            "{}: Linux {}, {} cores ({}), {} GiB, {}.\n",
            self.machine.date,
            self.machine.kernel,
            self.machine.cores,
            self.machine.processor,
            self.machine.memory_gib,
            self.machine.file_system,
        );
        for corpus in corpora {
            if chapter == Chapter::Links {
                self.link_table(&mut text, corpus);
            }
            self.table(&mut text, corpus, chapter);
        }
        Some(text)
    }

    /// What was measured on this machine alone.
    fn table(&self, text: &mut String, corpus: &str, chapter: Chapter) {
        let samples = self.samples.iter().filter(|s| s.corpus == corpus && s.link.is_none());
        let samples = samples.filter(|s| s.case.chapter() == chapter);
        let keys: BTreeSet<_> = samples.map(|s| (s.case, s.subject)).collect();
        if keys.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\n| {corpus} | | seconds: median (min–max) | ratio | CPU s | peak MiB |\n|---|---|--:|--:|--:|--:|\n"
        );
        for (case, subject) in keys {
            let spread = |number: fn(&Sample) -> Option<f64>| self.spread(corpus, case, subject, number);
            let Some(seconds) = spread(|s| Some(s.seconds)) else { continue };
            let ratio = self.baseline(corpus, case).map(|(_, baseline)| seconds.median / baseline);
            let _ = writeln!(
                text,
                "| {} | {} | {seconds} | {} | {} | {} |",
                case_name(case),
                subject_name(case, subject, &self.machine.file_system),
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                cpu_seconds(spread(|s| s.cpu_seconds)),
                peak_mib(spread(|s| s.memory_kib.map(|kib| kib as f64))),
            );
        }
    }

    /// What was measured over links.
    fn link_table(&self, text: &mut String, corpus: &str) {
        let mut groups: BTreeMap<_, Vec<(&Sample, &OverLink)>> = BTreeMap::new();
        for sample in self.samples.iter().filter(|s| s.corpus == corpus) {
            if let Some(link) = &sample.link {
                let key = (sample.case, link.mbit, link.rtt_ms, sample.subject);
                groups.entry(key).or_default().push((sample, link));
            }
        }
        if groups.is_empty() {
            return;
        }
        let _ = write!(
            text,
            "\n| {corpus}, blobs behind a link | | seconds: median (min–max) | ratio | requests | MB | connections \
             | CPU s | peak MiB |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n"
        );
        for (&(case, mbit, rtt_ms, subject), samples) in &groups {
            let spread = |number: fn(&(&Sample, &OverLink)) -> Option<f64>| {
                Spread::of(samples.iter().filter_map(number))
            };
            let Some(seconds) = spread(|(s, _)| Some(s.seconds)) else { continue };
            let peer = groups.get(&(case, mbit, rtt_ms, Subject::Peer));
            let peer = peer.and_then(|samples| Spread::of(samples.iter().map(|(s, _)| s.seconds)));
            let median = |number| spread(number).map_or(0.0, |spread: Spread| spread.median);
            let to_bound = spread(|(s, link)| Some(s.seconds / link.bound_seconds?));
            let ratio = to_bound.map(|ratio| ratio.to_string());
            let ratio = ratio.or_else(|| Some(format!("{:.2}", seconds.median / peer?.median)));
            let _ = writeln!(
                text,
                "| {}, {mbit} Mbit/s, RTT {rtt_ms} ms | {} | {seconds} | {} | {:.0} | {:.1} | {:.0} | {} | {} |",
                case_name(case),
                subject_name(case, subject, &self.machine.file_system),
                ratio.unwrap_or_default(),
                median(|(_, link)| Some(link.requests as f64)),
                median(|(_, link)| Some(link.bytes as f64 / 1e6)),
                median(|(_, link)| Some(link.connections as f64)),
                cpu_seconds(spread(|(s, _)| s.cpu_seconds)),
                peak_mib(spread(|(s, _)| s.memory_kib.map(|kib| kib as f64))),
            );
        }
    }

    /// Replaces what lies between the markers of each chapter in `file` by its tables. A chapter of which nothing was measured
    /// stays as it is.
    pub fn update(&self, file: &Path) -> Result<()> {
        let mut text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        for (chapter, begin, end) in MARKERS {
            let Some(tables) = self.tables(chapter) else { continue };
            let around = text.split_once(begin).and_then(|(before, rest)| {
                rest.split_once(end).map(|(_, after)| (before.to_owned(), after.to_owned()))
            });
            let Some((before, after)) = around else {
                bail!("{}: no lines {begin} and {end}", file.display());
            };
            text = format!("{before}{begin}\n{tables}{end}{after}");
        }
        fs::write(file, text).with_context(|| file.display().to_string())
    }
}

fn cpu_seconds(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |spread| format!("{:.2}", spread.median))
}

fn peak_mib(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |spread| format!("{:.0}", spread.max / 1024.0))
}

fn case_name(case: Case) -> &'static str {
    match case {
        Case::Build => "build, v6 zstd",
        Case::Find => "`find -ls`",
        Case::ReadWarm => "read all, cache warm",
        Case::ReadCold => "read all, cache cold",
        Case::LinkParallel => "8 readers, cache cold",
        Case::ColdStart => "import, cache cold",
        Case::WarmStart => "import, cache warm",
    }
}

fn subject_name(case: Case, subject: Subject, file_system: &str) -> String {
    match (case, subject) {
        (Case::Build, Subject::Ours) => "all cores".into(),
        (Case::Build, Subject::OursOneThread) => "one thread".into(),
        (Case::Build, _) => "peer".into(),
        (_, Subject::Unpacked) => format!("unpacked, {file_system}"),
        (_, Subject::Erofs) => "kernel EROFS".into(),
        (_, Subject::Peer) => "peer, FUSE".into(),
        (_, _) => "FUSE".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let machine = Machine {
            date: "2026-01-02".into(),
            kernel: "6.18".into(),
            cores: 2,
            processor: "abacus".into(),
            memory_gib: 23,
            file_system: "ext4".into(),
        };
        let sample = |case, subject, seconds| Sample {
            corpus: "small".into(),
            case,
            subject,
            seconds,
            cpu_seconds: (subject == Subject::Ours).then_some(0.5),
            memory_kib: (subject == Subject::Ours).then_some(20 << 10),
            link: None,
        };
        let find = |subject, seconds| sample(Case::Find, subject, seconds);
        let samples = vec![
            find(Subject::Unpacked, 2.0),
            find(Subject::Ours, 1.0),
            find(Subject::Ours, 1.4),
            find(Subject::Ours, 1.1),
            sample(Case::ReadWarm, Subject::Ours, 9.0),
        ];
        Results { machine, samples }
    }

    #[test]
    fn a_table_compares_medians() {
        let text = results().tables(Chapter::Local).unwrap();
        assert!(text.contains("| `find -ls` | FUSE | 1.10 (1.00–1.40) | 0.55 | 0.50 | 20 |"), "{text}");
        assert!(text.contains("| `find -ls` | unpacked, ext4 | 2.00 (2.00–2.00) | 1.00 |  |  |"), "{text}");
        assert!(text.contains("| read all, cache warm | FUSE | 9.00 (9.00–9.00) |  | 0.50 | 20 |"), "{text}");
    }

    #[test]
    fn samples_over_links_have_a_table_of_their_own() {
        let mut results = results();
        let mut sample = results.samples[1].clone();
        sample.case = Case::LinkParallel;
        for (rtt_ms, seconds) in [(20, 3.0), (20, 2.0), (5, 1.0)] {
            let (connections, requests, bytes) = (2, 10, 1_500_000);
            let link = OverLink { rtt_ms, mbit: 50, connections, requests, bytes, bound_seconds: Some(2.0) };
            results.samples.push(Sample { seconds, link: Some(link), ..sample.clone() });
        }
        sample.case = Case::ColdStart;
        for (subject, seconds) in [(Subject::Ours, 3.0), (Subject::Peer, 4.0)] {
            let link =
                OverLink { rtt_ms: 0, mbit: 200, connections: 1, requests: 9, bytes: 0, bound_seconds: None };
            results.samples.push(Sample { subject, seconds, link: Some(link), ..sample.clone() });
        }
        let text = results.tables(Chapter::Links).unwrap();
        assert!(text.contains("RTT 0 ms | FUSE | 3.00 (3.00–3.00) | 0.75 | 9 |"), "{text}");
        let row = "| 8 readers, cache cold, 50 Mbit/s, RTT 20 ms | FUSE | 2.50 (2.00–3.00) | 1.25 (1.00–1.50) | 10 | 1.5 \
                   | 2 | 0.50 | 20 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("RTT 5 ms | FUSE | 1.00 (1.00–1.00) | 0.50 (0.50–0.50) |"), "{text}");
        assert_eq!(text.matches("| 8 readers").count(), 2, "{text}");
    }

    #[test]
    fn a_run_replaces_only_what_it_measured() {
        let mut results = results();
        let new = Sample { seconds: 0.25, ..results.samples[1].clone() };
        results.replace(vec![new]);
        let seconds: Vec<f64> = results.samples.iter().map(|sample| sample.seconds).collect();
        assert_eq!(seconds, [9.0, 0.25]);
    }

    #[test]
    fn a_document_keeps_what_is_outside_the_markers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "no markers").unwrap();
        assert!(results().update(file.path()).is_err());
        let [(_, begin, end), (_, links_begin, links_end)] = MARKERS;
        let links = format!("{links_begin}\nof another run\n{links_end}\nafter\n");
        fs::write(file.path(), format!("before\n{begin}\nold\n{end}\nbetween\n{links}")).unwrap();
        results().update(file.path()).unwrap();
        let once = fs::read_to_string(file.path()).unwrap();
        results().update(file.path()).unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), once);
        assert!(once.starts_with("before\n<!--") && !once.contains("old"), "{once}");
        assert!(once.ends_with(&format!("-->\nbetween\n{links}")), "{once}");
    }
}
