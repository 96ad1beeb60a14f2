//! Measures exports: exports a trace of two million records to each format, each in its own process, so that its memory
//! can be measured: `cargo bench -p tracer-report --bench export`.
//!
//! `EXPORT_RECORDS` sets another number of records; `EXPORT_KEEP` names a file that keeps the trace.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)] // reads files, prints: not of the pure crate

use std::io::BufWriter;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use tracer_analysis::analyst::Analyst;
use tracer_common::event::{Body, EventfdCreate, FdClose, FdReceive, PipeCreate, SemCreate, SemRemove, Stall};
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_common::state::PipeState;
use tracer_common::syscall::Syscall;
use tracer_record::redact::{KEY_LEN, Redactor};
use tracer_record::{Frame, ProcessRow, Record, Session};
use tracer_report::export::{Export, Format, Table, Weight, begin};
use tracer_trace::{Reader, Writer};

const RECORDS: u64 = 2_000_000;
const MS: u64 = 1_000_000;
const START: u64 = 1_000_000 * MS;
/// Contains a format and a trace; the process then runs only that export.
const CHILD: &str = "EXPORT_CHILD";
/// An additional task beside the formats.
const REDACT: &str = "redact";

fn main() -> Result<()> {
    if let Some(task) = std::env::var_os(CHILD) {
        let task = task.to_str().context("the task of the child")?;
        let (format, trace) = task.split_once(' ').context("the task of the child")?;
        return child(format, Path::new(trace));
    }
    let records: u64 = match std::env::var("EXPORT_RECORDS") {
        Ok(text) => text.parse().context("EXPORT_RECORDS")?,
        Err(_) => RECORDS,
    };
    let folder = tempfile::tempdir().context("a folder for the trace")?;
    let kept = std::env::var_os("EXPORT_KEEP").map(std::path::PathBuf::from);
    let trace = kept.unwrap_or_else(|| folder.path().join("bench.trace"));
    write(&trace, records)?;
    let size = std::fs::metadata(&trace).context("the trace")?.len();
    println!("{records} records, {} MiB", size >> 20);
    for format in ["none", REDACT].into_iter().map(str::to_owned).chain(Format::CHOICES.iter().map(|c| c.1.to_owned()))
    {
        let task = format!("{format} {}", trace.display());
        let ended = Command::new(std::env::current_exe().context("own path")?).env(CHILD, task).status();
        anyhow::ensure!(ended.context("start the export")?.success(), "{format} failed");
    }
    Ok(())
}

fn named(format: &str) -> Option<Format> {
    Format::CHOICES.iter().find(|c| c.1 == format).map(|c| c.0)
}

/// Runs one export. `none` only builds the model, as every report does; `redact` does so from redacted records.
fn child(format: &str, trace: &Path) -> Result<()> {
    let started = Instant::now();
    let redactor = Redactor::new(&[7; KEY_LEN]);
    let mut analyst = Analyst::default();
    let mut export: Option<Box<dyn Export>> = None;
    let out = tempfile::NamedTempFile::new_in(trace.parent().context("its folder")?).context("an output")?;
    let mut records = 0_u64;
    for record in Reader::open(trace)? {
        let record = record?;
        let record = if format == REDACT { redactor.record(record) } else { record };
        records += 1;
        if let (Record::Session(session), Some(format)) = (&record, named(format)) {
            let out = Box::new(BufWriter::new(out.reopen()?));
            export = Some(begin(format, Table::Events, Weight::Events, session, out)?);
        }
        let mut done = Ok(());
        analyst.take_and(&record, |model, event| {
            if let Some(export) = &mut export {
                done = export.record(model, &record, event);
            }
        });
        done?;
    }
    let streamed = started.elapsed();
    let findings = analyst.findings();
    if let (Some(export), Some(model)) = (export, analyst.model()) {
        export.finish(model, &findings)?;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{format:>9}: {:>9.0} records/s, {took:.1} s ({:.1} s of it at the end), {} MiB out, {} MiB at most resident",
        records as f64 / took,
        took - streamed.as_secs_f64(),
        out.as_file().metadata()?.len() >> 20,
        peak_kib() >> 10
    );
    Ok(())
}

