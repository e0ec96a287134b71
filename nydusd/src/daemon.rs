//! The life of the daemon: mount, serve, unmount.
//!
//! Invariant: whatever ends it — a signal, the API, an unmount from outside, an error while starting — nothing stays
//! mounted and the cache is made durable, within a bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use blobcache::Executor;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use storage::backend::Backend as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::{self, ConfigSource, FuseArgs};
use crate::control::{self, Listener, Setting, State};
use crate::limits;
use crate::memory;
use crate::mounts::{self, Image};
use crate::telemetry::logs::{Level, Logs};
use crate::telemetry::metrics;
use crate::transport::fuse::{FuseMount, FuseOptions, clear_dead_mounts};
use crate::version;
use nydus_config::{Config, Parsed};

/// How long the cache may take to become durable at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);
/// Where the image is mounted, in the tree of the API.
const ROOT: &str = "/";

/// Mounts what `args` say through FUSE and serves it until somebody ends it.
///
/// `config` is what [`load_config`] gave; if it failed, this is where it is reported.
pub fn run_fuse(args: &FuseArgs, config: Result<Parsed>, logs: Arc<Logs>, runtime: &Runtime) -> Result<()> {
    info!("Program Version: {}, Git Commit: {}", version::PACKAGE, version::GIT_COMMIT);
    limits::raise_nofile(args.global.rlimit_nofile);
    let Some(bootstrap) = args.bootstrap() else {
        bail!("--bootstrap FILE is needed: mounting through the API is not supported yet");
    };
    if let Some(list) = args.prefetch_files() {
        let files = cli::prefetch_list(list)?;
        info!("{} files to prefetch are noted; prefetching is not supported yet", files.len());
    }
    // Signals first: one that comes while the image is opened must not leave a mount behind.
    let mut ends = Ends::new(runtime)?;
    let daemon = Arc::new(Daemon::new(logs));
    let listener = match &args.global.apisock {
        Some(path) => {
            // Before the socket is replaced: it is what shows that a dead mount is that of the same command line before us.
            if runtime.block_on(control::is_stale(path))? {
                clear_dead_mounts(args.mountpoint())?;
            }
            Some(runtime.block_on(Listener::bind(path))?)
        }
        None => None,
    };
    let mut config = match (config?, args.config()) {
        (parsed, Some(ConfigSource::File(path))) => parsed.log_warnings(&path.display().to_string()),
        (parsed, _) => parsed.config,
    };
    config.apply_environment()?;
    let executor = Executor::new(runtime.handle().clone());
    let image = Arc::new(Image::open(&config, bootstrap, args.bootstrap_digest(), &executor)?);
    let options = FuseOptions {
        threads: args.fuse_threads(),
        allow_other: args.allow_other().unwrap_or_else(|| geteuid().is_root()),
    };
    let filesystem = image.filesystem.clone();
    // What is answered at once needs no memory.
    let reads = filesystem.reads();
    runtime.spawn(memory::trim_when_idle(move || reads.waited()));
    let mut mount = FuseMount::start(args.mountpoint(), filesystem, &options, runtime.handle().clone())?;
    info!("Rafs filesystem mounted at /");
    daemon.mounted(image.clone(), mount.inflight());
    info!("Fuse daemon started!");

    let served = runtime.block_on(async {
        let api = listener.map(|listener| {
            info!("HTTP API server running at {}", listener.path().display());
            tokio::spawn(listener.serve(daemon.clone(), daemon.ended()))
        });
        let reason = tokio::select! {
            reason = ends.next() => reason,
            () = daemon.ended() => "the API asked for it",
            () = mount.ended() => "the filesystem was unmounted",
        };
        info!("ending: {reason}");
        daemon.end();
        if let Some(api) = api
            && let Err(e) = api.await.context("the API server died")?
        {
            warn!("the API server failed: {e}");
        }
        anyhow::Ok(())
    });
    let unmounted = mount.unmount();
    if let Err(e) = runtime.block_on(image.cache.shutdown(Instant::now() + FLUSH_LIMIT)) {
        warn!("the cache was not made durable: {e}");
    }
    info!("nydusd quits");
    served.and(unmounted)
}

