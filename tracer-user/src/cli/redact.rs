//! `redact FILE`: a saved trace without names; and the key of every `--redact`.

use std::path::Path;

use anyhow::{Context, Result};

use super::args::Redact as Args;
use super::progress::Progress;
use super::{Fail, exit, replay};
use tracer_record::redact::{KEY_LEN, Redactor};
use tracer_report::escape;
use tracer_trace::Writer;

/// Runs the command.
///
/// # Errors
/// The trace cannot be read, or the new one cannot be made or written.
pub fn main(args: &Args) -> Result<u8> {
    // What is no trace leaves no file behind.
    let reader = replay::open(&args.file)?;
    if is_same(&args.file, &args.output) {
        let message = "the new trace cannot take the place of the one that is read; give another name".to_owned();
        return Err(Fail { code: exit::USAGE, message }.into());
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
            for problem in problems {
                eprintln!("ipctrace: {}", escape(&problem));
            }
            Ok(0)
        }
        Err(e) => {
            // It is ours, and not whole; the error that matters is the first.
            let _ = std::fs::remove_file(&args.output);
            Err(e)
        }
    }
}

/// Takes names out, if that is wanted, by a key that nobody knows and that ends with this process.
///
/// # Errors
/// The system has no random numbers.
pub fn redactor(wanted: bool) -> Result<Option<Redactor>> {
    if !wanted {
        return Ok(None);
    }
    let mut key = [0; KEY_LEN];
    let mut known = 0;
    while let Some(rest) = key.get_mut(known..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            got => known += got.context("cannot get a key for --redact from the system's random numbers")?,
        }
    }
    Ok(Some(Redactor::new(&key)))
}

fn is_same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
