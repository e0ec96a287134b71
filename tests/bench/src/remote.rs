//! The rounds of blobs behind a link.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};

use crate::bench::Bench;
use crate::link::{Link, Shape};
use crate::mount::{Blobs, Mount, Overlay};
use crate::need;
use crate::page_cache;
use crate::sample::{Case, OverLink, Sample, Subject};
use crate::server::BlobServer;
use crate::workload::{self, Seen};

/// Readers of a tree at once.
const READERS: u64 = 8;
/// Round trips that nobody can do without: connecting, the chunk table, the first chunk.
const ROUND_TRIPS: u32 = 3;
/// What a container does when it starts.
const IMPORT: &str = "import numpy, pandas";
/// Its search path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A server and the link to it.
struct Far {
    shape: Shape,
    link: Link,
    _server: BlobServer,
}

impl Far {
    fn new(blobs: &Path, shape: Shape) -> Result<Self> {
        let server = BlobServer::new(blobs)?;
        Ok(Self { shape, link: Link::new(shape, server.addr())?, _server: server })
    }

    fn blobs(&self) -> Blobs {
        Blobs::Registry(self.link.addr())
    }
}

impl Bench<'_> {
    /// Reads all files, each by one of several readers.
    pub(crate) fn read_parts(&self, subject: Subject, shape: Shape) -> Result<Sample> {
        let far = Far::new(&self.image.blobs(), shape)?;
        let mount = self.mount_from(subject, Case::LinkParallel, &far.blobs())?;
        let files = workload::list(&mount.root)?;
        let parts = workload::parts(&files, READERS);
        self.forget()?;
        let mut sample = self.measure(subject, Case::LinkParallel, &mount, Some(&far), || {
            let seen: Result<Vec<Seen>> = thread::scope(|scope| {
                let readers: Vec<_> =
                    parts.iter().map(|part| scope.spawn(|| workload::read_files(part))).collect();
                readers
                    .into_iter()
                    .map(|reader| reader.join().map_err(|_| anyhow!("a reader died"))?)
                    .collect()
            });
            let seen: Seen = seen?.into_iter().sum();
            ensure!(seen == self.expected.0, "{seen:?} were read, expected {:?}", self.expected.0);
            Ok(())
        })?;
        mount.end()?;
        if let Some(link) = &mut sample.link {
            let bound = shape.time(need::stored_bytes(&self.image)?) + shape.rtt * ROUND_TRIPS;
            link.bound_seconds = Some(bound.as_secs_f64());
        }
        Ok(sample)
    }

    /// Runs a container of the tree until it has imported its libraries.
    pub(crate) fn start(&self, subject: Subject, case: Case, shape: Option<Shape>) -> Result<Sample> {
        let far = shape.map(|shape| Far::new(&self.image.blobs(), shape)).transpose()?;
        let blobs = far.as_ref().map_or(Blobs::Local, Far::blobs);
        let mount = self.mount_from(subject, case, &blobs)?;
        let container = Overlay::new(&mount.root, &self.work.join("container"))?;
        self.forget()?;
        let sample = self.measure(subject, case, &mount, far.as_ref(), || import(&container.root))?;
        container.end()?;
        mount.end()?;
        Ok(sample)
    }

    fn forget(&self) -> Result<()> {
        if !self.args.keep_page_cache {
            page_cache::drop_all()?;
            page_cache::claim_memory();
        }
        Ok(())
    }

    fn measure(
        &self,
        subject: Subject,
        case: Case,
        mount: &Mount,
        far: Option<&Far>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Sample> {
        let before = mount.usage()?;
        let start = Instant::now();
        work()?;
        let elapsed = start.elapsed();
        let after = mount.usage()?;
        let link = far.map(|far| {
            let (shape, traffic) = (far.shape, far.link.traffic());
            OverLink {
                rtt_ms: shape.rtt.as_millis() as u64,
                mbit: shape.bits_per_second / 1_000_000,
                connections: traffic.connections,
                requests: traffic.requests,
                bytes: traffic.bytes,
                bound_seconds: None,
            }
        });
        Ok(Sample {
            corpus: self.corpus.name.clone(),
            case,
            subject,
            seconds: elapsed.as_secs_f64(),
            cpu_seconds: before.zip(after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64()),
            memory_kib: after.map(|usage| usage.memory_kib),
            link,
        })
    }
}

fn import(root: &Path) -> Result<()> {
    let mut command = Command::new("chroot");
    command.arg(root).args(["/usr/bin/python3", "-c", IMPORT]).env_clear().env("PATH", PATH);
    let output = command.stdin(Stdio::null()).output().context("chroot")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
