//! The life of the daemon: mount, serve, unmount.
//!
//! Invariant: whatever ends it — a signal, the API, an unmount from outside, an error while starting — nothing stays
//! mounted and the cache is made durable, within a bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use serde_json::Value;
use storage::backend::Backend as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::{self, ConfigSource, FuseArgs};
use crate::control::{self, Listener, Setting, State};
use crate::limits;
use crate::mounts::{self, Image};
use crate::telemetry::logs::{Level, Logs};
use crate::telemetry::metrics;
use crate::transport::fuse::{FuseMount, FuseOptions};
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
        Some(path) => Some(runtime.block_on(Listener::bind(path))?),
        None => None,
    };
    let mut config = match (config?, args.config()) {
        (parsed, Some(ConfigSource::File(path))) => parsed.log_warnings(&path.display().to_string()),
        (parsed, _) => parsed.config,
    };
    config.apply_environment()?;
    let image = Arc::new(Image::open(&config, bootstrap, args.bootstrap_digest(), runtime.handle())?);
    let options = FuseOptions {
        threads: args.fuse_threads(),
        allow_other: args.allow_other().unwrap_or_else(|| geteuid().is_root()),
    };
    let filesystem = image.filesystem.clone();
    let mut mount = FuseMount::start(args.mountpoint(), filesystem, &options, runtime.handle().clone())?;
    info!("Rafs filesystem mounted at /");
    daemon.mounted(image.clone());
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

/// What the administration sees.
struct Daemon {
    logs: Arc<Logs>,
    image: Mutex<Option<Arc<Image>>>,
    /// Keys that were set at run time, by mountpoint.
    settings: Mutex<BTreeMap<String, BTreeSet<&'static str>>>,
    end: watch::Sender<bool>,
}

impl Daemon {
    fn new(logs: Arc<Logs>) -> Self {
        Self { logs, image: Mutex::default(), settings: Mutex::default(), end: watch::Sender::new(false) }
    }

    fn mounted(&self, image: Arc<Image>) {
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
        Some(metrics::json::cache(&image.config["cache"]["filecache"]["work_dir"], &image.cache))
    }

    fn backend_metrics(&self, id: Option<&str>) -> Option<Value> {
        let image = self.image_at(id)?;
        Some(metrics::json::backend(image.config["backend"]["type"].as_str()?, &image.backend))
    }

    fn exposition(&self) -> String {
        let mounts = self.image().map(|image| {
            metrics::Mount::new(ROOT, image.filesystem.reads(), image.cache.clone(), image.backend.clone())
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
        for setting in settings {
            let key = setting.key();
            match setting {
                Setting::RegistryAuth(auth) => {
                    image.backend.exchange_auth(auth).map_err(|e| e.to_string())?
                }
            }
            let mut set = self.settings.lock().unwrap_or_else(|e| e.into_inner());
            set.entry(ROOT.to_owned()).or_default().insert(key);
        }
        Ok(())
    }
}
