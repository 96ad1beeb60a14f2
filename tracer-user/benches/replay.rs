//! How fast a trace is read and judged on one processor, and in how much memory:
//! `cargo bench -p tracer-user --bench replay [-- FILE | EVENTS]`.
//!
//! Without a file, a trace of so many events is made of a fixture's kernel records, told again and again at later times.
//! Then semaphore sets are created that stay, for the memory of an open object.
//! Then a large world is judged: the flight recorder does that while it records.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use tracer_common::event::{Body, SemCreate};
use tracer_common::site::Site;
use tracer_user::analyst::Analyst;
use tracer_user::decode;
use tracer_user::record::{Inventory, ProcessRow, Record, SemSetRow, SemValue, Session, ShmSegment};
use tracer_user::trace::{Reader, Writer};

/// Kernel records in the large trace, if nothing else is said.
const EVENTS: usize = 3_000_000;
/// Processes and objects of the large world.
const PROCESSES: u32 = 60_000;
const OBJECTS: i32 = 30_000;

fn main() -> Result<()> {
    let word = std::env::args().skip(1).find(|word| word != "--bench");
    let events = word.as_ref().and_then(|word| word.parse().ok());
    let given = word.filter(|_| events.is_none()).map(PathBuf::from);
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("large.trace");
    let path = match given {
        Some(path) => path,
        None => {
            make(&made, events.unwrap_or(EVENTS))?;
            made.clone()
        }
    };
    let bytes = path.metadata().with_context(|| format!("cannot read {path:?}"))?.len();
    let (mut records, mut kernel, mut raw) = (0_u64, 0_u64, 0_u64);
    each(&path, &mut |r| {
        records += 1;
        if let Record::Kernel(bytes) = r {
            kernel += 1;
            raw += bytes.len() as u64;
        }
    })?;
    println!(
        "{}: {records} records, {kernel} of them events; {bytes} bytes, {:.1} bytes an event ({:.0} before compression)",
        path.display(),
        bytes as f64 / kernel.max(1) as f64,
        raw as f64 / kernel.max(1) as f64
    );
    time("read", records, || {
        each(&path, &mut |r| {
            black_box(&r);
        })
    })?;
    time("read, decode", records, || {
        each(&path, &mut |r| {
            black_box(decode::decode(&r).is_ok());
        })
    })?;
    let mut analyst = Analyst::default();
    time("read, decode, model", records, || each(&path, &mut |r| analyst.take(&r)))?;
    let started = Instant::now();
    let found = analyst.findings().len();
    println!("judged in {:.1} ms: {found} findings", started.elapsed().as_secs_f64() * 1e3);
    if path == made {
        std::fs::remove_file(&made).context("cannot remove the large trace")?;
    }
    println!("peak memory so far: {} MiB", status_kib("VmHWM:")? / 1024);
    open_objects()?;
    large_world()
}

/// Memory of this process, by /proc/self/status.
fn status_kib(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read the own status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// What a semaphore set costs that somebody created and did not remove.
fn open_objects() -> Result<()> {
    let mut analyst = Analyst::default();
    analyst.take(&Record::Session(Session { wall_ns: 1 << 60, ..Session::default() }));
    let before = status_kib("VmRSS:")?;
    for id in 0..OBJECTS {
        let body = Body::SemCreate(SemCreate { id, nsems: 1, ns: 1, exact: 1, ..SemCreate::default() });
        let mut fields = Vec::new();
        let kind = body.encode(|bytes| fields.extend_from_slice(bytes));
        let ts_ns: u64 = (1 << 50) + id as u64 * 1000;
        let mut bytes = Vec::new();
        bytes.extend(ts_ns.to_ne_bytes());
        bytes.extend(1_u64.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((Site::SemCreate as u16).to_ne_bytes());
        // Process, thread, user, stack, no copy.
        [7, 7, 0, 1, 0_u32].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
        bytes.extend(b"worker\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(fields);
        analyst.take(&Record::Kernel(bytes));
    }
    let open = analyst.world().map_or(0, |world| world.sems.sets().count());
    anyhow::ensure!(open == OBJECTS as usize, "{open} sets are open");
    let used = status_kib("VmRSS:")?.saturating_sub(before) * 1024;
    println!("{OBJECTS} open semaphore sets: {} bytes each", used / OBJECTS as u64);
    Ok(())
}

fn each(path: &Path, see: &mut dyn FnMut(Record)) -> Result<()> {
    for record in Reader::open(path)? {
        see(record?);
    }
    Ok(())
}

fn time(what: &str, records: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    work()?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:<22} {seconds:.2} s, {:.2} million records a second", records as f64 / seconds / 1e6);
    Ok(())
}

/// Tells the kernel records of a pipe's incident again and again, each time a second later.
fn make(path: &Path, events: usize) -> Result<()> {
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/pipe-stall-bug.trace"));
    let all: Vec<Record> = Reader::open(fixture)?.collect::<Result<_, _>>()?;
    let mut writer = Writer::create(path, true)?;
    let is_first = |r: &&Record| matches!(r, Record::Session(_) | Record::Baseline(_));
    all.iter().filter(is_first).try_for_each(|r| writer.push(r))?;
    let kernel: Vec<&Vec<u8>> =
        all.iter().filter_map(|r| if let Record::Kernel(bytes) = r { Some(bytes) } else { None }).collect();
    let mut told = 0;
    for second in 0.. {
        for bytes in &kernel {
            let mut bytes = (*bytes).clone();
            if let Some(ts) = bytes.first_chunk_mut::<8>() {
                *ts = (u64::from_ne_bytes(*ts) + second * 1_000_000_000 + told as u64).to_ne_bytes();
            }
            writer.push(&Record::Kernel(bytes))?;
            told += 1;
        }
        if told >= events {
            break;
        }
    }
    writer.finish()?;
    Ok(())
}

/// What the flight recorder asks every few seconds, on a machine with much on it.
fn large_world() -> Result<()> {
    let session = Record::Session(Session { wall_ns: 1 << 60, ..Default::default() });
    let process = |n: u32| ProcessRow {
        tgid: n,
        ppid: 1 + n / 10,
        start_ns: u64::from(n) * 10_000_000,
        comm: format!("worker-{}", n % 100),
        state: if n.is_multiple_of(50) { 'Z' } else { 'S' },
        ..ProcessRow::default()
    };
    let inventory = Inventory {
        ts_ns: 1 << 50,
        processes: (1..=PROCESSES).map(process).collect(),
        sem_sets: (0..OBJECTS)
            .map(|id| SemSetRow { id, key: id, values: vec![SemValue::default(); 4], ..SemSetRow::default() })
            .collect(),
        shm_segments: (0..OBJECTS).map(|id| ShmSegment { id, key: id, ..ShmSegment::default() }).collect(),
        ..Inventory::default()
    };
    let mut analyst = Analyst::default();
    analyst.take(&session);
    let started = Instant::now();
    analyst.take(&Record::Baseline(inventory));
    let took = started.elapsed();
    let started = Instant::now();
    let found = analyst.findings().len();
    println!(
        "a world of {PROCESSES} processes, {OBJECTS} semaphore sets and segments: taken in {:.1} ms, judged in {:.1} ms: \
         {found} findings",
        took.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
