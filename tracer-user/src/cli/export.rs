//! `export FILE`: a saved trace in the formats of other tools.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::args::Export as Args;
use super::progress::Progress;
use super::{Fail, exit, redact, replay};
use tracer_analysis::analyst::Analyst;
use tracer_record::{Record, Session};
use tracer_report::escape;
use tracer_report::export::{self, Export};
use tracer_trace::Reader;
use tracer_trace::output_file;

/// Runs the command.
///
/// # Errors
/// The trace cannot be read, or the output cannot be made or written; a reader of stdout that has gone is no error.
pub fn main(args: &Args) -> Result<u8> {
    usage(args)?;
    // What is no trace leaves no file behind.
    let reader = replay::open(&args.file)?;
    let exported = match &args.output {
        Some(path) => {
            let file = output_file::create(path, args.force, &[])?;
            let written = write(args, reader, Box::new(BufWriter::new(file)), path);
            if written.is_err() {
                // It is ours, and not whole; the error that matters is the first.
                let _ = std::fs::remove_file(path);
            }
            written
        }
        None => write(args, reader, Box::new(BufWriter::with_capacity(64 << 10, io::stdout())), Path::new("stdout")),
    };
    match exported {
        Err(e) if args.output.is_none() && reader_gone(&e) => Ok(0),
        other => other.map(|()| 0),
    }
}

/// Options that fit together, and no bytes on a terminal.
fn usage(args: &Args) -> Result<()> {
    let wrong = |message: String| Err(anyhow::Error::new(Fail { code: exit::USAGE, message }));
    if args.table.is_some() && !args.to.is_table() {
        return wrong("--table is for jsonl, csv and parquet; the other formats hold events and findings".to_owned());
    }
    if args.weight.is_some() && args.to != export::Format::Folded {
        return wrong("--weight is for folded".to_owned());
    }
    if args.output.is_none() && args.to.is_binary() && io::stdout().is_terminal() {
        return wrong("this format is binary and not for a terminal; name a file by -o".to_owned());
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
    let redactor = redact::redactor(args.redact)?;
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
        eprintln!("ipctrace: {}", escape(&problem));
    }
    Ok(())
}

fn begin(args: &Args, session: &Session, out: Box<dyn Write + Send>) -> io::Result<Box<dyn Export>> {
    export::begin(args.to, args.table.unwrap_or_default(), args.weight.unwrap_or_default(), session, out)
}

fn reader_gone(e: &anyhow::Error) -> bool {
    e.chain().filter_map(|c| c.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