/// Reads the configuration that `args` name. Nothing is logged yet.
pub fn load_config(args: &FuseArgs) -> Result<Parsed> {
    match args.config() {
        Some(ConfigSource::File(path)) => Ok(Config::load(path)?),
        Some(ConfigSource::LocalfsDir(directory)) => {
            Ok(Parsed { config: Config::for_localfs_dir(directory), warnings: Vec::new() })
        }
        None => bail!("--config FILE or --localfs-dir DIR is needed"),
    }
}

/// The signals that end the daemon.
struct Ends {
    signals: [(Signal, &'static str); 3],
}

impl Ends {
    fn new(runtime: &Runtime) -> Result<Self> {
        let _context = runtime.enter();
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            signals: [
                (listen(SignalKind::terminate())?, "SIGTERM"),
                (listen(SignalKind::interrupt())?, "SIGINT"),
                (listen(SignalKind::hangup())?, "SIGHUP"),
            ],
        })
    }

    async fn next(&mut self) -> &'static str {
        let [(term, a), (int, b), (hup, c)] = &mut self.signals;
        tokio::select! {
            _ = term.recv() => a,
            _ = int.recv() => b,
            _ = hup.recv() => c,
        }
    }
}

/// Tells which requests are being served.
type InflightRequests = Box<dyn Fn() -> Vec<metrics::Inflight> + Send + Sync>;

/// What the administration sees.
struct Daemon {
    logs: Arc<Logs>,
    image: Mutex<Option<Arc<Image>>>,
    inflight: Mutex<Option<InflightRequests>>,
    /// Keys that were set at run time, by mountpoint.
    settings: Mutex<BTreeMap<String, BTreeSet<&'static str>>>,
    end: watch::Sender<bool>,
}

impl Daemon {
    fn new(logs: Arc<Logs>) -> Self {
        Self {
            logs,
            image: Mutex::default(),
            inflight: Mutex::default(),
            settings: Mutex::default(),
            end: watch::Sender::new(false),
        }
    }

    fn mounted(
        &self,
        image: Arc<Image>,
        inflight: impl Fn() -> Vec<metrics::Inflight> + Send + Sync + 'static,
    ) {
        *self.inflight.lock().unwrap_or_else(|e| e.into_inner()) = Some(Box::new(inflight));
        *self.image.lock().unwrap_or_else(|e| e.into_inner()) = Some(image);
    }

    fn image(&self) -> Option<Arc<Image>> {
        self.image.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The image that is mounted at `mountpoint`, or anywhere.
    fn image_at(&self, mountpoint: Option<&str>) -> Option<Arc<Image>> {
        self.image().filter(|_| mountpoint.is_none_or(|mountpoint| mountpoint == ROOT))
    }

    fn end(&self) {
        self.end.send_replace(true);
    }

    /// Resolves when the daemon is to end.
    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut end = self.end.subscribe();
        async move {
            // An error means that the daemon is gone: also an end.
            let _ = end.wait_for(|ended| *ended).await;
        }
    }
}

impl control::Daemon for Daemon {
    fn state(&self) -> State {
        match (*self.end.borrow(), self.image()) {
            (true, _) => State::Stopped,
            (false, Some(_)) => State::Running,
            (false, None) => State::Init,
        }
    }

    fn mounts(&self) -> Vec<control::Mount> {
        self.image()
            .map(|image| control::Mount {
                mountpoint: ROOT.into(),
                mounted: image.since,
                config: image.config.clone(),
            })
            .into_iter()
            .collect()
    }

    fn set_log_level(&self, level: Level) {
        self.logs.set_level(level);
    }

    fn request_exit(&self) {
        self.end();
    }

