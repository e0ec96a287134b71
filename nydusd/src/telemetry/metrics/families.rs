//! Every metric of `GET /metrics`: its name, a sentence that explains it, and where its numbers are.
//!
//! Invariants: no label has values without a bound, such as the ids of blobs; no value holds a secret; a family that is here
//! is in docs/observability.md, and the other way round (a test compares them).

use std::fmt;
use std::time::{Duration, Instant};

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use storage::backend::measured::Ending;
use storage::http::{EndpointStatus, TryOutcome};
use storage::metrics::{Counter, Distribution};
use storage::policy::breaker::Phase;

use super::{Mount, Sources, WaitEnding};
use crate::version;

/// Stands before every name.
pub(super) const PREFIX: &str = "nydusd";

/// Metrics of one name.
pub(super) struct Family {
    name: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    pub(super) help: &'static str,
    samples: Samples,
}

/// Where the numbers of a family are.
#[derive(Clone, Copy)]
enum Samples {
    /// Once.
    Process(fn(&Sources, &mut Labelled<'_, '_>) -> fmt::Result),
    /// For each mounted image.
    Mount(fn(&Mount, &mut Labelled<'_, '_>) -> fmt::Result),
    /// For each endpoint of the backend of each mounted image.
    Endpoint(fn(&EndpointStatus, &mut Labelled<'_, '_>) -> fmt::Result),
}
use Samples::{Endpoint as OfEndpoint, Mount as OfMount, Process as OfProcess};

const COUNTER: MetricType = MetricType::Counter;
const GAUGE: MetricType = MetricType::Gauge;
const HISTOGRAM: MetricType = MetricType::Histogram;
const NO_UNIT: Option<Unit> = None;
const BYTES: Option<Unit> = Some(Unit::Bytes);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

