//! `record --flight-recorder`: keeps the last minutes in memory, and writes them to a trace at a finding or a signal.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::message::{self, Losses, size};
use super::value::{Codes, codes, duration, memory_bytes};
use super::watch;
use tracer_analysis::analyst::Analyst;
use tracer_analysis::finding::time::wall_rfc3339;
use tracer_analysis::finding::{Finding, Severity};
use tracer_collector::inventory;
use tracer_collector::stream::{Live, Renewal};
use tracer_record::Record;
use tracer_trace::{Flight, Keep, TraceError, Writer};

/// Shortest time between two runs of the detectors. It grows with their cost, to keep that below one part in
/// `DETECT_SHARE` of the time.
const DETECT_INTERVAL: Duration = Duration::from_secs(5);
const DETECT_SHARE: u32 = 100;
/// Shortest time between the starts of two traces.
const DUMP_INTERVAL: Duration = Duration::from_secs(60);
/// Stands for the finding code in the name of a trace that a signal requested.
const ASKED: &str = "asked";
/// At most this many findings are remembered; without memory of a finding, it triggers again.
const KNOWN_MAX: usize = 4096;

/// What the flight recorder keeps, and when it writes.
#[derive(Debug, clap::Args)]
pub struct FlightOptions {
    /// Keep this much time before a finding
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "flight_recorder", value_parser = duration)]
    keep: Duration,
    /// Write a trace at these findings; `*-leak` matches all codes with this ending [default: any warning or worse]
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', requires = "flight_recorder", value_parser = codes)]
    trigger: Vec<Codes>,
    /// Continue a trace for this time after its finding
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "flight_recorder", value_parser = duration)]
    after: Duration,
    /// Use this much memory for the compressed records; suffixes K, M and G are powers of 1024
    #[arg(long, value_name = "N", default_value = "64M", requires = "flight_recorder", value_parser = memory_bytes)]
    memory: usize,
    /// Keep this many traces of this run; the oldest is removed
    #[arg(long, value_name = "N", default_value_t = 5, requires = "flight_recorder", value_parser = clap::value_parser!(u16).range(1..))]
    dumps: u16,
}

/// Where the traces go.
pub struct Output<'a> {
    /// A directory, or the prefix of the traces' names.
    pub path: &'a Path,
    /// Replace existing files.
    pub force: bool,
}

/// Runs the flight recorder. It keeps, analyses and prints what `redacted` returns for each record.
///
/// # Errors
/// Signals cannot be caught, the directory does not exist, or the collector failed.
pub async fn record(
    options: &FlightOptions,
    output: &Output<'_>,
    limit: Option<Duration>,
    mut live: Live,
    redacted: impl Fn(Record) -> Record,
) -> Result<u8> {
    let prefix = prefix(output.path)?;
    let asked = Cell::new(false);
    let mut user = signal(SignalKind::user_defined1()).context("cannot catch SIGUSR1")?;
    let mut recorder = Recorder {
        options,
        prefix,
        force: output.force,
        renewal: live.renewal(),
        asked: &asked,
        flight: Flight::new(Keep { time: options.keep, bytes: options.memory }),
        analysts: VecDeque::new(),
        known: BTreeMap::new(),
        dump: None,
        last_dump: None,
        files: VecDeque::new(),
        written: 0,
        detected: Instant::now(),
        pause: DETECT_INTERVAL,
        shortened: 0,
        losses: Losses::default(),
    };
    let started = Instant::now();
    watch::read_baseline(&mut live, &mut |r| recorder.take(&redacted(r)));
    let stopped = watch::stopped(limit)?;
    let ended = async {
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                _ = user.recv() => asked.set(true),
            }
        }
    };
    live.run(ended, &mut |r| recorder.take(&redacted(r))).await?;
    drop(live);
    recorder.finish(started.elapsed());
    Ok(0)
}

