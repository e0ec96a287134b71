//! How far a build is, on standard error, if that is a terminal and the log is not quieter than `info`.
//!
//! There is at most one bar at a time. Whoever writes to standard error while there may be one does so through
//! [`Stderr`], so that lines stay whole.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::Result;
use crate::pipeline::{Chunk, Sink, Task};

/// The bar that is shown.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of something is done; what was shown of it goes when this does.
#[derive(Debug)]
pub struct Progress {
    /// `None` where nobody looks.
    bar: Option<ProgressBar>,
    files: Option<usize>,
}

impl Progress {
    /// Of so many bytes and files, if that is known.
    pub fn of(total: Option<(u64, usize)>) -> Self {
        let is_seen = io::stderr().is_terminal() && tracing::enabled!(tracing::Level::INFO);
        let bar = is_seen.then(|| {
            let shown = match total {
                Some((bytes, _)) => ProgressBar::new(bytes),
                None => ProgressBar::new_spinner(),
            };
            shown.set_draw_target(ProgressDrawTarget::stderr());
            let template = match total {
                Some(_) => "{wide_bar} {bytes}/{total_bytes}, {msg}, {bytes_per_sec}, {eta} to go",
                None => "{spinner} {bytes}, {msg}, {bytes_per_sec}",
            };
            // A template that is not understood shows the default.
            if let Ok(style) = ProgressStyle::with_template(template) {
                shown.set_style(style);
            }
            shown
        });
        let progress = Self { bar, files: total.map(|(_, files)| files) };
        progress.show_files(0);
        *self::bar() = progress.bar.clone();
        progress
    }

    fn show_files(&self, done: usize) {
        let Some(bar) = &self.bar else { return };
        bar.set_message(match self.files {
            Some(files) => format!("{done}/{files} files"),
            None => format!("{done} files"),
        });
    }

    /// More bytes are done, and so many files are begun.
    fn add(&self, bytes: u64, files: usize) {
        let Some(bar) = &self.bar else { return };
        bar.inc(bytes);
        if files.is_multiple_of(64) || self.files == Some(files) {
            self.show_files(files);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(shown) = &self.bar {
            *bar() = None;
            shown.finish_and_clear();
        }
    }
}

/// A sink whose progress is shown.
pub struct Watched<'a, S> {
    /// The sink.
    pub sink: &'a mut S,
    /// What is shown.
    pub progress: Progress,
}

impl<T, S: Sink<T>> Sink<T> for Watched<'_, S> {
    fn store(&mut self, chunk: Chunk, encoded: Option<T>) -> Result<()> {
        self.sink.store(chunk, encoded)?;
        self.progress.add(chunk.len.into(), chunk.file + 1);
        Ok(())
    }

    fn task(&mut self) -> Option<Task> {
        self.sink.task()
    }

    fn settle(&mut self) -> Result<()> {
        self.sink.settle()
    }

    fn backlog(&self) -> u64 {
        self.sink.backlog()
    }
}

/// Standard error, above the bar if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*bar() {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