/// All of them, in the order in which they are shown.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "build",
        unit: NO_UNIT,
        kind: MetricType::Info,
        help: "The version and the commit that the daemon was built from.",
        samples: OfProcess(|_, to| {
            to.info(&[("version", version::PACKAGE), ("commit", version::GIT_COMMIT)])
        }),
    },
    Family {
        name: "token_fetches",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "How often token services were asked for a token, by what came of it; a healthy daemon asks once per token life.",
        samples: OfProcess(|sources, to| {
            let fetches = sources.token_fetches;
            to.counter(&[("result", "given")], fetches.given)?;
            to.counter(&[("result", "denied")], fetches.denied)?;
            to.counter(&[("result", "failed")], fetches.failed)
        }),
    },
    Family {
        name: "requests_in_flight",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Requests for blobs under way, of all mounts together.",
        samples: OfProcess(|sources, to| to.gauge(&[], sources.load.requests as f64)),
    },
    Family {
        name: "requests_in_flight",
        unit: BYTES,
        kind: GAUGE,
        help: "Bytes that the requests under way will bring, of all mounts together.",
        samples: OfProcess(|sources, to| to.gauge(&[], sources.load.bytes as f64)),
    },
    Family {
        name: "requests_waiting",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Requests for blobs that wait until the process has fewer under way, of readers (on_demand) and of prefetch.",
        samples: OfProcess(|sources, to| {
            to.gauge(&[("priority", "on_demand")], sources.load.waiting_on_demand as f64)?;
            to.gauge(&[("priority", "prefetch")], sources.load.waiting_prefetch as f64)
        }),
    },
    // What containers see.
    Family {
        name: "reads_ready",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "READs of the kernel that were answered at once, because all their data was in the cache.",
        samples: OfMount(|mount, to| to.counter(&[], mount.operations.ready())),
    },
    Family {
        name: "reads_waited",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "READs that waited for data and have ended, by how: with data, at their deadline (timed_out), with another error (failed), or because the reader went away (interrupted).",
        samples: OfMount(|mount, to| {
            let endings = WaitEnding::ALL.into_iter();
            endings
                .map(|ending| (ending.name(), mount.reads.ended(ending)))
                .try_for_each(to.counted("result"))
        }),
    },
    Family {
        name: "reads_waiting",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "READs that wait for data now.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.reads.waiting().0 as f64)),
    },
    Family {
        name: "read_oldest_wait",
        unit: SECONDS,
        kind: GAUGE,
        help: "How long the oldest READ that waits now has waited; 0 if none does. It never exceeds the read deadline.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.reads.waiting().1.as_secs_f64())),
    },
    Family {
        name: "read_wait",
        unit: SECONDS,
        kind: HISTOGRAM,
        help: "How long READs waited whose data was not all in the cache, from the request to the answer.",
        samples: OfMount(|mount, to| to.histogram(&mount.reads.wait_micros(), 1e6)),
    },
    Family {
        name: "served",
        unit: BYTES,
        kind: COUNTER,
        help: "Bytes of files handed to readers, from the local copy (cache), from chunks held in memory (memory) or from what was just fetched (fetch); backend_read_bytes over their sum is the amplification.",
        samples: OfMount(|mount, to| {
            let cache = mount.cache.metrics();
            to.counter(&[("source", "cache")], cache.bytes_from_cache.get())?;
            to.counter(&[("source", "memory")], cache.bytes_from_memory.get())?;
            to.counter(&[("source", "fetch")], cache.bytes_from_fetch.get())
        }),
    },
    // The cache.
    Family {
        name: "chunks_fetched",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Chunks that were fetched, decoded and found right.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().chunks_fetched.get())),
    },
    Family {
        name: "chunks_cached",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Chunks that were written to the local copy.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().chunks_cached.get())),
    },
    Family {
        name: "chunk_mismatches",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Times that fetched bytes were not what digest, checksum or codec promise; they were neither shown nor cached.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().digest_mismatches.get())),
    },
    Family {
        name: "chunk_refetches",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Second fetches after a mismatch.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().refetches.get())),
    },
    Family {
        name: "cached_chunks_checked",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Chunks found in the local copy that were checked at their first use: accepted, or rejected and fetched again.",
        samples: OfMount(|mount, to| {
            let cache = mount.cache.metrics();
            to.counter(&[("result", "accepted")], cache.cache_chunks_accepted.get())?;
            to.counter(&[("result", "rejected")], cache.cache_chunks_rejected.get())
        }),
    },
    Family {
        name: "cache_errors",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Failed reads, writes and syncs of the local copy, such as on a full disk; readers get their data all the same.",
        samples: OfMount(|mount, to| {
            let cache = mount.cache.metrics();
            to.counter(&[("operation", "read")], cache.cache_read_errors.get())?;
            to.counter(&[("operation", "write")], cache.cache_write_errors.get())?;
            to.counter(&[("operation", "sync")], cache.cache_sync_errors.get())
        }),
    },
    Family {
        name: "cache_timeouts",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Reads of blobs that ended at their deadline without all their data.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().timeouts.get())),
    },
    Family {
        name: "cache_foreign_waits",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Times that a chunk was waited for which another process fetches into the same directory.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().foreign_waits.get())),
    },
    Family {
        name: "cache_metadata_requests",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Reads sent to the backend for chunk tables and digests of chunks.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().metadata_requests.get())),
    },
    Family {
        name: "memory_limit",
        unit: BYTES,
        kind: GAUGE,
        help: "The memory budget of data in flight.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.cache.memory_use().limit_bytes as f64)),
    },
    Family {
        name: "memory_used",
        unit: BYTES,
        kind: GAUGE,
        help: "Bytes in flight: what of the memory budget is held by data that is being fetched, decoded or written.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.cache.memory_use().used_bytes as f64)),
    },
    Family {
        name: "memory_waiting",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Fetches in the queue for a share of the memory budget.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.cache.memory_use().waiting as f64)),
    },
    Family {
        name: "memory_cache_hits",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Pieces of chunks that were found in memory, where no file keeps them: without a cache directory.",
        samples: OfMount(|mount, to| to.counter(&[], mount.cache.metrics().memory_hits.get())),
    },
    Family {
        name: "memory_cache_limit",
        unit: BYTES,
        kind: GAUGE,
        help: "The most that chunks may take which are held in memory because no file keeps them.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.cache.memory_cache_use().limit_bytes as f64)),
    },
    Family {
        name: "memory_cache_used",
        unit: BYTES,
        kind: GAUGE,
        help: "Bytes of the chunks that are held in memory because no file keeps them, with what it costs to keep account of them.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.cache.memory_cache_use().used_bytes as f64)),
    },
    // The backend as a whole.
    Family {
        name: "backend_reads",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Range reads of the backend that have ended, retries included, by how: success, or the kind of error.",
        samples: OfMount(|mount, to| endings(&mount.backend.metrics().reads, to)),
    },
    Family {
        name: "backend_sizes",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Questions to the backend for the size of a blob, by how they ended.",
        samples: OfMount(|mount, to| endings(&mount.backend.metrics().sizes, to)),
    },
    Family {
        name: "backend_reads_in_flight",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Range reads of the backend under way, those that wait for a try included.",
        samples: OfMount(|mount, to| to.gauge(&[], mount.backend.metrics().in_flight.get() as f64)),
    },
    Family {
        name: "backend_read",
        unit: BYTES,
        kind: COUNTER,
        help: "Bytes that successful range reads of the backend brought: chunks as stored, chunk tables and digests.",
        samples: OfMount(|mount, to| to.counter(&[], mount.backend.metrics().bytes.get())),
    },
    Family {
        name: "backend_read_duration",
        unit: SECONDS,
        kind: HISTOGRAM,
        help: "How long range reads of the backend took, retries and waits for an endpoint included.",
        samples: OfMount(|mount, to| {
            to.histogram(&mount.backend.metrics().latency_micros.distribution(), 1e6)
        }),
    },
    Family {
        name: "backend_read_length",
        unit: BYTES,
        kind: HISTOGRAM,
        help: "How many bytes range reads of the backend asked for.",
        samples: OfMount(|mount, to| to.histogram(&mount.backend.metrics().lengths.distribution(), 1.0)),
    },
    // Each endpoint of an HTTP backend.
    Family {
        name: "endpoint_breaker_state",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "1 for the state that the endpoint's circuit breaker is in, else 0: closed (used), suspect (failed too often, a trial will tell), open (left alone), half_open (left alone but for a trial under way).",
        samples: OfEndpoint(|endpoint, to| {
            Phase::ALL.into_iter().try_for_each(|phase| {
                let is_in_it = phase == endpoint.health.phase;
                to.gauge(&[("state", phase.name())], f64::from(u8::from(is_in_it)))
            })
        }),
    },
    Family {
        name: "endpoint_breaker_openings",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "How often the endpoint's circuit breaker has opened.",
        samples: OfEndpoint(|endpoint, to| to.counter(&[], endpoint.health.openings)),
    },
    Family {
        name: "endpoint_breaker_open",
        unit: SECONDS,
        kind: GAUGE,
        help: "How long the endpoint has been left alone; 0 while its breaker is not open.",
        samples: OfEndpoint(|endpoint, to| {
            let open = endpoint.health.open_since.map(|since| since.elapsed());
            to.gauge(&[], open.unwrap_or_default().as_secs_f64())
        }),
    },
    Family {
        name: "endpoint_paused",
        unit: SECONDS,
        kind: GAUGE,
        help: "For how much longer the endpoint gets no requests because it asked for that (Retry-After) or is throttled at one request at a time; else 0.",
        samples: OfEndpoint(|endpoint, to| {
            let until = endpoint.health.paused_until;
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            to.gauge(&[], left.as_secs_f64())
        }),
    },
    Family {
        name: "endpoint_ping_answered",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "1 if the endpoint's last health check was answered or it has none; 0 while it is not, and others are preferred.",
        samples: OfEndpoint(|endpoint, to| to.gauge(&[], f64::from(u8::from(endpoint.health.pings)))),
    },
    Family {
        name: "endpoint_usable",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "0 while others are preferred since the endpoint could not be used at all (no such host, a certificate that is not trusted); else 1.",
        samples: OfEndpoint(|endpoint, to| to.gauge(&[], f64::from(u8::from(endpoint.health.usable)))),
    },
    Family {
        name: "endpoint_tries_in_flight",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Tries under way at the endpoint.",
        samples: OfEndpoint(|endpoint, to| to.gauge(&[], endpoint.health.in_flight.into())),
    },
    Family {
        name: "endpoint_tries_limit",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Tries that the endpoint is sent at once; it falls when the endpoint says that it is too much (429).",
        samples: OfEndpoint(|endpoint, to| to.gauge(&[], endpoint.health.limit.into())),
    },
    Family {
        name: "endpoint_tries_waiting",
        unit: NO_UNIT,
        kind: GAUGE,
        help: "Reads in the queue at the endpoint because it has as many tries as it may have.",
        samples: OfEndpoint(|endpoint, to| to.gauge(&[], endpoint.health.waiting.into())),
    },
    Family {
        name: "endpoint_tries",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Tries that have ended, by outcome; a try is one request of a read with the redirects and proofs that it leads to. Throttles are the outcome throttled.",
        samples: OfEndpoint(|endpoint, to| {
            let outcomes = TryOutcome::ALL.into_iter().zip(endpoint.tries);
            outcomes.map(|(outcome, count)| (outcome.name(), count)).try_for_each(to.counted("outcome"))
        }),
    },
    Family {
        name: "endpoint_retries",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Tries sent to the endpoint after one of the same read had failed, there or at another endpoint.",
        samples: OfEndpoint(|endpoint, to| to.counter(&[], endpoint.retries)),
    },
    Family {
        name: "endpoint_hedges",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "Tries sent to the endpoint while one of the same read, elsewhere or earlier, had said nothing yet.",
        samples: OfEndpoint(|endpoint, to| to.counter(&[], endpoint.hedges)),
    },
    Family {
        name: "endpoint_http_requests",
        unit: NO_UNIT,
        kind: COUNTER,
        help: "HTTP requests that went to the endpoint or where it led to, health checks included; requests to token services are not.",
        samples: OfEndpoint(|endpoint, to| to.counter(&[], endpoint.requests)),
    },
    Family {
        name: "endpoint_received",
        unit: BYTES,
        kind: COUNTER,
        help: "Bytes of bodies that came from the endpoint, those of failed tries and of errors included.",
        samples: OfEndpoint(|endpoint, to| to.counter(&[], endpoint.received_bytes)),
    },
];