/// The prefix of the traces' names: `DIR/ipctrace` for a directory.
fn prefix(output: &Path) -> Result<OsString> {
    if output.is_dir() {
        return Ok(output.join("ipctrace").into_os_string());
    }
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(folder.is_dir(), "{} is not a directory; create it, or give another name", folder.display());
    anyhow::ensure!(output.file_name().is_some(), "{} is not a file name; give another name", output.display());
    Ok(output.as_os_str().to_owned())
}

/// Identifies a finding whatever its numbers are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Object(String, String, String, Option<u32>),
    /// The first process, if the finding has no object.
    Process(String, Option<u32>),
}

fn key(f: &Finding) -> Key {
    match &f.object {
        Some(o) => Key::Object(f.code.clone(), o.kind.clone(), o.id.clone(), o.ns),
        None => Key::Process(f.code.clone(), f.processes.first().map(|p| p.pid)),
    }
}

/// A trace being written.
struct Dump {
    writer: Writer,
    until: Instant,
}

/// Passes records to memory, to the analysts, and to a trace while one is being written.
struct Recorder<'a> {
    options: &'a FlightOptions,
    prefix: OsString,
    force: bool,
    renewal: Renewal,
    /// SIGUSR1 arrived.
    asked: &'a Cell<bool>,
    flight: Flight,
    /// One per segment in memory: the oldest has seen exactly what a trace written now would hold.
    analysts: VecDeque<Analyst>,
    /// Findings that a trace was written for, and when each was last detected.
    known: BTreeMap<Key, Instant>,
    dump: Option<Dump>,
    last_dump: Option<Instant>,
    /// Traces of this run that still exist, the oldest first.
    files: VecDeque<PathBuf>,
    written: u64,
    /// When the detectors last ran, and how long they pause after that.
    detected: Instant,
    pause: Duration,
    shortened: u64,
    losses: Losses,
}

