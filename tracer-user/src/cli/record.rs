//! `record`: attach, wait, write the trace; no analysis, except for the triggers of the flight recorder.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Notify;

use super::args::{Probing, Targets};
use super::message::{self, Losses, size};
use super::redactor::redactor;
use super::value::{duration, part_bytes};
use super::{flight, target, watch};
use tracer_collector::stream::{Live, Renewal};
use tracer_record::Record;
use tracer_report::escape;
use tracer_trace::{Limits, Parts, Recorded, TraceError};

/// Options of `record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    targets: Targets,
    /// Stop after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// The trace; with --flight-recorder a directory, or the prefix of the traces' names
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
    /// Replace names of processes, files, sockets, containers and hosts by tokens
    #[arg(long)]
    redact: bool,
    /// Rotate to a new file (FILE, FILE.1, FILE.2, ...) at this size; suffixes K, M and G are powers of 1024
    #[arg(long, value_name = "N", value_parser = part_bytes)]
    max_size: Option<u64>,
    /// Keep this many files; the oldest is removed
    #[arg(long, value_name = "N", default_value_t = 2, requires = "max_size", value_parser = clap::value_parser!(u16).range(2..))]
    parts: u16,
    /// Keep the last minutes in memory, and write them to a trace at a finding or on SIGUSR1
    #[arg(long, conflicts_with = "max_size")]
    flight_recorder: bool,
    #[command(flatten)]
    flight: flight::FlightOptions,
    #[command(flatten)]
    probing: Probing,
}

/// Runs the command.
///
/// # Errors
/// The probes cannot be attached, or the trace cannot be written.
pub fn main(args: &Args) -> Result<u8> {
    let target = target::resolve(&args.targets, "record")?;
    watch::runtime()?.block_on(async {
        let live = Live::attach(watch::options(target, &args.probing))?;
        let redactor = redactor(args.redact)?;
        let redacted = move |record| match &redactor {
            Some(redactor) => redactor.record(record),
            None => record,
        };
        if args.flight_recorder {
            let output = flight::Output { path: &args.output, force: args.force };
            flight::record(&args.flight, &output, args.duration, live, redacted).await
        } else {
            record(args, live, redacted).await
        }
    })
}

async fn record(args: &Args, mut live: Live, redacted: impl Fn(Record) -> Record) -> Result<u8> {
    let limits = args.max_size.map(|part_bytes| Limits { part_bytes, parts: args.parts.into() });
    let parts = Parts::create(&args.output, args.force, limits).context("cannot record")?;
    let failed = Notify::new();
    let mut recorder =
        Recorder { parts, renewal: live.renewal(), failed: &failed, failure: None, losses: Losses::default() };
    let started = Instant::now();
    watch::read_baseline(&mut live, &mut |r| recorder.take(&redacted(r)));
    let stopped = watch::stopped(args.duration)?;
    let ended = async {
        tokio::select! {
            () = stopped => {}
            () = failed.notified() => {}
        }
    };
    live.run(ended, &mut |r| recorder.take(&redacted(r))).await?;
    drop(live);
    recorder.finish(started.elapsed())
}

/// Writes records to the files.
struct Recorder<'a> {
    parts: Parts,
    renewal: Renewal,
    /// Notified when writing fails for good.
    failed: &'a Notify,
    failure: Option<TraceError>,
    losses: Losses,
}

impl Recorder<'_> {
    fn take(&mut self, record: &Record) {
        if self.failure.is_some() {
            return;
        }
        self.losses.take(record);
        if let Err(e) = self.parts.push(record) {
            self.failure = Some(e);
            self.failed.notify_one();
        }
        if self.parts.is_turn_due() {
            self.renewal.ask();
        }
        self.parts.notes().iter().for_each(|note| message::print(note));
    }

    fn finish(self, elapsed: Duration) -> Result<u8> {
        let (recorded, ended) = self.parts.finish();
        let failure = self.failure.or(ended.err());
        eprintln!("{}", escape(&summary(&recorded, elapsed, &self.losses)));
        // The message includes its cause.
        failure.map_or(Ok(0), |e| anyhow::bail!("recording ended early: {e}"))
    }
}

/// The last line of a recording: files, size, time, and what is missing.
fn summary(r: &Recorded, elapsed: Duration, losses: &Losses) -> String {
    let files: Vec<String> = r.files.iter().map(|f: &PathBuf| f.display().to_string()).collect();
    let mut out = format!("recorded {}: ", files.join(", "));
    if r.parts > 1 {
        out += &format!("the last {} of {} parts, ", r.files.len(), r.parts);
    }
    out += &format!("{}, {} records in {:.1} s, {}", size(r.bytes), r.records, elapsed.as_secs_f64(), losses.words());
    if r.dropped > 0 {
        out += &format!(", {} not written because the disk was full", r.dropped);
    }
    if r.stacks_forgotten > 0 {
        out += &format!(", {} stacks not repeated in each part", r.stacks_forgotten);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_is_there_and_what_is_missing() {
        let mut losses = Losses::default();
        let one = Recorded { files: vec!["a".into()], bytes: 2_621_440, parts: 1, records: 7, ..Recorded::default() };
        let elapsed = Duration::from_millis(1240);
        assert_eq!(summary(&one, elapsed, &losses), "recorded a: 2.5 MiB, 7 records in 1.2 s, nothing lost");
        losses.take(&Record::Lost { ts_ns: 1, site: 2, count: 5 });
        let two = Recorded {
            files: vec!["a.1".into(), "a.2".into()],
            bytes: 17,
            parts: 3,
            records: 7,
            dropped: 3,
            stacks_forgotten: 1,
        };
        assert_eq!(
            summary(&two, elapsed, &losses),
            "recorded a.1, a.2: the last 2 of 3 parts, 17 bytes, 7 records in 1.2 s, 5 events lost, \
             3 not written because the disk was full, 1 stacks not repeated in each part"
        );
    }
}
