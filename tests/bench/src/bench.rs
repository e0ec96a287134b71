//! The rounds: one corpus, all cases, all subjects in turn.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cli::Args;
use crate::corpus::Corpus;
use crate::image::Image;
use crate::link::Shape;
use crate::mount::{Blobs, Mount};
use crate::page_cache;
use crate::program::Programs;
use crate::sample::{Case, Sample, Subject};
use crate::workload::{self, Seen};

/// One corpus being measured.
pub struct Bench<'a> {
    pub(crate) args: &'a Args,
    ours: &'a Programs,
    pub(crate) corpus: Corpus,
    /// Where images, caches and mountpoints of this corpus are.
    pub(crate) work: PathBuf,
    pub(crate) image: Image,
    /// What every mount must show.
    pub(crate) expected: (Seen, blake3::Hash),
    /// Who takes part in listing and reading.
    readers: Vec<Subject>,
    samples: Vec<Sample>,
}

impl<'a> Bench<'a> {
    /// Gets everything ready: the tree, our image of it, and cache directories filled by reading all of it once.
    pub fn prepare(args: &'a Args, ours: &'a Programs, name: &str) -> Result<Self> {
        let corpus = Corpus::prepare(name, &args.corpus_dir)?;
        let work = args.corpus_dir.join("work").join(&corpus.name);
        let image = Image { directory: work.join("image") };
        if !args.keep && work.exists() {
            fs::remove_dir_all(&work)?;
        }
        if !image.bootstrap().exists() {
            image.build(&ours.nydus_image, &corpus.path, None)?;
        }
        let expected = workload::digest(&corpus.path)?;
        let mut bench =
            Self { args, ours, corpus, work, image, expected, readers: Vec::new(), samples: Vec::new() };
        if args.cases.iter().any(|case| *case != Case::Build) {
            bench.fill()?;
        }
        Ok(bench)
    }

    /// Fills the cache directories, and finds out who can take part. Every mount is read and compared once.
    fn fill(&mut self) -> Result<()> {
        let mut readers = vec![Subject::Unpacked, Subject::Ours];
        if self.args.peer_nydusd.is_some() {
            readers.push(Subject::Peer);
        }
        for subject in &readers[1..] {
            if !self.work.join(format!("{subject:?}.filled")).exists() {
                self.check(*subject)?;
                fs::write(self.work.join(format!("{subject:?}.filled")), "")?;
            }
        }
        match self.check(Subject::Erofs) {
            Ok(()) => readers.push(Subject::Erofs),
            Err(error) => eprintln!("without EROFS: {error:#}"),
        }
        self.readers = readers;
        Ok(())
    }

    fn check(&self, subject: Subject) -> Result<()> {
        let mount = self.mount(subject, Case::ReadWarm)?;
        let found = workload::digest(&mount.root)?;
        ensure!(
            found == self.expected,
            "{subject:?} shows another tree: {found:?}, expected {:?}",
            self.expected
        );
        mount.end()
    }

    /// Measures everything, and leaves nothing behind unless told to.
    pub fn run(mut self) -> Result<Vec<Sample>> {
        for case in self.args.cases.clone() {
            let subjects = self.subjects(case);
            for round in 0..self.args.rounds as usize {
                for turn in 0..subjects.len() {
                    // Each round begins with another subject, so that none always follows the same one.
                    let (subject, shape) = subjects[(turn + round) % subjects.len()];
                    let sample = match (case, shape) {
                        (Case::Build, _) => self.build(subject),
                        (Case::LinkParallel, Some(shape)) => self.read_parts(subject, shape),
                        (Case::ColdStart | Case::WarmStart, shape) => self.start(subject, case, shape),
                        _ => self.look(subject, case),
                    };
                    let sample =
                        sample.with_context(|| format!("{}, {case:?}, {subject:?}", self.corpus.name))?;
                    eprintln!(
                        "{} {case:?} {round} {subject:?}: {:.3} s, CPU {:.2} s, {} KiB",
                        sample.corpus,
                        sample.seconds,
                        sample.cpu_seconds.unwrap_or_default(),
                        sample.memory_kib.unwrap_or_default(),
                    );
                    if let Some(link) = &sample.link {
                        eprintln!("  {link:?}");
                    }
                    self.samples.push(sample);
                }
            }
        }
        if !self.args.keep {
            fs::remove_dir_all(&self.work)?;
        }
        Ok(self.samples)
    }