impl Recorder<'_> {
    fn take(&mut self, record: &Record) {
        self.losses.take(record);
        if let Err(e) = self.flight.push(record) {
            message::print(&format!("dropped a record: {e}"));
        }
        if matches!(record, Record::Session(_)) {
            self.analysts.push_back(Analyst::default());
            if let Some(newest) = self.analysts.back_mut() {
                newest.take(record);
            }
        } else {
            self.analysts.iter_mut().for_each(|a| a.take(record));
            // A trace has one session, its first.
            if let Some(dump) = &mut self.dump
                && let Err(e) = dump.writer.push(record)
            {
                self.give_up(&e);
            }
        }
        while self.analysts.len() > self.flight.segments() {
            self.analysts.pop_front();
        }
        if matches!(record, Record::Tick { .. }) {
            self.tick();
        }
    }

    /// Once a second.
    fn tick(&mut self) {
        if self.flight.is_turn_due() {
            self.renewal.ask();
        }
        let (_, shortened) = self.flight.used();
        if shortened > 0 && self.shortened == 0 {
            let memory = size(self.options.memory as u64);
            message::print(&format!("{memory} do not hold the time of --keep; increase --memory"));
        }
        self.shortened = shortened;
        if self.dump.as_ref().is_some_and(|d| Instant::now() >= d.until) {
            self.end_dump(true);
        }
        let may_begin = self.dump.is_none() && self.last_dump.is_none_or(|at| at.elapsed() >= DUMP_INTERVAL);
        if self.asked.get() && may_begin {
            self.asked.set(false);
            self.begin_dump(ASKED);
        }
        if self.detected.elapsed() >= self.pause {
            self.detect(may_begin && self.dump.is_none());
        }
    }

    /// Runs the detectors and starts a trace at a new finding. A finding made while no trace may start stays new,
    /// except while a trace is being written, which then contains it.
    fn detect(&mut self, may_begin: bool) {
        let started = Instant::now();
        let mut findings = self.analysts.front().map(Analyst::findings).unwrap_or_default();
        let took = started.elapsed();
        tracing::debug!("detect_us={}", took.as_micros());
        self.detected = Instant::now();
        self.pause = DETECT_INTERVAL.max(took * DETECT_SHARE);
        let triggers = &self.options.trigger;
        findings.retain(|f| match triggers.is_empty() {
            true => f.severity <= Severity::Warning,
            false => triggers.iter().any(|t| t.0.contains(&f.code.as_str())),
        });
        let keep = self.options.keep;
        self.known.retain(|_, at| at.elapsed() < keep);
        let fresh = findings.iter().find(|f| !self.known.contains_key(&key(f)));
        let code = fresh.map(|f| f.code.clone());
        if let Some(f) = fresh.filter(|_| may_begin) {
            message::print(&format!("found {}: {}", f.code, f.title));
        }
        let now_known = self.dump.is_some() || may_begin;
        for f in &findings {
            let known = key(f);
            if self.known.contains_key(&known) || (now_known && self.known.len() < KNOWN_MAX) {
                self.known.insert(known, Instant::now());
            }
        }
        if let Some(code) = code.filter(|_| may_begin) {
            self.begin_dump(&code);
        }
    }

    fn begin_dump(&mut self, code: &str) {
        self.last_dump = Some(Instant::now());
        let path = self.name(code);
        let written = Writer::create(&path, self.force).and_then(|mut writer| {
            let written = self.flight.write(&mut writer);
            written.map(|()| writer).inspect_err(|_| {
                // It may be incomplete, and its records are still in memory.
                let _ = std::fs::remove_file(&path);
            })
        });
        match written {
            Ok(writer) => {
                let after = self.options.after;
                message::print(&format!("writing {} for another {:.0} s", path.display(), after.as_secs_f64()));
                self.dump = Some(Dump { writer, until: Instant::now() + after });
                self.files.push_back(path);
                self.written += 1;
                while self.files.len() > usize::from(self.options.dumps) {
                    self.remove_oldest();
                }
            }
            Err(e) => message::print(&format!("cannot write a trace of {code}: {e}")),
        }
    }

    /// `PREFIX-20261122T014500Z-CODE.trace`
    fn name(&self, code: &str) -> PathBuf {
        let time: String =
            wall_rfc3339(inventory::wall_ns().into()).chars().filter(|c| *c != '-' && *c != ':').collect();
        let seconds = time.split('.').next().unwrap_or_default();
        let mut name = self.prefix.clone();
        name.push(format!("-{seconds}Z-{code}.trace"));
        name.into()
    }

    fn remove_oldest(&mut self) {
        if let Some(path) = self.files.pop_front()
            && let Err(e) = std::fs::remove_file(&path)
        {
            message::print(&format!("cannot remove {}: {e}", path.display()));
        }
    }

    /// Ends the trace: in the middle of the stream, or after the stream's own end.
    fn end_dump(&mut self, middle: bool) {
        let Some(mut dump) = self.dump.take() else { return };
        let ended = if middle { dump.writer.push(&Record::End { ts_ns: inventory::boot_ns() }) } else { Ok(()) };
        let warn = |e| message::print(&format!("the end of a trace is missing: {e}"));
        if let Err(e) = ended {
            warn(e);
            return;
        }
        // The final sync to disk may take long.
        let finish = move || {
            if let Err(e) = dump.writer.finish() {
                warn(e);
            }
        };
        if middle { drop(tokio::task::spawn_blocking(finish)) } else { finish() }
    }

    fn give_up(&mut self, e: &TraceError) {
        message::print(&e.to_string());
        self.dump = None;
    }

    fn finish(mut self, elapsed: Duration) {
        self.end_dump(false);
        let files: Vec<String> = self.files.iter().map(|f| f.display().to_string()).collect();
        let (bytes, _) = self.flight.used();
        let written = match self.written {
            0 => "no trace written".to_owned(),
            n if n > files.len() as u64 => format!("{n} traces written, the last: {}", files.join(", ")),
            n => format!("{n} written: {}", files.join(", ")),
        };
        let (time, memory) = (elapsed.as_secs_f64(), size(bytes as u64));
        message::print(&format!("watched for {time:.1} s, {memory} in memory, {}; {written}", self.losses.words()));
    }
}
