//! `export FILE`: converts a saved trace to the formats of other tools.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::exit::Fail;
use super::progress::Progress;
use super::redactor::redactor;
use super::{message, replay, value};
use tracer_analysis::analyst::Analyst;
use tracer_record::{Record, Session};
use tracer_report::export::{self, Export};
use tracer_trace::Reader;
use tracer_trace::output_file;

/// Options of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trace
    file: PathBuf,
    /// Format of the output
    #[arg(long, value_parser = value::choice(export::Format::CHOICES))]
    to: export::Format,
    /// Table to export (jsonl, csv, parquet) [default: events]
    #[arg(long, value_parser = value::choice(export::Table::CHOICES))]
    table: Option<export::Table>,
    /// What to add up for each stack (folded) [default: number of events]
    #[arg(long, value_parser = value::choice(export::Weight::CHOICES))]
    weight: Option<export::Weight>,
    /// Replace names of processes, files, sockets, containers and hosts by tokens
    #[arg(long)]
    redact: bool,
    /// Write to this new file instead of stdout
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long, requires = "output")]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// The trace cannot be read, or the output cannot be created or written. A closed pipe is not an error.
pub fn main(args: &Args) -> Result<u8> {
    usage(args)?;
    // Before the output is created: a file that is not a trace leaves nothing behind.
    let reader = replay::open(&args.file)?;
    let exported = match &args.output {
        Some(path) => {
            let file = output_file::create(path, args.force, &[])?;
            let written = write(args, reader, Box::new(BufWriter::new(file)), path);
            if written.is_err() {
                // This run created the file, and it is incomplete; report the first error.
                let _ = std::fs::remove_file(path);
            }
            written
        }
        None => write(args, reader, Box::new(BufWriter::with_capacity(64 << 10, io::stdout())), Path::new("stdout")),
    };
    match exported {
        Err(e) if args.output.is_none() && is_closed_pipe(&e) => Ok(0),
        other => other.map(|()| 0),
    }
}

/// Rejects options that do not fit together, and binary output on a terminal.
fn usage(args: &Args) -> Result<()> {
    if args.table.is_some() && !args.to.is_table() {
        return Err(Fail::usage(
            "--table needs --to jsonl, csv or parquet; the other formats hold both events and findings",
        ));
    }
    if args.weight.is_some() && args.to != export::Format::Folded {
        return Err(Fail::usage("--weight needs --to folded"));
    }
    if args.output.is_none() && args.to.is_binary() && io::stdout().is_terminal() {
        return Err(Fail::usage("cannot write a binary format to a terminal; name a file with -o"));
    }
    Ok(())
}

fn write(args: &Args, reader: Reader, out: Box<dyn Write + Send>, name: &Path) -> Result<()> {
    let cannot = || format!("cannot write to {}", name.display());
    let quiet = args.output.is_none() && io::stdout().is_terminal();
    let progress = Progress::new(&args.file, quiet);
    let mut out = Some(out);
    let mut analyst = Analyst::default();
    let mut export: Option<Box<dyn Export>> = None;
    let redactor = redactor(args.redact)?;
    let problems = replay::read(reader, &args.file, redactor.as_ref(), progress, |record| {
        if let (Record::Session(session), Some(out)) = (&record, out.take_if(|_| export.is_none())) {
            export = Some(begin(args, session, out).with_context(cannot)?);
        }
        let mut done = Ok(());
        analyst.take_and(&record, |model, event| {
            if let Some(export) = &mut export {
                done = export.record(model, &record, event);
            }
        });
        done.with_context(cannot)
    })?;
    let findings = analyst.findings();
    if let (Some(export), Some(model)) = (export, analyst.model()) {
        export.finish(model, &findings).with_context(cannot)?;
    }
    for problem in problems.into_iter().chain(analyst.undecodable()) {
        message::print(&problem);
    }
    Ok(())
}

fn begin(args: &Args, session: &Session, out: Box<dyn Write + Send>) -> io::Result<Box<dyn Export>> {
    export::begin(args.to, args.table.unwrap_or_default(), args.weight.unwrap_or_default(), session, out)
}

fn is_closed_pipe(e: &anyhow::Error) -> bool {
    e.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
