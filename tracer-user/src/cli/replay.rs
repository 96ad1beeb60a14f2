//! `report FILE`: the same findings from a saved trace, without privileges.

use anyhow::{Context, Result};

use super::args::Replay;
use super::output;
use crate::report;
use crate::trace::Reader;

/// Runs the command.
///
/// # Errors
/// The file cannot be read, or is no trace.
pub fn main(args: &Replay) -> Result<u8> {
    let Some(path) = args.file.as_deref().filter(|_| !args.schema) else {
        output::print(report::json::SCHEMA)?;
        return Ok(0);
    };
    output::check(&args.output)?;
    let file = path.display();
    let mut reader = Reader::open(path).with_context(|| format!("cannot read {file}"))?;
    let mut analyst = output::analyst(&args.output);
    let mut readable = true;
    for record in &mut reader {
        match record {
            Ok(record) => analyst.take(&record),
            Err(e) => {
                analyst.problem(format!("the trace cannot be read further: {e}"));
                readable = false;
            }
        }
    }
    if !analyst.has_session() {
        anyhow::bail!("{file} ends before its first record; nothing was traced");
    }
    if let Some(offset) = reader.torn() {
        analyst.problem(format!("the trace is cut off at byte {offset}; everything before is used"));
    } else if readable && !reader.ended() {
        analyst.problem(
            "the trace has no end: it is still written, or its recorder was killed or could not write any more"
                .to_owned(),
        );
    }
    if reader.unknown() > 0 {
        let n = reader.unknown();
        analyst.problem(format!("{n} records are of kinds that only the version knows that wrote the trace"));
    }
    output::write(&analyst, &args.output)?;
    Ok(0)
}
