//! `record`: attach, wait, keep the raw facts; nothing is judged, unless a finding is what is waited for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Notify;

use super::args::Record as Args;
use super::{flight, redact, target, watch};
use tracer_collector::stream::{Live, Renewal};
use tracer_record::Record;
use tracer_report::escape;
use tracer_trace::{Limits, Parts, Recorded, TraceError};

/// Runs the command.
///
/// # Errors
/// Whatever keeps it from attaching or writing.
pub fn main(args: &Args) -> Result<u8> {
    let target = target::resolve(&args.whom, "record")?;
    watch::runtime()?.block_on(async {
        let live = Live::attach(watch::options(target, &args.probing))?;
        let redactor = redact::redactor(args.redact)?;
        let redacted = move |record| match &redactor {
            Some(redactor) => redactor.record(record),
            None => record,
        };
        if args.flight_recorder {
            flight::record(args, live, redacted).await
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
    watch::begin(&mut live, &mut |r| recorder.take(&redacted(r)));
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

/// Records on their way to the file.
struct Recorder<'a> {
    parts: Parts,
    renewal: Renewal,
    /// Told when nothing can be written any more.
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
        for note in self.parts.notes() {
            say(&note);
        }
    }

    fn finish(self, elapsed: Duration) -> Result<u8> {
        let (recorded, ended) = self.parts.finish();
        let failure = self.failure.or(ended.err());
        eprintln!("{}", escape(&summary(&recorded, elapsed, &self.losses)));
        // The message has its cause in it.
        failure.map_or(Ok(0), |e| anyhow::bail!("recording ended early: {e}"))
    }
}

/// Records that the collector could not take.
#[derive(Debug, Default)]
pub struct Losses(u64);

impl Losses {
    /// Counts what a record tells of.
    pub fn take(&mut self, record: &Record) {
        if let Record::Lost { count, .. } = record {
            self.0 = self.0.saturating_add(*count);
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        match self.0 {
            0 => "nothing lost".to_owned(),
            n => format!("{n} events lost"),
        }
    }
}

/// A line on stderr, safe for a terminal.
pub fn say(text: &str) {
    eprintln!("ipctrace: {}", escape(text));
}

/// Bytes with a unit, as sizes of files are read.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS.get(unit).copied().unwrap_or_default())
}

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
        out += &format!(", stacks too many for each part: {}", r.stacks_forgotten);
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
             3 not written because the disk was full, stacks too many for each part: 1"
        );
    }
}