/// Writes a trace of many short lifetimes: objects created and removed, descriptors received and closed, waits.
fn write(path: &Path, records: u64) -> Result<()> {
    let mut writer = Writer::create(path, false)?;
    let session = Session {
        host: "bench".to_owned(),
        kernel: "6.18".to_owned(),
        arch: "x86_64".to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        start_ns: START,
        wall_ns: 1_700_000_000_000 * MS,
        min_stall_ns: 100 * MS,
        target: "all".to_owned(),
        ..Session::default()
    };
    writer.push(&Record::Session(session))?;
    for tgid in 0..500 {
        let row =
            ProcessRow { tgid: 1000 + tgid, start_ns: MS, comm: format!("worker-{tgid}"), ..ProcessRow::default() };
        writer.push(&Record::Process { ts_ns: START, row })?;
    }
    for id in 0..64_i32 {
        let module = Some("/opt/app/bin/worker".to_owned());
        let frame = |n: u64| Frame { addr: n, module: module.clone(), offset: Some(n) };
        let frames = (0..12).map(|n| frame(u64::from(id.unsigned_abs()) * 4096 + n * 64)).collect();
        writer.push(&Record::Stack { id, frames, unwound: 12 })?;
    }
    for n in 0..records {
        let ts_ns = START + n * 50_000;
        if n.is_multiple_of(20_000) {
            writer.push(&Record::Tick { ts_ns })?;
        }
        writer.push(&Record::Kernel(event(n, ts_ns)))?;
    }
    writer.push(&Record::End { ts_ns: START + records * 50_000 })?;
    writer.finish()?;
    Ok(())
}

/// The bytes of an event as the eBPF programs write them.
fn event(n: u64, ts_ns: u64) -> Vec<u8> {
    let small = u32::try_from(n % 1_000_000).unwrap_or(0);
    let id = small.cast_signed() / 2;
    let fd = small / 2 % 64;
    let (site, body) = match n % 10 {
        0 => (Site::SemCreate, Body::SemCreate(SemCreate { id, key: 0, nsems: 1, flags: 0, ns: 9, exact: 1 })),
        1 => (Site::SemRemove, Body::SemRemove(SemRemove { id, ns: 9, ns_end: 0, _pad: 0 })),
        2 | 4 | 6 => {
            let obj = ObjRef { kind: kind::FILE, ns: 1, id: n / 100 };
            let name = *b"data-of-the-worker.sqlite3\0\0\0\0\0\0";
            let files = u64::from(small % 500);
            let receive = FdReceive { obj, files, sock: n % 500, fd, via: 0, cloexec: 1, _pad: 0, name };
            (Site::FdReceive, Body::FdReceive(receive))
        }
        3 | 5 | 7 => (Site::FdClose, Body::FdClose(FdClose { files: u64::from((small - 1) % 500), fd, how: 0 })),
        8 if n % 20 == 8 => (Site::PipeCreate, Body::PipeCreate(PipeCreate { ino: n, slots: 16, _pad: 0 })),
        8 => (Site::EventfdCreate, Body::EventfdCreate(EventfdCreate { id: n, initial: 0, fd, flags: 0 })),
        _ => {
            let stall = Stall {
                obj: ObjRef { kind: kind::PIPE, ns: 0, id: n % 5_000 },
                state: PipeState { capacity_slots: 16, used_slots: 16, used_bytes: 65_536 }.into(),
                since_ns: ts_ns - 150 * MS,
                until_ns: ts_ns,
                ret: 4096,
                fd: 5,
                call: Syscall::Write as u16,
                reader: 1000 + (small + 7) % 500,
                reader_start_ns: MS,
                reader_comm: *b"worker-reader\0\0\0",
                ..Stall::default()
            };
            (Site::PipeWrite, Body::Stall(stall))
        }
    };
    let mut payload = Vec::with_capacity(192);
    let mut put = |bytes: &[u8]| payload.extend_from_slice(bytes);
    put(&ts_ns.to_ne_bytes());
    put(&MS.to_ne_bytes());
    let mut after = Vec::with_capacity(160);
    let kind = body.encode(|bytes| after.extend_from_slice(bytes));
    put(&kind.to_ne_bytes());
    put(&(site as u16).to_ne_bytes());
    let pid = 1000 + small % 500;
    put(&pid.to_ne_bytes());
    put(&pid.to_ne_bytes());
    put(&1000_u32.to_ne_bytes());
    put(&(small % 64).to_ne_bytes());
    put(&0_u32.to_ne_bytes());
    put(b"worker\0\0\0\0\0\0\0\0\0\0");
    put(&after);
    payload
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
