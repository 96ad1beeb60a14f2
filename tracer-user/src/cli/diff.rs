//! `diff A B`: what became of the findings of one run in another, from saved traces or JSON reports.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::args::{Diff, DiffFormat};
use super::{exit, output, replay};
use tracer_report::Reporter;
use tracer_report::diff::{self, Source};
use tracer_report::{Report, json};
use tracer_trace::Reader;

/// Longest JSON report that is read: that of a trace of many millions of events is far smaller.
const JSON_MAX: u64 = 256 << 20;

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is neither a trace nor a report; the output cannot be written.
pub fn main(args: &Diff) -> Result<u8> {
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
        DiffFormat::Text => Ok(diff::text::render(&outcome, width, colour)),
        DiffFormat::Json => diff::json(&outcome),
    })?;
    let n = &outcome.counts;
    let fails = n.new + n.worse > 0 || (args.strict && n.unknown > 0);
    Ok(if fails { exit::WORSE } else { 0 })
}

/// The report that a file is or leads to; what it is, its first byte tells.
fn load(path: &Path) -> Result<Report> {
    let file = path.display();
    let cannot = || format!("cannot read {file}");
    let mut input = BufReader::new(File::open(path).with_context(cannot)?);
    let head = input.fill_buf().with_context(cannot)?;
    let first = head.iter().find(|b| !b.is_ascii_whitespace() && !b"\xef\xbb\xbf".contains(b));
    if !matches!(first, Some(b'{' | b'[')) {
        let mut reporter = Reporter::default();
        let reader = Reader::new(input).with_context(|| format!("{} (and it is no JSON report)", cannot()))?;
        replay::analyse(reader, path, None, &mut reporter)?;
        return Ok(reporter.report());
    }
    let mut text = Vec::new();
    input.take(JSON_MAX + 1).read_to_end(&mut text).with_context(cannot)?;
    if text.len() as u64 > JSON_MAX {
        bail!("cannot read {file}: a report has at most {} MiB", JSON_MAX >> 20);
    }
    json::read(&text).with_context(cannot)
}

/// Whether both names lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| (m.dev(), m.ino()));
    id(a).is_some_and(|a| Some(a) == id(b))
}