fn endings(counters: &[Counter; Ending::ALL.len()], to: &mut Labelled<'_, '_>) -> fmt::Result {
    let endings = Ending::ALL.into_iter().zip(counters);
    endings.map(|(ending, counter)| (ending.name(), counter.get())).try_for_each(to.counted("result"))
}

impl Family {
    /// The name with prefix, unit, and what the type appends: as its samples have it, but for those of a histogram.
    #[cfg(test)]
    pub(super) fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{PREFIX}_{}{unit}{suffix}", self.name)
    }

    /// Its type.
    #[cfg(test)]
    pub(super) fn kind(&self) -> &str {
        self.kind.as_str()
    }

    pub(super) fn encode(&self, sources: &Sources, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), self.kind)?;
        let metric = &mut metric;
        match self.samples {
            Samples::Process(samples) => samples(sources, &mut Labelled { metric, labels: Vec::new() }),
            Samples::Mount(samples) => sources.mounts.iter().try_for_each(|mount| {
                let labels = vec![("mountpoint", mount.mountpoint.as_str())];
                samples(mount, &mut Labelled { metric, labels })
            }),
            Samples::Endpoint(samples) => sources.mounts.iter().try_for_each(|mount| {
                mount.endpoints.iter().try_for_each(|endpoint| {
                    let (mountpoint, role) = (mount.mountpoint.as_str(), endpoint.role.name());
                    let labels =
                        vec![("mountpoint", mountpoint), ("endpoint", &*endpoint.name), ("role", role)];
                    samples(endpoint, &mut Labelled { metric, labels })
                })
            }),
        }
    }
}

