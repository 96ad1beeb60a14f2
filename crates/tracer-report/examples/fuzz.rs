//! Fuzzes reader, analyst and reports with mutated traces, in this process: `cargo xtask fuzz`. No trace may cause a panic.
//! With `--reader`, short traces go through reader and decoder only: a hundred times as many in the same time.
//!
//! The corpus is `tests/fixtures`, once with events as recorded and once repacked as this version writes them. Most
//! mutations change records and repack them with valid lengths and checksums, so that they pass the reader; some change
//! the file. The number of a run determines its file, on any machine.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_analysis::analyst::Analyst;
use tracer_record::{Record, decode};
use tracer_trace::{MAGIC, Reader, VERSION, Writer};

/// Numbers at which arithmetic is likely to fail.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 63, 64, 255, 65_535, 1 << 31, (1 << 32) - 1, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
const STRINGS: [&str; 6] =
    ["", "\u{1b}[2J\r\n", "\u{202e}\u{0}", "..", "/\u{fffd}", "😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀"];
/// States of processes, and invalid ones.
const LETTERS: [&str; 7] = ["S", "D", "Z", "R", "T", "\u{0}", "😀"];
/// Tags of records: events, packed events, two others, and an unknown one.
const TAGS: [u8; 5] = [1, 255, 5, 12, 200];
/// Records in a short trace.
const SHORT: usize = 8;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

thread_local! {
    /// Place and message of the last panic.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn main() -> Result<()> {
    let options = Options::read()?;
    let corpus = corpus(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")))?;
    println!("{} traces, {} records", corpus.len(), corpus.iter().map(Vec::len).sum::<usize>());
    std::panic::set_hook(Box::new(|info| PANIC.set(Some(info.to_string()))));
    let (started, mut reported) = (Instant::now(), Instant::now());
    let mut panics: BTreeMap<String, u64> = BTreeMap::new();
    let (mut bytes, mut slowest) = (0, (Duration::ZERO, 0));
    let (mut done, mut whole) = (0_u64, 0_u64);
    for number in options.first..options.first.saturating_add(options.runs) {
        if options.seconds.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        let file = mutant(&corpus, number, options.reader)?;
        bytes += file.len();
        let run = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| if options.reader { decoded(&file) } else { detect(&file) }));
        slowest = slowest.max((run.elapsed(), number));
        whole += u64::from(matches!(ended, Ok(true)));
        if ended.is_err() {
            let what = PANIC.take().unwrap_or_default();
            if !panics.contains_key(&what) {
                let path = keep(&file, number)?;
                println!("run {number}: {what}\n  kept as {}", path.display());
            }
            *panics.entry(what).or_default() += 1;
        }
        done += 1;
        if reported.elapsed() >= PROGRESS {
            reported = Instant::now();
            println!("{done} runs, {:.0} per second", done as f64 / started.elapsed().as_secs_f64());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{done} runs from number {} in {seconds:.1} s: {:.0} per second, {:.1} MB of traces, {} % read to their end; \
         slowest: run {} with {:.0} ms",
        options.first,
        done as f64 / seconds,
        bytes as f64 / 1e6,
        100 * whole / done.max(1),
        slowest.1,
        slowest.0.as_secs_f64() * 1e3
    );
    ensure!(panics.is_empty(), "{} different panics, in {} runs", panics.len(), panics.values().sum::<u64>());
    println!("no panic");
    Ok(())
}

struct Options {
    first: u64,
    runs: u64,
    seconds: Option<Duration>,
    reader: bool,
}

impl Options {
    /// `--runs N`, `--first N`, `--seconds N`, `--reader`. Cargo adds `--bench`.
    fn read() -> Result<Self> {
        let mut out = Self { first: 0, runs: u64::MAX, seconds: None, reader: false };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64> {
                words.next().with_context(|| format!("{word} needs a number"))?.parse().context("not a number")
            };
            match word.as_str() {
                "--first" => out.first = number()?,
                "--runs" => out.runs = number()?,
                "--reader" => out.reader = true,
                "--seconds" => out.seconds = Some(Duration::from_secs(number()?)),
                _ => anyhow::bail!("unknown option {word}; there are --runs, --first, --seconds and --reader"),
            }
        }
        ensure!(out.runs < u64::MAX || out.seconds.is_some(), "give --runs N or --seconds N");
        Ok(out)
    }
}

