//! What the API asks of the daemon, and how the daemon describes itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::settings::Setting;
use crate::telemetry::logs::Level;
use crate::telemetry::utc::Utc;
use crate::version;

/// The daemon, as the API sees it.
///
/// The methods are called from asynchronous code: they return at once and never wait for a disk, a network or
/// a mount.
pub trait Daemon: Send + Sync + 'static {
    /// The name given by `--id`.
    fn id(&self) -> Option<String> {
        None
    }

    /// The supervisor's socket given by `--supervisor`.
    fn supervisor(&self) -> Option<String> {
        None
    }

    /// How far it is.
    fn state(&self) -> State;

    /// What is mounted.
    fn mounts(&self) -> Vec<Mount>;

    /// Logs from `level` on.
    fn set_log_level(&self, level: Level);

    /// Begins to end the process. Called before the answer is sent: the end has to be graceful
    /// ([`super::Listener::serve`]).
    fn request_exit(&self);

    /// The counters of the cache whose configuration has this `id`; without `id`, of the only cache there is.
    /// `None`: there is no such cache.
    fn blobcache_metrics(&self, id: Option<&str>) -> Option<Value>;

    /// The counters of the backend that was opened for the mountpoint `id`; without `id`, of the only backend there is.
    /// `None`: there is no such backend.
    fn backend_metrics(&self, id: Option<&str>) -> Option<Value>;

    /// The counters of the file system that is mounted at `id`; without `id`, of the only one there is. `None`: there is no
    /// such file system.
    fn filesystem_metrics(&self, id: Option<&str>) -> Option<Value>;
    /// What was done with each file of the file system `id`.
    fn file_metrics(&self, id: Option<&str>) -> Option<Value>;
    /// Which files of the file system `id` were read since this was last asked.
    fn latest_read_files(&self, id: Option<&str>) -> Option<Value>;
    /// When each file of the file system `id` was read first, and how often since.
    fn access_patterns(&self, id: Option<&str>) -> Option<Value>;
    /// The requests that are being served; empty if there are none.
    fn inflight_requests(&self) -> Vec<Value>;
    /// The superblock of the image at `mountpoint`. `None`: there is none there.
    fn superblock(&self, mountpoint: &str) -> Option<Value>;
    /// What went wrong lately.
    fn events(&self) -> Value;
    /// All metrics, as [`crate::telemetry::metrics::exposition`] writes them.
    fn exposition(&self) -> String;

    /// The keys of what was set while the daemon ran, by the mountpoint of the backend.
    fn settings(&self) -> BTreeMap<String, BTreeSet<&'static str>>;

    /// Sets all of `settings` for the backend that was opened for the mountpoint `id`; without `id`, for the only backend
    /// there is. What means nothing to that backend is remembered all the same. The error says why nothing was set, without
    /// any value.
    fn configure(&self, id: Option<&str>, settings: Vec<Setting>) -> Result<(), String>;
}

/// How far a daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is mounted yet.
    Init,
    /// All is mounted, and nobody serves.
    Ready,
    /// Serving.
    Running,
    /// At its end.
    Stopped,
}

impl State {
    /// The name in daemon information.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Ready => "READY",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// One mounted image.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Its place in the tree, such as `/`.
    pub mountpoint: String,
    /// Since when.
    pub mounted: SystemTime,
    /// [`nydus_config::Config::to_daemon_info`] of its configuration.
    pub config: Value,
}

/// Daemon information; `with_mounts` as version 1 of the API has it.
pub(super) fn info(daemon: &dyn Daemon, with_mounts: bool) -> Value {
    let mounts = |mount: Mount| {
        let value = json!({
            "backend_type": "Rafs",
            "mountpoint": mount.mountpoint,
            "mounted_time": Utc::from(mount.mounted).api(),
            "config": mount.config,
        });
        (mount.mountpoint, value)
    };
    let collection =
        with_mounts.then(|| daemon.mounts().into_iter().map(mounts).collect::<Map<String, Value>>());
    json!({
        "version": {
            "package_ver": version::PACKAGE,
            "git_commit": version::GIT_COMMIT,
            "build_time": version::BUILD_TIME,
            "profile": version::PROFILE,
            "rustc": version::RUSTC,
        },
        "id": daemon.id(),
        "supervisor": daemon.supervisor(),
        "state": daemon.state().name(),
        "backend_collection": collection,
    })
}
