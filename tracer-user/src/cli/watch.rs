//! `watch`: attach, wait, report.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Probing, Saving, Watch};
use super::{output, redact, target};
use tracer_collector::stream::{Live, Options, Target};
use tracer_record::redact::Redactor;
use tracer_report::Reporter;
use tracer_trace::Writer;

/// Runs the command.
///
/// # Errors
/// Whatever keeps it from attaching, and failures to write the report.
pub fn main(args: &Watch) -> Result<u8> {
    let target = target::resolve(&args.whom, "watch")?;
    runtime()?.block_on(async {
        output::check(&args.saving.output)?;
        let mut live = Live::attach(options(target, &args.probing))?;
        let mut session = Session::open(&args.saving)?;
        session.begin(&mut live);
        live.run(stopped(args.duration)?, &mut |r| session.take(r)).await?;
        drop(live);
        output::write(&session.finish(), &args.saving.output)?;
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

/// Ends with Ctrl-C, SIGTERM, SIGHUP or after `limit`.
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

/// Reads the baseline and says `ready`.
pub fn begin(live: &mut Live, sink: &mut dyn FnMut(tracer_record::Record)) {
    let started = Instant::now();
    live.baseline(sink);
    tracing::debug!("baseline_us={}", started.elapsed().as_micros());
    eprintln!("ready");
}

/// The analyst's end of a run: the trace file and the model.
pub struct Session {
    reporter: Reporter,
    writer: Option<Writer>,
    /// The trace has no names.
    redactor: Option<Redactor>,
}

impl Session {
    /// Opens the trace file before anything is attached for long.
    ///
    /// # Errors
    /// The trace file cannot be made, or the report's could not.
    pub fn open(args: &Saving) -> Result<Self> {
        output::check(&args.output)?;
        let writer = match &args.save {
            Some(path) => {
                Some(Writer::create(path, args.force).with_context(|| format!("cannot save to {}", path.display()))?)
            }
            None => None,
        };
        Ok(Self { reporter: output::reporter(&args.output), writer, redactor: redact::redactor(args.redact)? })
    }

    /// Reads the baseline and says `ready`.
    pub fn begin(&mut self, live: &mut Live) {
        begin(live, &mut |r| self.take(r));
    }

    /// Takes one record. A trace file that cannot be written any more is said once; watching goes on.
    pub fn take(&mut self, record: tracer_record::Record) {
        if let Some(writer) = &mut self.writer
            && let Err(e) = match &self.redactor {
                Some(redactor) => writer.push(&redactor.record(record.clone())),
                None => writer.push(&record),
            }
        {
            eprintln!("ipctrace: saving ended: {e}; what was written is kept");
            self.writer = None;
        }
        self.reporter.take(&record);
    }

    /// Ends the trace. What of it could not be saved is said.
    pub fn finish(mut self) -> Reporter {
        if let Some(writer) = self.writer.take()
            && let Err(e) = writer.finish()
        {
            eprintln!("ipctrace: the trace's last part could not be saved: {e}");
        }
        self.reporter
    }
}