/// Does everything that `report` does with a file, in each format; true if it could be read to its end.
fn detect(file: &[u8]) -> bool {
    let mut analyst = Analyst::default();
    let Ok(mut reader) = Reader::new(Cursor::new(file)) else { return false };
    let mut whole = true;
    for record in &mut reader {
        match record {
            Ok(record) => analyst.take(&record),
            Err(e) => {
                analyst.problem(e.to_string());
                whole = false;
            }
        }
    }
    let found = tracer_report::reporter::report(&analyst);
    let text = tracer_report::text::render(&found, 100, false);
    let _ = std::hint::black_box((
        text,
        tracer_report::json::render(&found).is_ok(),
        tracer_report::json::render_lines(&found).is_ok(),
    ));
    whole
}

/// Only reads a file and decodes its records; true if it could be read to its end.
fn decoded(file: &[u8]) -> bool {
    let Ok(reader) = Reader::new(Cursor::new(file)) else { return false };
    let mut whole = true;
    for record in reader {
        match record {
            Ok(Record::Kernel(bytes)) => drop(std::hint::black_box(decode::kernel(&bytes))),
            Ok(_) => {}
            Err(_) => whole = false,
        }
    }
    whole
}

fn keep(file: &[u8], number: u64) -> Result<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tmp/fuzz"));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {folder:?}"))?;
    let path = folder.join(format!("{number}.trace"));
    std::fs::write(&path, file).with_context(|| format!("cannot write {path:?}"))?;
    Ok(path)
}

/// A record as stored on disk.
#[derive(Clone)]
struct Raw {
    tag: u8,
    payload: Vec<u8>,
}

fn corpus(folder: &Path) -> Result<Vec<Vec<Raw>>> {
    let entries = std::fs::read_dir(folder).context("the folder of fixtures")?;
    let mut paths: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "trace"));
    paths.sort();
    ensure!(!paths.is_empty(), "no trace in {folder:?}");
    let again = tempfile::NamedTempFile::new().context("a file for traces written anew")?;
    let mut out = Vec::new();
    for path in &paths {
        rewrite(path, again.path()).with_context(|| format!("cannot write {path:?} anew"))?;
        for path in [path.as_path(), again.path()] {
            out.push(records(&std::fs::read(path)?).with_context(|| format!("cannot take apart {path:?}"))?);
        }
    }
    Ok(out)
}

/// The same trace as this version writes it.
fn rewrite(from: &Path, to: &Path) -> Result<()> {
    let mut writer = Writer::create(to, true)?;
    for record in Reader::open(from)? {
        writer.push(&record?)?;
    }
    Ok(writer.finish()?)
}

/// Splits a whole trace into records.
fn records(file: &[u8]) -> Result<Vec<Raw>> {
    let mut out = Vec::new();
    let mut rest = file.get(16..).context("no header")?;
    while !rest.is_empty() {
        let (len, after) = number(rest)?;
        let (_, after) = number(after)?;
        let data = after.get(..len).context("a chunk is cut off")?;
        rest = after.get(len..).unwrap_or_default();
        let raw = zstd::bulk::decompress(data, 64 << 20)?;
        let mut raw = raw.as_slice();
        while let Some((tag, after)) = raw.split_first() {
            let (len, after) = number(after)?;
            out.push(Raw { tag: *tag, payload: after.get(..len).context("a record is cut off")?.to_vec() });
            raw = after.get(len..).unwrap_or_default();
        }
    }
    Ok(out)
}

fn number(bytes: &[u8]) -> Result<(usize, &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<4>().context("a number is cut off")?;
    Ok((u32::from_le_bytes(*first) as usize, rest))
}

/// Writes records into a file, in chunks of random sizes.
fn file(records: &[Raw], dice: &mut Dice) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 4]);
    let mut rest = records;
    while !rest.is_empty() {
        let (some, after) = rest.split_at(1 + dice.below(rest.len().min(200)));
        rest = after;
        let mut raw = Vec::new();
        for r in some {
            raw.push(r.tag);
            raw.extend(u32::try_from(r.payload.len())?.to_le_bytes());
            raw.extend(&r.payload);
        }
        let data = zstd::bulk::compress(&raw, 1)?;
        out.extend(u32::try_from(data.len())?.to_le_bytes());
        out.extend(crc32fast::hash(&data).to_le_bytes());
        out.extend(data);
    }
    Ok(out)
}

/// The file of a run: a mutated trace, or a few of its records.
fn mutant(corpus: &[Vec<Raw>], number: u64, short: bool) -> Result<Vec<u8>> {
    let mut dice = Dice::new(number);
    let trace = dice.pick(corpus).context("no corpus")?;
    let (skipped, taken) = if short { (dice.below(trace.len()), 1 + dice.below(SHORT)) } else { (0, trace.len()) };
    let mut records: Vec<Raw> = trace.iter().skip(skipped).take(taken).cloned().collect();
    for _ in 0..1 + dice.below(12) {
        mutate(&mut records, corpus, &mut dice);
    }
    let mut file = file(&records, &mut dice)?;
    if dice.below(10) == 0 {
        for _ in 0..1 + dice.below(4) {
            mutate_bytes(&mut file, &mut dice);
        }
    }
    Ok(file)
}

