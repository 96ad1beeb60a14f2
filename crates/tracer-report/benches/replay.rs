//! How fast a trace is read and judged on one processor, and in how much memory:
//! `cargo bench -p tracer-user --bench replay [-- FILE | EVENTS]`.
//!
//! Without a file, a trace of so many events is made of a fixture's kernel records, told again and again at later times.
//! Then objects of each kind are made that stay, for the memory of one.
//! Then a large model is judged: the flight recorder does that while it records.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use tracer_analysis::analyst::Analyst;
use tracer_common::event::{
    Body, EventfdCreate, FdReceive, PipeCreate, PosixCreate, SemCreate, SemFirstUse, SemSet, SysvCreate,
};
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_record::decode;
use tracer_record::{
    Inventory, MsgQueue, PosixKind, PosixObject, PosixQueue, ProcessRow, ReceivedFdsRow, Record, SemSetRow, SemValue,
    Session, ShmSegment,
};
use tracer_trace::{Reader, Writer};

/// Kernel records in the large trace, if nothing else is said.
const EVENTS: usize = 3_000_000;
/// Processes and objects of the large model.
const PROCESSES: u32 = 60_000;
const OBJECTS: i32 = 15_000;

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
            if let Record::Kernel(bytes) = &r {
                black_box(decode::kernel(bytes).is_ok());
            }
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

/// What an open object costs: made while watched, or there before.
fn open_objects() -> Result<()> {
    let (ns, name) = (1, |n: i32| format!("/worker-{n}"));
    let mut named = [0; 32];
    named[..8].copy_from_slice(b"worker-1");
    let posix = |kind, n: i32| PosixObject {
        kind,
        name: name(n),
        path: format!("/dev/shm{}", name(n)),
        dev: 26,
        device: 26,
        ino: n as u64,
        size_bytes: 4096,
        uid: 0,
        gid: 0,
        mode: 0o600,
        mtime: 1,
        ctime: 1,
        queue: (kind == PosixKind::Mq).then(|| PosixQueue { attributes: Some([0, 10, 8192]), ..PosixQueue::default() }),
        holders: Vec::new(),
        complete: true,
    };
    let obj = |kind, n: i32| ObjRef { kind, ns, id: n as u64 };
    made("semaphore set, with SETVAL and semop", |id| {
        vec![
            Body::SemCreate(SemCreate { id, nsems: 1, ns, exact: 1, ..SemCreate::default() }),
            Body::SemSet(SemSet { id, ns, value: 1, ..SemSet::default() }),
            Body::SemFirstUse(SemFirstUse { id, ns }),
        ]
    })?;
    let sysv = |kind, id| Body::SysvCreate(SysvCreate { kind, ns, id, exact: 1, size: 4096, ..SysvCreate::default() });
    made("shared memory segment", |id| vec![sysv(kind::SHM, id)])?;
    made("message queue", |id| vec![sysv(kind::MSG, id)])?;
    made("POSIX object", |n| {
        let obj = obj(kind::FILE, n);
        vec![Body::PosixCreate(PosixCreate { obj, exact: 1, name: named, ..PosixCreate::default() })]
    })?;
    made("small pipe", |n| vec![Body::PipeCreate(PipeCreate { ino: n as u64, slots: 2, ..PipeCreate::default() })])?;
    made("eventfd", |n| vec![Body::EventfdCreate(EventfdCreate { id: n as u64, ..EventfdCreate::default() })])?;
    made("received descriptor of one file", |n| {
        let (fd, obj) = (n as u32, obj(kind::FILE, 1));
        vec![Body::FdReceive(FdReceive { obj, files: 1, sock: 1, fd, name: named, ..FdReceive::default() })]
    })?;
    there("semaphore set", |id, all| {
        all.sem_sets.push(SemSetRow { id, nsems: 1, values: vec![SemValue::default()], ..SemSetRow::default() });
    })?;
    there("shared memory segment", |id, all| {
        all.shm_segments.push(ShmSegment { id, ..ShmSegment::default() });
    })?;
    there("message queue", |id, all| all.msg_queues.push(MsgQueue { id, ..MsgQueue::default() }))?;
    let named = |what, kind| {
        there(what, move |n, all| {
            all.posix.get_or_insert_default().objects.push(posix(kind, n));
        })
    };
    named("POSIX semaphore", PosixKind::Sem)?;
    named("POSIX message queue", PosixKind::Mq)?;
    there("descriptor that another process opened", |n, all| {
        all.passed.get_or_insert_default().push(ReceivedFdsRow {
            tgid: 7,
            opener: 8,
            fds: 1,
            obj: obj(kind::FILE, n).into(),
            link: Some(format!("/srv/data/{n}")),
            ..ReceivedFdsRow::default()
        });
    })
}

/// Objects that events tell.
fn made(what: &str, bodies: impl Fn(i32) -> Vec<Body>) -> Result<()> {
    memory_of(&format!("{what}, made while watched"), |analyst| {
        for n in 0..OBJECTS {
            for body in bodies(n) {
                analyst.take(&kernel_record((1 << 50) + n as u64 * 1000, &body));
            }
        }
    })
}

/// Objects of the baseline.
fn there(what: &str, add: impl Fn(i32, &mut Inventory)) -> Result<()> {
    memory_of(&format!("{what}, there before"), |analyst| {
        let mut inventory = Inventory { ts_ns: 1 << 50, until_ns: 1 << 50, ..Inventory::default() };
        (0..OBJECTS).for_each(|n| add(n, &mut inventory));
        analyst.take(&Record::Baseline(inventory));
    })
}

/// Memory in use for each of [`OBJECTS`] objects, as the allocator counts it, what it adds and keeps idle for tables that
/// grow included. Of few objects there is room for less than that many in the model: of those it takes.
fn memory_of(what: &str, fill: impl FnOnce(&mut Analyst)) -> Result<()> {
    let mut analyst = Analyst::default();
    analyst.take(&Record::Session(Session { wall_ns: 1 << 60, ..Session::default() }));
    let before = allocated();
    fill(&mut analyst);
    let used = allocated().saturating_sub(before);
    let model = analyst.model().context("the analyst has no model")?;
    let left_out: Vec<String> = model.problems();
    println!("{:>4} bytes: {what} {}", used / OBJECTS as usize, left_out.join("; "));
    Ok(())
}

/// Bytes that this process has from its allocator.
fn allocated() -> usize {
    // SAFETY: the call only reads the allocator's counters.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// What the kernel half would write.
fn kernel_record(ts_ns: u64, body: &Body) -> Record {
    let mut fields = Vec::new();
    let kind = body.encode(|bytes| fields.extend_from_slice(bytes));
    let mut bytes = Vec::new();
    bytes.extend(ts_ns.to_ne_bytes());
    bytes.extend((1_u64 << 40).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((Site::SemCreate as u16).to_ne_bytes());
    // Process, thread, user, stack, no copy.
    [7, 7, 0, 1, 0_u32].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
    bytes.extend(b"worker\0\0\0\0\0\0\0\0\0\0");
    bytes.extend(fields);
    Record::Kernel(bytes)
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
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/pipe-stall-bug.trace"));
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
        "a model of {PROCESSES} processes, {OBJECTS} semaphore sets and segments: taken in {:.1} ms, judged in {:.1} ms: \
         {found} findings",
        took.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
