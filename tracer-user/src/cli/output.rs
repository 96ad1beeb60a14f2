//! Writes results to stdout or to a file.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::args::{Output, ReportFormat};
use tracer_report::{Report, Reporter};
use tracer_trace::Reader;
use tracer_trace::output_file;

/// Columns when stdout is not a terminal, or its width is unknown.
const WIDTH: usize = 100;

/// The reporter that collects what a format needs.
pub fn reporter(output: &Output) -> Reporter {
    match output.format {
        ReportFormat::Html => Reporter::with_charts(),
        ReportFormat::Text | ReportFormat::Json | ReportFormat::Jsonl | ReportFormat::Markdown => Reporter::default(),
    }
}

/// Refuses a file that [`write`] would refuse, before a long run begins.
///
/// # Errors
/// The file exists and may not be replaced, or cannot be created.
pub fn check(output: &Output) -> Result<()> {
    check_file(output.output.as_deref())
}

/// As [`check`], for any file that can be written again.
///
/// # Errors
/// As [`check`].
pub fn check_file(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    output_file::check_report(path).context("cannot write the report")?;
    // A trace cannot be recorded again; `report FILE -o FILE` is a slip.
    let exists = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    anyhow::ensure!(
        !(exists && Reader::open(path).is_ok()),
        "cannot write the report: {} is a trace and stays; give another name",
        path.display()
    );
    Ok(())
}

/// Writes the report and returns it. A closed pipe is not an error.
///
/// # Errors
/// The file cannot be created or written.
pub fn write(reporter: &Reporter, output: &Output) -> Result<Report> {
    let report = reporter.report();
    deliver(output.output.as_deref(), |width, colour| render(reporter, &report, output.format, width, colour))?;
    Ok(report)
}

/// Writes what `render` returns for a width and for colour or none, to a file or to stdout.
///
/// # Errors
/// As [`write`].
pub fn deliver(path: Option<&Path>, render: impl FnOnce(usize, bool) -> io::Result<String>) -> Result<()> {
    let Some(path) = path else {
        let out = io::stdout();
        let terminal = out.is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let width = if terminal { columns().unwrap_or(WIDTH) } else { WIDTH };
        return print(&render(width, colour)?);
    };
    output_file::write_report(path, render(WIDTH, false)?.as_bytes()).context("cannot write the report")
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

fn render(
    reporter: &Reporter,
    report: &Report,
    format: ReportFormat,
    width: usize,
    colour: bool,
) -> io::Result<String> {
    match format {
        ReportFormat::Text => Ok(tracer_report::text::render(report, width, colour)),
        ReportFormat::Json => tracer_report::json::render(report),
        ReportFormat::Jsonl => tracer_report::json::render_lines(report),
        ReportFormat::Markdown => Ok(tracer_report::markdown::render(report)),
        ReportFormat::Html => tracer_report::html::render(report, &reporter.charts(report).unwrap_or_default()),
    }
}

/// Columns of the terminal; `None` if stdout is not a terminal, and lines need not be cut.
pub fn terminal_width() -> Option<usize> {
    io::stdout().is_terminal().then(columns).flatten()
}

fn columns() -> Option<usize> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|s| usize::from(s.ws_col)).filter(|c| *c >= 40)
}
