//! A progress bar on stderr: only on a terminal, and only for work of more than a second.

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};

/// The bar appears after this time.
const AFTER: Duration = Duration::from_secs(1);
/// The clock is read once in this many calls.
const STEPS: u64 = 1024;

/// The progress of reading a file.
pub struct Progress {
    started: Instant,
    len_bytes: Option<u64>,
    steps: u64,
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    /// Starts at the beginning of a file. `quiet` hides the bar, where other output goes to the same terminal.
    pub fn new(path: &Path, quiet: bool) -> Self {
        let len_bytes = std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len());
        let wanted = !quiet && io::stderr().is_terminal();
        Self { started: Instant::now(), len_bytes, steps: 0, bar: None, wanted }
    }

    /// Sets the number of bytes read so far.
    pub fn at(&mut self, bytes: u64) {
        self.steps += 1;
        if !self.wanted || !self.steps.is_multiple_of(STEPS) {
            return;
        }
        if self.bar.is_none() && self.started.elapsed() >= AFTER {
            self.bar = Some(bar(self.len_bytes).with_elapsed(self.started.elapsed()));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// Removes the bar.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn bar(len_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match len_bytes {
        Some(len) => (ProgressBar::new(len), "{bar:30} {bytes} of {total_bytes}, {rate}, {left}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}, {rate}"),
    };
    match ProgressStyle::with_template(template) {
        // indicatif's own estimates ignore the time before the bar appeared. Writing to its string cannot fail.
        Ok(style) => bar.with_style(
            style
                .with_key("rate", |s: &ProgressState, out: &mut dyn fmt::Write| {
                    let _ = write!(out, "{}/s", HumanBytes(per_second(s.pos(), s.elapsed())));
                })
                .with_key("left", |s: &ProgressState, out: &mut dyn fmt::Write| {
                    let left = s.len().unwrap_or_default().saturating_sub(s.pos());
                    let seconds = left / per_second(s.pos(), s.elapsed()).max(1);
                    let _ = write!(out, "{} left", HumanDuration(Duration::from_secs(seconds)));
                }),
        ),
        // The template is a constant; if it were wrong, indicatif's default would do.
        Err(_) => bar,
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / ms
}
