//! Measures the speed and the memory of reading and analysing a trace on one CPU:
//! `cargo bench -p tracer-report --bench replay [-- FILE | EVENTS]`.
//!
//! Without a file, it builds a trace of EVENTS events from the kernel records of a fixture, repeated at later times.
//! Then it creates many objects of each kind, to measure the memory of one.
//! Then it runs the detectors on a large model, as the flight recorder does while it records.
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

/// Default number of kernel records in the large trace.
const EVENTS: usize = 3_000_000;
/// Processes and objects of the large model.
const PROCESSES: u32 = 60_000;
const OBJECTS: i32 = 15_000;
/// IPC namespace of the objects.
const NS: u32 = 1;

fn main() -> Result<()> {
    let word = std::env::args().skip(1).find(|word| word != "--bench");
    let events = word.as_ref().and_then(|word| word.parse().ok());
    let given = word.filter(|_| events.is_none()).map(PathBuf::from);
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("large.trace");
    let path = match given {
        Some(path) => path,
        None => {
            write(&made, events.unwrap_or(EVENTS))?;
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
        "{}: {records} records, {kernel} of them events; {bytes} bytes, {:.1} bytes per event ({:.0} before compression)",
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
    println!("detectors {:.1} ms: {found} findings", started.elapsed().as_secs_f64() * 1e3);
    if path == made {
        std::fs::remove_file(&made).context("cannot remove the large trace")?;
    }
    println!("peak memory so far: {} MiB", status_kib("VmHWM:")? / 1024);
    open_objects()?;
    large_model()
}

/// A memory counter of this process in /proc/self/status.
fn status_kib(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Prints the memory of one object of each kind, created while traced or in the baseline.
fn open_objects() -> Result<()> {
    created_objects()?;
    baseline_objects()
}

fn obj(kind: u32, n: i32) -> ObjRef {
    ObjRef { kind, ns: NS, id: n as u64 }
}

fn created_objects() -> Result<()> {
    let mut name = [0; 32];
    name[..8].copy_from_slice(b"worker-1");
    let ns = NS;
    created("semaphore set, with SETVAL and semop", |id| {
        vec![
            Body::SemCreate(SemCreate { id, nsems: 1, ns, exact: 1, ..SemCreate::default() }),
            Body::SemSet(SemSet { id, ns, value: 1, ..SemSet::default() }),
            Body::SemFirstUse(SemFirstUse { id, ns }),
        ]
    })?;
    let sysv = |kind, id| Body::SysvCreate(SysvCreate { kind, ns, id, exact: 1, size: 4096, ..SysvCreate::default() });
    created("shared memory segment", |id| vec![sysv(kind::SHM, id)])?;
    created("message queue", |id| vec![sysv(kind::MSG, id)])?;
    created("POSIX object", |n| {
        let obj = obj(kind::FILE, n);
        vec![Body::PosixCreate(PosixCreate { obj, exact: 1, name, ..PosixCreate::default() })]
    })?;
    created("small pipe", |n| vec![Body::PipeCreate(PipeCreate { ino: n as u64, slots: 2, ..PipeCreate::default() })])?;
    created("eventfd", |n| vec![Body::EventfdCreate(EventfdCreate { id: n as u64, ..EventfdCreate::default() })])?;
    created("received descriptor of one file", |n| {
        let (fd, obj) = (n as u32, obj(kind::FILE, 1));
        vec![Body::FdReceive(FdReceive { obj, files: 1, sock: 1, fd, name, ..FdReceive::default() })]
    })
}

fn baseline_objects() -> Result<()> {
    let name = |n: i32| format!("/worker-{n}");
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
    existing("semaphore set", |id, all| {
        all.sem_sets.push(SemSetRow { id, nsems: 1, values: vec![SemValue::default()], ..SemSetRow::default() });
    })?;
    existing("shared memory segment", |id, all| {
        all.shm_segments.push(ShmSegment { id, ..ShmSegment::default() });
    })?;
    existing("message queue", |id, all| all.msg_queues.push(MsgQueue { id, ..MsgQueue::default() }))?;
    let named = |what, kind| {
        existing(what, move |n, all| {
            all.posix.get_or_insert_default().objects.push(posix(kind, n));
        })
    };
    named("POSIX semaphore", PosixKind::Sem)?;
    named("POSIX message queue", PosixKind::Mq)?;
    existing("descriptor that another process opened", |n, all| {
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

/// Prints the memory of objects that events create.
fn created(what: &str, bodies: impl Fn(i32) -> Vec<Body>) -> Result<()> {
    memory_of(&format!("{what}, created while traced"), |analyst| {
        for n in 0..OBJECTS {
            for body in bodies(n) {
                analyst.take(&kernel_record((1 << 50) + n as u64 * 1000, &body));
            }
        }
    })
}

/// Prints the memory of objects in the baseline.
fn existing(what: &str, add: impl Fn(i32, &mut Inventory)) -> Result<()> {
    memory_of(&format!("{what}, in the baseline"), |analyst| {
        let mut inventory = Inventory { ts_ns: 1 << 50, until_ns: 1 << 50, ..Inventory::default() };
        (0..OBJECTS).for_each(|n| add(n, &mut inventory));
        analyst.take(&Record::Baseline(inventory));
    })
}

/// Prints the memory per object for [`OBJECTS`] objects, as the allocator counts it, with its own overhead and the spare
/// capacity of tables. If the model dropped objects, it prints the model's own sentences about that.
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

/// Bytes that the allocator has handed out.
fn allocated() -> usize {
    // SAFETY: the call only reads the allocator's counters.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// A record as the eBPF programs would write it.
fn kernel_record(ts_ns: u64, body: &Body) -> Record {
    let mut fields = Vec::new();
    let kind = body.encode(|bytes| fields.extend_from_slice(bytes));
    let mut bytes = Vec::new();
    bytes.extend(ts_ns.to_ne_bytes());
    bytes.extend((1_u64 << 40).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((Site::SemCreate as u16).to_ne_bytes());
    // Process, thread, user, stack; no copy.
    [7, 7, 0, 1, 0_u32].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
    bytes.extend(b"worker\0\0\0\0\0\0\0\0\0\0");
    bytes.extend(fields);
    Record::Kernel(bytes)
}

fn each(path: &Path, visit: &mut dyn FnMut(Record)) -> Result<()> {
    for record in Reader::open(path)? {
        visit(record?);
    }
    Ok(())
}

fn time(what: &str, records: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    work()?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{what:<22} {seconds:.2} s, {:.2} million records per second", records as f64 / seconds / 1e6);
    Ok(())
}

/// Writes the kernel records of a pipe incident again and again, each time a second later.
fn write(path: &Path, events: usize) -> Result<()> {
    let fixture = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/pipe-stall-bug.trace"));
    let all: Vec<Record> = Reader::open(fixture)?.collect::<Result<_, _>>()?;
    let mut writer = Writer::create(path, true)?;
    let is_first = |r: &&Record| matches!(r, Record::Session(_) | Record::Baseline(_));
    all.iter().filter(is_first).try_for_each(|r| writer.push(r))?;
    let kernel: Vec<&Vec<u8>> =
        all.iter().filter_map(|r| if let Record::Kernel(bytes) = r { Some(bytes) } else { None }).collect();
    let mut written = 0;
    for second in 0.. {
        for bytes in &kernel {
            let mut bytes = (*bytes).clone();
            if let Some(ts) = bytes.first_chunk_mut::<8>() {
                *ts = (u64::from_ne_bytes(*ts) + second * 1_000_000_000 + written as u64).to_ne_bytes();
            }
            writer.push(&Record::Kernel(bytes))?;
            written += 1;
        }
        if written >= events {
            break;
        }
    }
    writer.finish()?;
    Ok(())
}

/// Measures the detectors on a busy machine, as the flight recorder runs them every few seconds.
fn large_model() -> Result<()> {
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
        "a model of {PROCESSES} processes, {OBJECTS} semaphore sets and segments: baseline {:.1} ms, detectors {:.1} ms: \
         {found} findings",
        took.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}