/// Writes samples of one family, all with some labels.
struct Labelled<'a, 'b> {
    metric: &'a mut MetricEncoder<'b>,
    labels: Vec<(&'static str, &'a str)>,
}

impl Labelled<'_, '_> {
    fn counter(&mut self, labels: &[(&'static str, &str)], value: u64) -> fmt::Result {
        let labels = [&self.labels, labels].concat();
        self.metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Writes pairs of a label's value and a number.
    fn counted<'v>(&mut self, label: &'static str) -> impl FnMut((&'v str, u64)) -> fmt::Result {
        move |(value, number)| self.counter(&[(label, value)], number)
    }

    fn gauge(&mut self, labels: &[(&'static str, &str)], value: f64) -> fmt::Result {
        let labels = [&self.labels, labels].concat();
        if labels.is_empty() {
            return self.metric.encode_gauge(&value);
        }
        self.metric.encode_family(&labels)?.encode_gauge(&value)
    }

    fn info(&mut self, labels: &[(&'static str, &str)]) -> fmt::Result {
        self.metric.encode_info(&labels)
    }

    /// `scale`: what a unit of the metric is in units of the distribution.
    fn histogram(&mut self, of: &Distribution, scale: f64) -> fmt::Result {
        let bounded = of.buckets.iter().map(|(bound, count)| (*bound as f64 / scale, *count));
        let buckets: Vec<_> = bounded.chain([(f64::INFINITY, of.above)]).collect();
        self.metric.encode_family(&self.labels)?.encode_histogram::<NoLabelSet>(
            of.sum as f64 / scale,
            of.count(),
            &buckets,
            None,
        )
    }
}
