//! Lines on stderr, and the words that they share.

use tracer_record::Record;
use tracer_report::escape;

/// Prints a message to stderr, safe for a terminal.
pub fn print(text: &str) {
    eprintln!("ipctrace: {}", escape(text));
}

/// Prints what could not be read, one line each.
pub fn print_unknown(problems: &[String]) {
    for problem in problems {
        eprintln!("not known: {}", escape(problem));
    }
}

/// A number of bytes with a binary unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
}

/// Counts the kernel events that were lost.
#[derive(Debug, Default)]
pub struct Losses(u64);

impl Losses {
    /// Adds the losses that a record reports.
    pub fn take(&mut self, record: &Record) {
        if let Record::Lost { count, .. } = record {
            self.0 = self.0.saturating_add(*count);
        }
    }

    /// `nothing lost`, or the number of events lost.
    pub fn words(&self) -> String {
        match self.0 {
            0 => "nothing lost".to_owned(),
            n => format!("{n} events lost"),
        }
    }
}
