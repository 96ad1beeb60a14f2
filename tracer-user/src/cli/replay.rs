//! Reads a saved trace, for the subcommands that take one.

use std::path::Path;

use anyhow::{Context, Result};

use super::progress::Progress;
use tracer_record::Record;
use tracer_record::redact::Redactor;
use tracer_report::Reporter;
use tracer_report::model::{CUT_OFF, NO_END, UNREADABLE};
use tracer_trace::Reader;

/// Opens a trace.
///
/// # Errors
/// The file cannot be read or is not a trace.
pub fn open(path: &Path) -> Result<Reader> {
    Reader::open(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Feeds a trace to a reporter, to its end or to where it is damaged; redacted if there is a redactor.
///
/// # Errors
/// The trace has no session.
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

/// Calls `take` with each record of a trace, to its end or to where it is damaged.
/// Returns what is wrong with the trace, a sentence each: that it is cut off, damaged, or from a newer version.
/// With a redactor neither the records nor the sentences hold names.
///
/// # Errors
/// The trace has no session, or `take` failed.
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
            // The error quotes the damaged record, names included.
            Err(e) => {
                let problem = format!("{UNREADABLE}: {e}");
                problems.push(redactor.map_or_else(|| problem.clone(), |r| r.sentence(&problem)));
            }
        }
    }
    progress.end();
    if !begun {
        anyhow::bail!("{} ends before its first record: nothing was traced", path.display());
    }
    if let Some(offset) = reader.torn() {
        problems.push(format!("{CUT_OFF} at byte {offset}; everything before is used"));
    } else if problems.is_empty() && !reader.ended() {
        problems.push(format!("{NO_END}: it is still written, or its recorder was killed or could not write"));
    }
    if reader.unknown() > 0 {
        let n = reader.unknown();
        problems.push(format!("{n} records of unknown kinds were skipped: a newer version wrote the trace"));
    }
    Ok(problems)
}