    /// Who takes part, and over which links.
    fn subjects(&self, case: Case) -> Vec<(Subject, Option<Shape>)> {
        let peer = self.args.peer_nydus_image.is_some();
        let daemons = self.readers.iter().filter(|subject| [Subject::Ours, Subject::Peer].contains(subject));
        let subjects = match case {
            Case::Build => [Subject::OursOneThread, Subject::Ours]
                .into_iter()
                .chain(peer.then_some(Subject::Peer))
                .collect(),
            Case::Find | Case::ReadWarm => self.readers.clone(),
            Case::ReadCold => daemons.copied().collect(),
            Case::LinkParallel | Case::ColdStart => {
                let shapes = self.args.shapes(case).into_iter();
                return shapes
                    .flat_map(|shape| daemons.clone().map(move |daemon| (*daemon, Some(shape))))
                    .collect();
            }
            Case::WarmStart => daemons.copied().chain([Subject::Unpacked]).collect(),
        };
        subjects.into_iter().map(|subject| (subject, None)).collect()
    }

    /// Builds the image with a page cache that holds the tree: how fast the disk reads is not asked here.
    fn build(&self, subject: Subject) -> Result<Sample> {
        let (program, threads) = match (subject, &self.args.peer_nydus_image) {
            (Subject::Peer, Some(peer)) => (peer, None),
            (Subject::OursOneThread, _) => (&self.ours.nydus_image, Some(1)),
            _ => (&self.ours.nydus_image, None),
        };
        workload::read(&self.corpus.path, &mut |_| ())?;
        let image = Image { directory: self.work.join("built") };
        let (elapsed, usage) = image.build(program, &self.corpus.path, threads)?;
        Ok(Sample {
            corpus: self.corpus.name.clone(),
            case: Case::Build,
            subject,
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: Some(usage.cpu.as_secs_f64()),
            memory_kib: Some(usage.memory_kib),
            link: None,
        })
    }

    /// Lists or reads a fresh mount.
    fn look(&self, subject: Subject, case: Case) -> Result<Sample> {
        let mount = self.mount(subject, case)?;
        if !self.args.keep_page_cache {
            page_cache::drop_all()?;
            page_cache::claim_memory();
        }
        let before = mount.usage()?;
        let start = Instant::now();
        if case == Case::Find {
            workload::find(&mount.root)?;
        } else {
            let seen = workload::read(&mount.root, &mut |_| ())?;
            ensure!(seen == self.expected.0, "{seen:?} were read, expected {:?}", self.expected.0);
        }
        let elapsed = start.elapsed();
        let after = mount.usage()?;
        mount.end()?;
        Ok(Sample {
            corpus: self.corpus.name.clone(),
            case,
            subject,
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: before.zip(after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64()),
            memory_kib: after.map(|usage| usage.memory_kib),
            link: None,
        })
    }

    fn mount(&self, subject: Subject, case: Case) -> Result<Mount> {
        self.mount_from(subject, case, &Blobs::Local)
    }

    pub(crate) fn mount_from(&self, subject: Subject, case: Case, blobs: &Blobs) -> Result<Mount> {
        let root = self.work.join("mnt");
        let filled = |subject: Subject| self.work.join(format!("{subject:?}.cache"));
        let program = match (subject, &self.args.peer_nydusd) {
            (Subject::Unpacked, _) => return Ok(Mount::unpacked(&self.corpus.path)),
            (Subject::Erofs, _) => return Mount::erofs(&self.image, &filled(Subject::Ours), &root),
            (Subject::Peer, Some(peer)) => peer,
            _ => &self.ours.nydusd,
        };
        let cache = match case {
            Case::ReadCold | Case::LinkParallel | Case::ColdStart => {
                let cold = self.work.join("cold.cache");
                if cold.exists() {
                    fs::remove_dir_all(&cold)?;
                }
                cold
            }
            _ => filled(subject),
        };
        Mount::fuse(program, &self.image, blobs, &cache, &root, &self.work.join("daemon.log"))
    }
}
