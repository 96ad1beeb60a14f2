//! `diff A B`: compares the findings of two runs, from saved traces or JSON reports.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{exit, output, replay};
use tracer_report::Reporter;
use tracer_report::diff::{self, Source};
use tracer_report::{Report, json};
use tracer_trace::Reader;

/// Largest JSON report that is read. The report of a trace of many millions of events is far smaller.
const JSON_MAX: u64 = 256 << 20;

/// Options of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 if nothing is new or worse, with 3 if something is, with 1 or 2 after an error.")]
pub struct Args {
    /// The baseline, usually the older run: a saved trace, or a report in --format json
    #[arg(required_unless_present = "schema")]
    a: Option<PathBuf>,
    /// The run to compare with it
    #[arg(required_unless_present = "schema")]
    b: Option<PathBuf>,
    /// Print the JSON Schema of --format json
    #[arg(long, exclusive = true)]
    schema: bool,
    /// Exit with 3 also if a finding cannot be compared
    #[arg(long)]
    strict: bool,
    /// Format of the comparison
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Formats of comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    Text,
    /// One document
    Json,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is neither a trace nor a report; the output cannot be written.
pub fn main(args: &Args) -> Result<u8> {
    let (Some(a), Some(b), false) = (&args.a, &args.b, args.schema) else {
        output::print(diff::SCHEMA)?;
        return Ok(0);
    };
    if let Some(out) = &args.output {
        output::check_file(Some(out))?;
        if same_file(out, a) || same_file(out, b) {
            bail!("cannot write the comparison: {} is one of the files compared; give another name", out.display());
        }
    }
    let (old, new) = (load(a)?, load(b)?);
    let (a, b) = (a.to_string_lossy(), b.to_string_lossy());
    let outcome = diff::compare(Source { file: &a, report: &old }, Source { file: &b, report: &new });
    output::deliver(args.output.as_deref(), |width, colour| match args.format {
        Format::Text => Ok(diff::text::render(&outcome, width, colour)),
        Format::Json => diff::json(&outcome),
    })?;
    let n = &outcome.counts;
    let fails = n.new + n.worse > 0 || (args.strict && n.unknown > 0);
    Ok(if fails { exit::WORSE } else { 0 })
}

/// The report in a file, or the report on the trace in it. The first byte distinguishes JSON from a trace.
fn load(path: &Path) -> Result<Report> {
    let file = path.display();
    let cannot = || format!("cannot read {file}");
    let mut input = BufReader::new(File::open(path).with_context(cannot)?);
    let head = input.fill_buf().with_context(cannot)?;
    let first = head.iter().find(|b| !b.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(b));
    if !matches!(first, Some(b'{' | b'[')) {
        let mut reporter = Reporter::default();
        let reader =
            Reader::new(input).with_context(|| format!("{} as a trace, and it is no JSON report", cannot()))?;
        replay::analyse(reader, path, None, &mut reporter)?;
        return Ok(reporter.report());
    }
    let mut text = Vec::new();
    input.take(JSON_MAX + 1).read_to_end(&mut text).with_context(cannot)?;
    if text.len() as u64 > JSON_MAX {
        bail!("cannot read {file}: it is larger than any report ({} MiB)", JSON_MAX >> 20);
    }
    json::read(&text).with_context(cannot)
}

/// Whether both names are of one file.
fn same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| (m.dev(), m.ino()));
    id(a).is_some_and(|a| Some(a) == id(b))
}
