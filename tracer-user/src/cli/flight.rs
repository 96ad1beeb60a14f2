//! `record --flight-recorder`: the last minutes in memory, written out when there is a finding or a signal.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::args::Record as Args;
use super::record::{Losses, say, size};
use super::watch;
use tracer_analysis::analyst::Analyst;
use tracer_analysis::finding::time::wall_rfc3339;
use tracer_analysis::finding::{Finding, Severity};
use tracer_collector::inventory;
use tracer_collector::stream::{Live, Renewal};
use tracer_record::Record;
use tracer_trace::{Flight, Keep, TraceError, Writer};

/// Between two looks for findings; longer if a look takes more than a hundredth of that.
const LOOKS: Duration = Duration::from_secs(5);
const LOOK_SHARE: u32 = 100;
/// Between the beginnings of two traces.
const DUMPS: Duration = Duration::from_secs(60);
/// What a trace is called that nobody's finding caused.
const ASKED: &str = "asked";
/// What tells findings apart that are remembered; more are as one.
const KNOWN_MAX: usize = 4096;

/// Runs it. What is kept, judged and said is what `redacted` makes of the records.
///
/// # Errors
/// Signals cannot be caught, the folder is not there, or the collector failed.
pub async fn record(args: &Args, mut live: Live, redacted: impl Fn(Record) -> Record) -> Result<u8> {
    let prefix = prefix(&args.output)?;
    let asked = Cell::new(false);
    let mut user = signal(SignalKind::user_defined1()).context("cannot catch SIGUSR1")?;
    let mut recorder = Recorder {
        args,
        prefix,
        renewal: live.renewal(),
        asked: &asked,
        flight: Flight::new(Keep { time: args.flight.keep, bytes: args.flight.memory }),
        analysts: VecDeque::new(),
        known: BTreeMap::new(),
        dump: None,
        last_dump: None,
        files: VecDeque::new(),
        written: 0,
        looked: Instant::now(),
        pause: LOOKS,
        shortened: 0,
        losses: Losses::default(),
    };
    let started = Instant::now();
    watch::begin(&mut live, &mut |r| recorder.take(&redacted(r)));
    let stopped = watch::stopped(args.duration)?;
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

/// What the names of traces begin with: of a folder its name and the program's.
fn prefix(output: &std::path::Path) -> Result<OsString> {
    if output.is_dir() {
        return Ok(output.join("ipctrace").into_os_string());
    }
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    anyhow::ensure!(folder.is_dir(), "{} is no folder; make it, or give another name", folder.display());
    anyhow::ensure!(output.file_name().is_some(), "{} is no name for files", output.display());
    Ok(output.as_os_str().to_owned())
}

/// What a finding is about, whatever its numbers are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Object(String, String, String, Option<u32>),
    /// Its first process, if there is no object.
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

/// Records on their way to memory, to the analysts, and to a trace while one is written.
struct Recorder<'a> {
    args: &'a Args,
    prefix: OsString,
    renewal: Renewal,
    /// SIGUSR1 came.
    asked: &'a Cell<bool>,
    flight: Flight,
    /// One for each segment: the oldest knows exactly what a trace written now would hold.
    analysts: VecDeque<Analyst>,
    /// Findings that a trace was written for, and when they were last there.
    known: BTreeMap<Key, Instant>,
    dump: Option<Dump>,
    last_dump: Option<Instant>,
    /// Written by this run and still there, the oldest first.
    files: VecDeque<PathBuf>,
    written: u64,
    looked: Instant,
    pause: Duration,
    shortened: u64,
    losses: Losses,
}

impl Recorder<'_> {
    fn take(&mut self, record: &Record) {
        self.losses.take(record);
        if let Err(e) = self.flight.push(record) {
            say(&format!("a record is not kept: {e}"));
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
            let memory = size(self.args.flight.memory as u64);
            say(&format!(
                "less time than asked for is kept, because it does not fit into {memory}; give more --memory"
            ));
        }
        self.shortened = shortened;
        if self.dump.as_ref().is_some_and(|d| Instant::now() >= d.until) {
            self.end_dump(true);
        }
        let may_begin = self.dump.is_none() && self.last_dump.is_none_or(|at| at.elapsed() >= DUMPS);
        if self.asked.get() && may_begin {
            self.asked.set(false);
            self.begin_dump(ASKED);
        }
        if self.looked.elapsed() >= self.pause {
            self.look(may_begin && self.dump.is_none());
        }
    }

    /// Looks for findings that were not there before. What comes when no trace may begin is looked for again later, but
    /// what appears while one is written is in that.
    fn look(&mut self, may_begin: bool) {
        let started = Instant::now();
        let mut findings = self.analysts.front().map(Analyst::findings).unwrap_or_default();
        let took = started.elapsed();
        tracing::debug!("look_us={}", took.as_micros());
        self.looked = Instant::now();
        self.pause = LOOKS.max(took * LOOK_SHARE);
        let triggers = &self.args.flight.trigger;
        findings.retain(|f| match triggers.is_empty() {
            true => f.severity <= Severity::Warning,
            false => triggers.iter().any(|t| t.0.contains(&f.code.as_str())),
        });
        let keep = self.args.flight.keep;
        self.known.retain(|_, at| at.elapsed() < keep);
        let fresh = findings.iter().find(|f| !self.known.contains_key(&key(f)));
        let code = fresh.map(|f| f.code.clone());
        if let Some(f) = fresh.filter(|_| may_begin) {
            say(&format!("found {}: {}", f.code, f.title));
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
        let written = Writer::create(&path, self.args.force).and_then(|mut writer| {
            let written = self.flight.write(&mut writer);
            written.map(|()| writer).inspect_err(|_| {
                // It may lack its middle; what it was made of is still in memory.
                let _ = std::fs::remove_file(&path);
            })
        });
        match written {
            Ok(writer) => {
                let after = self.args.flight.after;
                say(&format!("writing {} for {:.0} s more", path.display(), after.as_secs_f64()));
                self.dump = Some(Dump { writer, until: Instant::now() + after });
                self.files.push_back(path);
                self.written += 1;
                while self.files.len() > usize::from(self.args.flight.dumps) {
                    self.remove_oldest();
                }
            }
            Err(e) => say(&format!("no trace of {code}: {e}")),
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
            say(&format!("cannot remove {}: {e}", path.display()));
        }
    }

    /// Ends a trace in the middle of the stream, or after the stream's own end.
    fn end_dump(&mut self, middle: bool) {
        let Some(mut dump) = self.dump.take() else { return };
        let ended = if middle { dump.writer.push(&Record::End { ts_ns: inventory::boot_ns() }) } else { Ok(()) };
        if let Err(e) = ended {
            say(&format!("the end of a trace is missing: {e}"));
            return;
        }
        // Bringing it to the disk may take long.
        let finish = move || {
            if let Err(e) = dump.writer.finish() {
                say(&format!("the end of a trace is missing: {e}"));
            }
        };
        if middle { drop(tokio::task::spawn_blocking(finish)) } else { finish() }
    }

    fn give_up(&mut self, e: &TraceError) {
        say(&e.to_string());
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
        say(&format!("watched for {time:.1} s, {memory} in memory, {}; {written}", self.losses.words()));
    }
}