    fn blobcache_metrics(&self, id: Option<&str>) -> Option<Value> {
        let image = self.image()?;
        if id.is_some_and(|id| Some(id) != image.config["id"].as_str()) {
            return None;
        }
        let blobs = image.filesystem.bootstrap().blobs().iter().map(|blob| blob.id.clone());
        let work_dir = &image.config["cache"]["filecache"]["work_dir"];
        let operations = image.filesystem.operations();
        Some(metrics::json::cache(work_dir, &blobs.collect::<Vec<_>>(), &operations, &image.cache))
    }

    fn backend_metrics(&self, id: Option<&str>) -> Option<Value> {
        let image = self.image_at(id)?;
        Some(metrics::json::backend(image.config["backend"]["type"].as_str()?, &image.backend))
    }

    fn filesystem_metrics(&self, id: Option<&str>) -> Option<Value> {
        Some(metrics::json::filesystem(ROOT, &self.image_at(id)?.filesystem.operations()))
    }

    fn file_metrics(&self, id: Option<&str>) -> Option<Value> {
        let operations = self.image_at(id)?.filesystem.operations();
        Some(operations.files().map_or_else(|| json!({}), metrics::Files::counts))
    }

    fn latest_read_files(&self, id: Option<&str>) -> Option<Value> {
        let operations = self.image_at(id)?.filesystem.operations();
        Some(operations.files().map_or_else(|| json!([]), metrics::Files::take_latest))
    }

    fn access_patterns(&self, id: Option<&str>) -> Option<Value> {
        let operations = self.image_at(id)?.filesystem.operations();
        Some(operations.files().map_or_else(|| json!([]), metrics::Files::patterns))
    }

    fn inflight_requests(&self) -> Vec<Value> {
        let inflight = self.inflight.lock().unwrap_or_else(|e| e.into_inner());
        inflight
            .as_ref()
            .map(|inflight| inflight())
            .unwrap_or_default()
            .iter()
            .map(metrics::json::inflight)
            .collect()
    }

    fn superblock(&self, mountpoint: &str) -> Option<Value> {
        let superblock = self.image_at(Some(mountpoint))?.filesystem.bootstrap().superblock();
        superblock.inspect_err(|e| warn!("{e}")).ok().map(|superblock| metrics::json::superblock(&superblock))
    }

    fn events(&self) -> Value {
        crate::telemetry::events::events()
    }

    fn exposition(&self) -> String {
        let mounts = self.image().map(|image| {
            let Image { filesystem, cache, backend, .. } = &*image;
            metrics::Mount::new(
                ROOT,
                filesystem.reads(),
                filesystem.operations(),
                cache.clone(),
                backend.clone(),
            )
        });
        let commons = mounts::commons();
        metrics::exposition(metrics::Sources {
            mounts: mounts.into_iter().collect(),
            load: commons.load(),
            token_fetches: commons.token_fetches(),
        })
    }

    fn settings(&self) -> BTreeMap<String, BTreeSet<&'static str>> {
        self.settings.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn configure(&self, id: Option<&str>, settings: Vec<Setting>) -> Result<(), String> {
        let image = self
            .image_at(id)
            .ok_or_else(|| format!("no backend was opened for the mountpoint {:?}", id.unwrap_or("")))?;
        let is_registry = image.config["backend"]["type"] == "registry";
        let keys: Vec<_> = settings.iter().map(Setting::key).collect();
        // What can fail first: then nothing has changed.
        for setting in settings {
            let key = setting.key();
            match setting {
                Setting::RegistryAuth(auth) if is_registry => {
                    image.backend.exchange_auth(auth).map_err(|e| e.to_string())?;
                }
                Setting::RegistryAuth(_) => warn!("{key} has no effect: the blobs are in no registry"),
                Setting::ProxyUrl => {
                    warn!("{key} has no effect: the proxy of a backend cannot change while it is mounted");
                }
                Setting::DragonflySchedulerEndpoint => warn!("{key} has no effect: it is not supported"),
            }
        }
        let mut set = self.settings.lock().unwrap_or_else(|e| e.into_inner());
        set.entry(ROOT.to_owned()).or_default().extend(keys);
        Ok(())
    }
}
