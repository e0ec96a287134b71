//! Log lines and traces in the test's own process, as the daemon starts them.

use std::path::PathBuf;

use nydus_config::Config;
use nydusd::telemetry::logs::{self, Level, Logs};
use nydusd::telemetry::traces::{Settings, Traces};
use serde_json::json;

/// What was started, once a process. Dropping it sends what is left.
pub struct Telemetry {
    _logs: Logs,
    _traces: Option<Traces>,
}

impl Telemetry {
    /// Starts log lines and, if there is a `collector`, traces of everything.
    pub fn start(collector: Option<&str>) -> Self {
        let settings = collector.map(|endpoint| {
            let text =
                json!({"version": 2, "tracing": {"endpoint": endpoint, "threshold_ms": 0}}).to_string();
            let config = Config::parse(text.as_bytes(), "test").unwrap().config;
            Settings::from(config.tracing.as_ref(), []).unwrap().expect("traces are wanted")
        });
        let traces = settings.map(|settings| Traces::start(&settings).unwrap());
        let options =
            logs::Options { level: Level::Info, file: Some(PathBuf::from("/dev/null")), rotation_size: 0 };
        Self { _logs: logs::init(&options, traces.as_ref()).unwrap(), _traces: traces }
    }
}
