//! Log lines on standard error or in a file.
//!
//! ```text
//! [2026-11-22 16:25:43.295369 +00:00] INFO text
//! [2026-11-22 16:25:43.295369 +00:00] WARN text [nydus-image/src/prefetch.rs:12]
//! ```

use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli;
use crate::error::{Error, Result};
use crate::progress;

/// Begins to write log lines. To be called once.
pub fn init(level: cli::Level, file: Option<&Path>) -> Result<()> {
    let level = match level {
        cli::Level::Trace => LevelFilter::TRACE,
        cli::Level::Debug => LevelFilter::DEBUG,
        cli::Level::Info => LevelFilter::INFO,
        cli::Level::Warn => LevelFilter::WARN,
        cli::Level::Error => LevelFilter::ERROR,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).event_format(Line);
    match file {
        None => builder.with_writer(|| progress::Stderr).init(),
        Some(path) => {
            let mut options = OpenOptions::new();
            let file = options.append(true).create(true).open(path).map_err(Error::io("open", path))?;
            builder.with_writer(Mutex::new(file)).init();
        }
    }
    Ok(())
}

/// The shape of a line.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write!(out, "[{}] {} ", Utc(SystemTime::now()), metadata.level())?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                write!(out, "{fields} ")?;
            }
        }
        context.field_format().format_fields(out.by_ref(), event)?;
        if matches!(*metadata.level(), Level::WARN | Level::ERROR)
            && let (Some(file), Some(line)) = (metadata.file(), metadata.line())
        {
            write!(out, " [{file}:{line}]")?;
        }
        writeln!(out)
    }
}

/// A time as log lines show it.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let micros = since.subsec_micros();
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} +00:00")
    }
}

/// Year, month and day of a number of days since 1970, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last; 719,468 days before 1970 is the year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + carry, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.000000 +00:00"),
            (951_782_400, "2000-02-29 00:00:00.000000 +00:00"),
            (1_795_364_743, "2026-11-22 16:25:43.000000 +00:00"),
            (4_107_542_400, "2100-03-01 00:00:00.000000 +00:00"),
        ] {
            assert_eq!(Utc(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
