//! Log lines: their shape, their level, their place.
//!
//! ```text
//! [2026-11-22 16:25:43.295369 +00:00] INFO text key=value
//! [2026-11-22 16:25:43.295369 +00:00] WARN text key=value [nydusd/src/daemon.rs:12]
//! ```
//!
//! A line is one line: control characters, which may come from file names or answers of servers, are escaped.
//! Lines go to standard error or to a file, through a queue that nobody waits for. The level can change while
//! the daemon runs.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::events;
use super::sink::{Output, RotatingFile, Sink};
use super::traces::Traces;
use super::utc::Utc;

/// The crates whose lines the level is about. Others are heard from warnings on.
const OURS: [&str; 4] = ["nydusd", "rafs", "storage", "blobcache"];
/// Says of certificates what the error of the read says too, and with a name.
const REPEATS: &str = "rustls_platform_verifier";
/// The longest line, in bytes; the rest is cut off.
const MAX_LINE: usize = 8 << 10;
/// The longest wait for lines to be written at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
pub enum Level {
    /// Nothing. Only the administration API can ask for it.
    #[value(skip)]
    Off,
    /// What failed.
    Error,
    /// And what may fail soon.
    Warn,
    /// And what happens to the daemon.
    Info,
    /// And what it decides.
    Debug,
    /// And every request.
    Trace,
}

impl Level {
    const ALL: [(&'static str, Level); 6] = [
        ("off", Level::Off),
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, level)| level)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }

    fn targets(self) -> Targets {
        let level = self.filter();
        Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            .with_target(REPEATS, LevelFilter::OFF)
            .with_targets(OURS.into_iter().map(|target| (target, level)))
    }
}

/// Where and how much to log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The least important lines that are written.
    pub level: Level,
    /// The file to append to; `None`: standard error.
    pub file: Option<PathBuf>,
    /// Size in bytes at which a new file is begun; 0: never.
    pub rotation_size: u64,
}

/// The logging of this process. Dropping it waits, for a second at most, until all lines are written.
pub struct Logs {
    filter: reload::Handle<Targets, Registry>,
    level: AtomicU8,
    /// Two changes of the level must not mix.
    change: Mutex<()>,
    sink: Arc<Sink>,
}

/// Starts logging for the whole process, and tracing where there is something to trace with. May succeed once.
pub fn init(options: &Options, traces: Option<&Traces>) -> anyhow::Result<Logs> {
    let (subscriber, logs) = build(options, traces)?;
    subscriber.try_init().context("logging was started before")?;
    Ok(logs)
}

/// A subscriber and its handle, not yet in use.
fn build(
    options: &Options,
    traces: Option<&Traces>,
) -> anyhow::Result<(impl Subscriber + Send + Sync + use<>, Logs)> {
    let output = match &options.file {
        None => Output::Stderr,
        Some(path) => {
            // Orchestrators give each daemon a directory of its own and leave it to the daemon to make it.
            let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            let file = made
                .and_then(|()| RotatingFile::open(path, options.rotation_size))
                .with_context(|| format!("{}: cannot open the log file", path.display()))?;
            Output::File(file)
        }
    };
    let is_coloured =
        output.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let sink = Arc::new(Sink::start(output).context("cannot start the thread that writes log lines")?);
    let (filter, handle) = reload::Layer::new(options.level.targets());
    let lines = LineLayer { sink: sink.clone(), is_coloured }.with_filter(filter);
    let subscriber = tracing_subscriber::registry().with(lines).with(traces.map(Traces::layer));
    let logs =
        Logs { filter: handle, level: AtomicU8::new(options.level as u8), change: Mutex::new(()), sink };
    Ok((subscriber, logs))
}

impl Logs {
    /// Changes the level from now on.
    pub fn set_level(&self, level: Level) {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only when the subscriber is gone, and then nothing is logged anyway.
        if self.filter.reload(level.targets()).is_ok() {
            self.level.store(level as u8, Ordering::Relaxed);
            // Crates that log through `log` have a limit of their own before ours.
            tracing_log::log::set_max_level(match level.min_of_others() {
                Level::Off => tracing_log::log::LevelFilter::Off,
                Level::Error => tracing_log::log::LevelFilter::Error,
                _ => tracing_log::log::LevelFilter::Warn,
            });
        }
    }

    /// The level now.
    pub fn level(&self) -> Level {
        let level = self.level.load(Ordering::Relaxed);
        Level::ALL
            .into_iter()
            .map(|(_, known)| known)
            .find(|known| *known as u8 == level)
            .unwrap_or(Level::Info)
    }

