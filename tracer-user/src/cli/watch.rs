//! `watch`: attach, wait, report; and the parts of a live run that `run`, `record` and `demo` share.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Probing, Saving, Targets};
use super::redactor::redactor;
use super::value::duration;
use super::{message, output, target};
use tracer_collector::stream::{Live, Options, Target};
use tracer_record::Record;
use tracer_record::redact::Redactor;
use tracer_report::Reporter;
use tracer_trace::Writer;

/// Options of `watch`, the default command.
#[derive(Debug, clap::Args, Clone)]
pub struct Args {
    #[command(flatten)]
    pub targets: Targets,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    pub probing: Probing,
    #[command(flatten)]
    saving: Saving,
}

/// Runs the command.
///
/// # Errors
/// The probes cannot be attached, or the report cannot be written.
pub fn main(args: &Args) -> Result<u8> {
    let target = target::resolve(&args.targets, "watch")?;
    runtime()?.block_on(async {
        output::check(&args.saving.output)?;
        let mut live = Live::attach(options(target, &args.probing))?;
        let mut sink = ReportSink::open(&args.saving)?;
        read_baseline(&mut live, &mut |r| sink.take(r));
        live.run(stopped(args.duration)?, &mut |r| sink.take(r)).await?;
        drop(live);
        output::write(&sink.finish(), &args.saving.output)?;
        Ok(0)
    })
}

/// The single-threaded runtime of all commands that attach.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the event loop")
}

/// Collector options from the command line.
pub fn options(target: Target, args: &Probing) -> Options {
    Options {
        target,
        follow: !args.no_follow,
        min_stall: args.min_stall,
        only: args.only.clone(),
        backend: args.backend,
        ring_bytes: args.ring_kib.next_power_of_two() * 1024,
        debug_dirs: args.symbols.dirs(),
    }
}

/// Completes on SIGINT, SIGTERM or SIGHUP, or after `limit`.
///
/// # Errors
/// Signals cannot be caught.
pub fn stopped(limit: Option<Duration>) -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    Ok(async move {
        let time = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = time => {}
        }
    })
}

/// Reads the baseline and prints `ready` to stderr.
pub fn read_baseline(live: &mut Live, sink: &mut dyn FnMut(Record)) {
    let started = Instant::now();
    live.baseline(sink);
    tracing::debug!("baseline_us={}", started.elapsed().as_micros());
    eprintln!("ready");
}

/// Takes the records of a live run: reports on them, and saves them if asked to.
pub struct ReportSink {
    reporter: Reporter,
    writer: Option<Writer>,
    /// Applies to the trace only, not to the report.
    redactor: Option<Redactor>,
}

impl ReportSink {
    /// Creates the trace file.
    ///
    /// # Errors
    /// The trace file cannot be created, or the report file could not be.
    pub fn open(args: &Saving) -> Result<Self> {
        output::check(&args.output)?;
        let writer = match &args.save {
            Some(path) => {
                Some(Writer::create(path, args.force).with_context(|| format!("cannot save to {}", path.display()))?)
            }
            None => None,
        };
        Ok(Self { reporter: output::reporter(&args.output), writer, redactor: redactor(args.redact)? })
    }

    /// Takes one record. The first failure to write the trace ends saving with a message; watching continues.
    pub fn take(&mut self, record: Record) {
        if let Some(writer) = &mut self.writer
            && let Err(e) = match &self.redactor {
                Some(redactor) => writer.push(&redactor.record(record.clone())),
                None => writer.push(&record),
            }
        {
            message::print(&format!("stopped saving: {e}; the trace up to here is kept"));
            self.writer = None;
        }
        self.reporter.take(&record);
    }

    /// Ends the trace, with a message if its last part cannot be saved.
    pub fn finish(mut self) -> Reporter {
        if let Some(writer) = self.writer.take()
            && let Err(e) = writer.finish()
        {
            message::print(&format!("cannot save the last part of the trace: {e}"));
        }
        self.reporter
    }
}
