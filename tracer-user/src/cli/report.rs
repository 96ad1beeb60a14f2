//! `report FILE`: report on a saved trace; needs no privileges.

use std::path::PathBuf;

use anyhow::Result;

use super::args::Output;
use super::redactor::redactor;
use super::{output, replay};

/// Options of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trace, from `record` or --save; it may still be growing
    #[arg(required_unless_present = "schema")]
    file: Option<PathBuf>,
    /// Print the JSON Schema of --format json
    #[arg(long, exclusive = true)]
    schema: bool,
    /// Replace names of processes, files, sockets, containers and hosts by tokens
    #[arg(long)]
    redact: bool,
    #[command(flatten)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read or is not a trace; the report cannot be written.
pub fn main(args: &Args) -> Result<u8> {
    let Some(path) = args.file.as_deref().filter(|_| !args.schema) else {
        output::print(tracer_report::json::SCHEMA)?;
        return Ok(0);
    };
    output::check(&args.output)?;
    let mut reporter = output::reporter(&args.output);
    let redactor = redactor(args.redact)?;
    replay::analyse(replay::open(path)?, path, redactor.as_ref(), &mut reporter)?;
    output::write(&reporter, &args.output)?;
    Ok(0)
}