    /// Waits, for a second at most, until the lines so far are written. For the moment before the process
    /// ends otherwise than by dropping this.
    pub fn flush(&self) {
        self.sink.flush(FLUSH_LIMIT);
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Level {
    /// What other crates may say at this level.
    fn min_of_others(self) -> Level {
        if self as u8 > Level::Warn as u8 { Level::Warn } else { self }
    }
}

/// Turns events into lines.
struct LineLayer {
    sink: Arc<Sink>,
    is_coloured: bool,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        // Of a record from the `log` crate, the metadata says only that it is one.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut fields = Fields::default();
        event.record(&mut fields);

        let level = *metadata.level();
        let is_alarming = level <= tracing::Level::WARN;
        let (colour, plain) = match level {
            tracing::Level::ERROR if self.is_coloured => ("\x1b[31m", "\x1b[0m"),
            tracing::Level::WARN if self.is_coloured => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        let mut line = format!("[{}] {colour}{level}{plain} ", Utc::now());
        let start = line.len();
        escape_into(&mut line, &fields.text);
        for (name, value) in &fields.others {
            let _ = write!(line, " {name}=");
            escape_into(&mut line, value);
        }
        if line.len() > MAX_LINE {
            line.truncate(line.floor_char_boundary(MAX_LINE));
            line.push('…');
        }
        if level == tracing::Level::ERROR {
            events::push(&line[start..]);
        }
        if is_alarming && let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
            let _ = write!(line, " [{file}:{number}]");
        }
        line.push('\n');
        self.sink.push(line.into_bytes());
    }
}

/// Appends `text` with its control characters escaped.
fn escape_into(line: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    text: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.text = value,
            // The file and line of a record from the `log` crate, which stand at the end of the line.
            name if name.starts_with("log.") => (),
            name => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let is_plain = field.name() == "message"
            || (!value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c == '='));
        self.add(field, if is_plain { value.to_owned() } else { format!("{value:?}") });
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        self.add(field, text);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    /// What `log` writes at `level`, without the times, whose shape is checked.
    fn logged(level: Level, log: impl FnOnce(&Logs)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.log");
        let options = Options { level, file: Some(path.clone()), rotation_size: 0 };
        let (subscriber, logs) = build(&options, None).unwrap();
        tracing::subscriber::with_default(subscriber, || log(&logs));
        logs.flush();
        let without_time = |line: String| {
            let (time, rest) = line.split_once("] ").expect("a time in brackets");
            let pattern: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(pattern, "[0000-00-00 00:00:00.000000 +00:00");
            rest.to_owned()
        };
        lines(&path).into_iter().map(without_time).collect()
    }

    #[test]
    fn the_shape_of_lines() {
        let line = line!();
        let logged = logged(Level::Debug, |_| {
            tracing::info!("text of {}", 5);
            tracing::warn!(blob = "abc", path = "a b", count = 3, what = ?Some(1), "careful");
            let error = anyhow::Error::from(std::io::Error::other("inner")).context("outer");
            tracing::error!(error = AsRef::<dyn std::error::Error>::as_ref(&error), "broken");
            tracing::debug!("details");
            tracing::trace!("never seen");
        });
        let file = file!();
        assert_eq!(
            logged,
            [
                "INFO text of 5".to_owned(),
                format!("WARN careful blob=abc path=\"a b\" count=3 what=Some(1) [{file}:{}]", line + 3),
                format!("ERROR broken error=outer: inner [{file}:{}]", line + 5),
                "DEBUG details".to_owned(),
            ]
        );
    }

    #[test]
    fn text_from_outside_stays_on_its_line() {
        let logged = logged(Level::Info, |_| {
            tracing::info!(name = "a\n[fake] ERROR", "file {} opened", "x\r\n\x1b[31m\u{9b}y");
            tracing::info!("{}", "ä".repeat(MAX_LINE));
        });
        assert_eq!(logged.len(), 2);
        assert_eq!(logged[0], r#"INFO file x\r\n\u{1b}[31m\u{9b}y opened name="a\n[fake] ERROR""#);
        assert!(logged[1].len() <= MAX_LINE && logged[1].ends_with("ä…"), "{}", logged[1].len());
    }

    #[test]
    fn the_level_changes_while_running() {
        let logged = logged(Level::Warn, |logs| {
            tracing::info!("1");
            logs.set_level(Level::Trace);
            assert_eq!(logs.level(), Level::Trace);
            tracing::trace!("2");
            tracing::info!(target: "hyper::proto", "not ours");
            tracing::warn!(target: "hyper::proto", "not ours, but alarming");
            tracing::error!(target: "rustls_platform_verifier::verification", "told by the read that fails");
            logs.set_level(Level::Off);
            tracing::error!("3");
            logs.set_level(Level::Error);
            tracing::warn!("4");
            tracing::error!("5");
        });
        let words: Vec<&str> = logged.iter().map(|line| line.split(" [").next().unwrap()).collect();
        assert_eq!(words, ["TRACE 2", "WARN not ours, but alarming", "ERROR 5"]);
    }

    #[test]
    fn records_of_the_log_crate_look_like_ours() {
        let logged = logged(Level::Info, |_| {
            let record = tracing_log::log::Record::builder()
                .args(format_args!("from afar"))
                .level(tracing_log::log::Level::Warn)
                .target("fuse_backend_rs")
                .file(Some("session.rs"))
                .line(Some(7))
                .build();
            tracing_log::format_trace(&record).unwrap();
        });
        assert_eq!(logged, ["WARN from afar [session.rs:7]"]);
    }

    #[test]
    fn names_of_levels() {
        for (name, level) in Level::ALL {
            assert_eq!(Level::from_name(name), Some(level));
            assert_eq!(level.name(), name);
        }
        assert_eq!(Level::from_name("loud"), None);
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        // Directories that are missing are made, but what is there is left as it is.
        let file = Some(PathBuf::from("/dev/null/d.log"));
        let error = build(&Options { level: Level::Info, file, rotation_size: 0 }, None).err().unwrap();
        let text = format!("{error:#}");
        assert!(text.starts_with("/dev/null/d.log: cannot open the log file: "), "{text}");
    }
}
