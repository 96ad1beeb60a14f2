//! `report FILE`: the same findings from a saved trace, without privileges.

use std::path::Path;

use anyhow::{Context, Result};

use super::args::Replay;
use super::progress::Progress;
use super::{output, redact};
use tracer_record::Record;
use tracer_record::redact::Redactor;
use tracer_report;
use tracer_report::Reporter;
use tracer_report::model::{CUT_OFF, NO_END, UNREADABLE};
use tracer_trace::Reader;

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or is no trace.
pub fn main(args: &Replay) -> Result<u8> {
    let Some(path) = args.file.as_deref().filter(|_| !args.schema) else {
        output::print(tracer_report::json::SCHEMA)?;
        return Ok(0);
    };
    output::check(&args.output)?;
    let mut reporter = output::reporter(&args.output);
    let redactor = redact::redactor(args.redact)?;
    analyse(open(path)?, path, redactor.as_ref(), &mut reporter)?;
    output::write(&reporter, &args.output)?;
    Ok(0)
}

/// Shows a trace to an analyst, to its end or to where it is broken; without names if there is a redactor.
///
/// # Errors
/// It has no session.
pub fn analyse(reader: Reader, path: &Path, redactor: Option<&Redactor>, reporter: &mut Reporter) -> Result<()> {
    let problems = read(reader, path, redactor, Progress::new(path, false), |record| {
        reporter.take(&record);
        Ok(())
    })?;
    for problem in problems {
        reporter.analyst.problem(problem);
    }
    Ok(())
}

/// Opens a trace.
///
/// # Errors
/// The file cannot be read, or is no trace.
pub fn open(path: &Path) -> Result<Reader> {
    Reader::open(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a trace to its end or to where it is broken, and shows each record.
/// Returns what the reader of the outcome should know: that it is cut off, and where.
/// With a redactor neither the records nor the sentences hold names.
///
/// # Errors
/// It has no session; and whatever `take` returns.
pub fn read(
    mut reader: Reader,
    path: &Path,
    redactor: Option<&Redactor>,
    mut progress: Progress,
    mut take: impl FnMut(Record) -> Result<()>,
) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut begun = false;
    while let Some(record) = reader.next() {
        match record {
            Ok(record) => {
                begun |= matches!(record, Record::Session(_));
                let record = match redactor {
                    Some(redactor) => redactor.record(record),
                    None => record,
                };
                progress.at(reader.offset());
                take(record)?;
            }
            // The error of a broken record quotes it.
            Err(e) => {
                let problem = format!("{UNREADABLE}: {e}");
                problems.push(redactor.map_or_else(|| problem.clone(), |r| r.sentence(&problem)));
            }
        }
    }
    progress.end();
    if !begun {
        let file = path.display();
        anyhow::bail!("{file} ends before its first record; nothing was traced");
    }
    if let Some(offset) = reader.torn() {
        problems.push(format!("{CUT_OFF} at byte {offset}; everything before is used"));
    } else if problems.is_empty() && !reader.ended() {
        problems.push(format!("{NO_END}: it is still written, or its recorder was killed or could not write any more"));
    }
    if reader.unknown() > 0 {
        let n = reader.unknown();
        problems.push(format!("{n} records are of kinds that only the version knows that wrote the trace"));
    }
    Ok(problems)
}