/// Applies one mutation to one record, or to the order of records.
fn mutate(records: &mut Vec<Raw>, corpus: &[Vec<Raw>], dice: &mut Dice) {
    if records.is_empty() {
        return;
    }
    let at = dice.below(records.len());
    let other = dice.below(records.len());
    match dice.below(12) {
        0 => drop(records.remove(at)),
        1 => records.swap(at, other),
        2 => {
            let again = records.get(at).cloned();
            again.into_iter().for_each(|r| records.insert(other, r));
        }
        3 => {
            // From another trace: its times, processes and objects match nothing here.
            let foreign = dice.pick(corpus).and_then(|trace| dice.pick(trace)).cloned();
            foreign.into_iter().for_each(|r| records.insert(at, r));
        }
        4 => records.truncate(at),
        5 => {
            if let Some(r) = records.get_mut(at) {
                r.tag = dice.pick(&TAGS).copied().unwrap_or_default();
            }
        }
        _ => {
            let Some(r) = records.get_mut(at) else { return };
            if r.tag == 1 {
                mutate_bytes(&mut r.payload, dice);
            } else if let Ok(mut value) = serde_json::from_slice::<Value>(&r.payload) {
                for _ in 0..1 + dice.below(3) {
                    mutate_value(&mut value, dice);
                }
                r.payload = value.to_string().into_bytes();
            } else {
                mutate_bytes(&mut r.payload, dice);
            }
        }
    }
}

/// Mutates binary data, whose fields have one, two, four or eight bytes.
fn mutate_bytes(bytes: &mut Vec<u8>, dice: &mut Dice) {
    if bytes.is_empty() {
        bytes.push(dice.next() as u8);
        return;
    }
    let at = dice.below(bytes.len());
    match dice.below(8) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, dice.next() as u8),
        2 | 3 => {
            if let Some(b) = bytes.get_mut(at) {
                *b ^= 1 << dice.below(8);
            }
        }
        _ => {
            let width = 1 << dice.below(4);
            let at = at / width * width;
            let value = if dice.below(4) == 0 { dice.next() } else { dice.number() };
            for (place, byte) in bytes.iter_mut().skip(at).zip(value.to_le_bytes().iter().take(width)) {
                *place = *byte;
            }
        }
    }
}

/// Descends to a random leaf or list and changes it.
fn mutate_value(value: &mut Value, dice: &mut Dice) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let at = dice.below(map.len());
            let name = map.keys().nth(at).cloned().unwrap_or_default();
            // Most fields are required, and a record that cannot be read ends the trace.
            if dice.below(200) == 0 {
                map.remove(&name);
            } else if let Some(inner) = map.get_mut(&name) {
                mutate_value(inner, dice);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let (at, other) = (dice.below(list.len()), dice.below(list.len()));
            match dice.below(8) {
                0 => drop(list.remove(at)),
                1 => list.swap(at, other),
                2 => {
                    let again = list.get(at).cloned();
                    again.into_iter().for_each(|v| list.insert(other, v));
                }
                _ => list.get_mut(at).into_iter().for_each(|inner| mutate_value(inner, dice)),
            }
        }
        Value::Number(n) => {
            let near = n.as_u64().unwrap_or(0);
            // A value that does not fit its field cannot be read, so most mutations keep the size.
            let fitting = if near > u64::from(u32::MAX) { u64::MAX } else { i32::MAX as u64 };
            *value = match dice.below(12) {
                0 | 1 => near.saturating_add(1).into(),
                2 | 3 => near.saturating_sub(1).into(),
                4 => (dice.number() as i64).into(),
                5 => (dice.number() as i32).into(),
                6 => dice.number().into(),
                _ => (dice.number() & fitting).into(),
            };
        }
        Value::String(s) if s.chars().count() == 1 => *value = dice.pick(&LETTERS).copied().unwrap_or_default().into(),
        Value::String(_) => *value = dice.pick(&STRINGS).copied().unwrap_or_default().into(),
        Value::Bool(b) => *b = !*b,
        // The type of its value is unknown.
        Value::Null if dice.below(4) == 0 => *value = dice.number().into(),
        Value::Null | Value::Object(_) | Value::Array(_) => {}
    }
}

/// Random numbers, the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    fn number(&mut self) -> u64 {
        self.pick(&NUMBERS).copied().unwrap_or(0)
    }
}
