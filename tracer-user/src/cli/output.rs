//! Writes a report where the user wants it.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};

use super::args::{Format, Output};
use crate::report::{self, Report};

/// Columns when the width is not known.
const WIDTH: usize = 100;

/// Writes the report. A reader that has gone away is not an error.
///
/// # Errors
/// The file cannot be made or written.
pub fn write(report: &Report, output: &Output) -> Result<()> {
    match &output.output {
        Some(path) => {
            let text = render(report, output.format, WIDTH, false)?;
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => {
            let out = io::stdout();
            let terminal = out.is_terminal();
            let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            let width = if terminal { columns().unwrap_or(WIDTH) } else { WIDTH };
            print(&render(report, output.format, width, colour)?)
        }
    }
}

/// Prints to stdout; a closed pipe is not an error.
///
/// # Errors
/// Any other failure of stdout.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

fn render(report: &Report, format: Format, width: usize, colour: bool) -> io::Result<String> {
    match format {
        Format::Text => Ok(report::text::render(report, width, colour)),
        Format::Json => report::json::render(report),
        Format::Jsonl => report::json::render_lines(report),
    }
}

/// Columns of the terminal that stdout is; `None` if it is none, and nothing needs to be cut.
pub fn terminal_width() -> Option<usize> {
    io::stdout().is_terminal().then(columns).flatten()
}

/// What could not be read, on stderr.
pub fn problems(problems: &[String]) {
    for problem in problems {
        eprintln!("not known: {}", report::escape(problem));
    }
}

fn columns() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|s| usize::from(s.ws_col)).filter(|c| *c >= 40)
}
