//! `redact FILE`: copies a saved trace without names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::exit::Fail;
use super::progress::Progress;
use super::redactor::redactor;
use super::{message, replay};
use tracer_trace::Writer;

/// Options of `redact`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The trace to copy
    file: PathBuf,
    /// The new trace
    #[arg(short, long, value_name = "TRACE")]
    output: PathBuf,
    /// Replace the new trace's file if it exists
    #[arg(long)]
    force: bool,
}

/// Runs the command.
///
/// # Errors
/// The trace cannot be read, or the new one cannot be created or written.
pub fn main(args: &Args) -> Result<u8> {
    // Before the output is created: a file that is not a trace leaves nothing behind.
    let reader = replay::open(&args.file)?;
    if is_same(&args.file, &args.output) {
        return Err(Fail::usage("cannot replace the trace that is being read; give another name with -o"));
    }
    let cannot = || format!("cannot write to {}", args.output.display());
    let redactor = redactor(true)?;
    let mut writer = Writer::create(&args.output, args.force).with_context(cannot)?;
    let progress = Progress::new(&args.file, false);
    let read = replay::read(reader, &args.file, redactor.as_ref(), progress, |record| {
        writer.push(&record).with_context(cannot)
    });
    let written = read.and_then(|problems| writer.finish().with_context(cannot).map(|()| problems));
    match written {
        Ok(problems) => {
            problems.iter().for_each(|problem| message::print(problem));
            Ok(0)
        }
        Err(e) => {
            // This run created the file, and it is incomplete; report the first error.
            let _ = std::fs::remove_file(&args.output);
            Err(e)
        }
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
