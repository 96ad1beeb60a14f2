//! Exports of a real trace, read with DuckDB and with Perfetto's schema if this machine has them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{TracedRun, complete_incident, tool};
use crate::skip::Skip;

/// Compares the contents of the three table formats as DuckDB reads them.
const DUCKDB: &str = r#"
import duckdb, sys
folder = sys.argv[1]
db = duckdb.connect()
tables = {
    "parquet": f"read_parquet('{folder}/export.parquet')",
    "jsonl": f"read_json('{folder}/export.jsonl', format='newline_delimited', sample_size=-1)",
    "csv": f"read_csv('{folder}/export.csv', header=true, all_varchar=true)",
}
counts = {name: db.sql(f"select kind, count(*), count(pid), count(duration_ns) from {table} group by all order by kind").fetchall()
          for name, table in tables.items()}
assert counts["parquet"] == counts["jsonl"] == counts["csv"], counts
assert sum(row[1] for row in counts["parquet"]) > 0
types = dict(db.sql(f"select column_name, column_type from (describe select * from {tables['parquet']})").fetchall())
assert types["time_ns"] == "UBIGINT" and types["result"] == "BIGINT" and types["payload"] == "JSON", types
assert types["time"].startswith("TIMESTAMP"), types
stalls = db.sql(f"select count(*) from {tables['parquet']} where kind in ('stall', 'blocked') and object_kind = 'pipe' "
                "and duration_ns >= 100000000 and payload->>'fd' is not null").fetchall()[0][0]
assert stalls > 0, "no wait at the pipe"
"#;

/// Checks the Perfetto trace against Perfetto's own schema.
const PERFETTO: &str = r#"
import sys
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto
trace = proto.Trace()
trace.ParseFromString(open(sys.argv[1] + "/export.pftrace", "rb").read())
events = [p for p in trace.packet if p.HasField("track_event")]
tracks = {p.track_descriptor.uuid: p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")}
assert all(p.timestamp_clock_id == 6 for p in events), "BUILTIN_CLOCK_BOOTTIME"
assert all(p.track_event.track_uuid in tracks for p in events)
slices = [p for p in events if p.track_event.type == proto.TrackEvent.TYPE_SLICE_BEGIN]
assert any(p.track_event.name.startswith("write pipe:[") and tracks[p.track_event.track_uuid].thread.tid for p in slices)
assert any(tracks[p.track_event.track_uuid].name == "ipctrace findings" for p in events)
def unknown(message):
    from google.protobuf.unknown_fields import UnknownFieldSet
    assert len(UnknownFieldSet(message)) == 0, message
    for field, value in message.ListFields():
        if field.message_type:
            for one in (value if not hasattr(value, "ListFields") else [value]):
                unknown(one)
unknown(trace)
"#;

pub(super) fn duckdb(settings: &Settings) -> Result<()> {
    read_by(settings, "duckdb", DUCKDB, &[("parquet", "parquet"), ("jsonl", "jsonl"), ("csv", "csv")])
}

pub(super) fn perfetto(settings: &Settings) -> Result<()> {
    read_by(settings, "perfetto", PERFETTO, &[("perfetto", "pftrace")])
}

/// Exports the trace of a stalled pipe and runs a Python script over the files.
///
/// # Errors
/// A [`Skip`] if the interpreter lacks the package.
fn read_by(settings: &Settings, package: &str, script: &str, formats: &[(&str, &str)]) -> Result<()> {
    let python = std::env::var_os("IPCTRACE_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let there = Command::new(&python).args(["-c", &format!("import {package}")]).output();
    if !there.is_ok_and(|out| out.status.success()) {
        let fix = "set IPCTRACE_PYTHON to an interpreter that has it";
        return Err(Skip(format!("{} has no package {package}; {fix}", python.display())).into());
    }
    let folder = settings.directory.join(format!("export-{package}"));
    std::fs::create_dir_all(&folder)?;
    let trace = stalled_pipe(settings, package)?;
    for (format, extension) in formats {
        let out = folder.join(format!("export.{extension}"));
        let mut command = tool(settings, "export");
        command.arg(&trace).args(["--to", format, "--force", "-o"]).arg(&out);
        Running::start(&mut command)?.wait(settings.scaled(20))?.exited(0).with_context(|| (*format).to_owned())?;
    }
    let ended = Running::start(Command::new(&python).args(["-c", script]).arg(&folder))?.wait(settings.scaled(60))?;
    ensure!(ended.code == 0, "{package}: {}", ended.stderr);
    Ok(())
}

/// The trace of a stalled pipe.
fn stalled_pipe(settings: &Settings, name: &str) -> Result<PathBuf> {
    let traced = TracedRun::start(settings, &format!("fault-export-{name}"), &["--all"])?;
    let held = complete_incident(settings, &["pipe-stall"])?;
    std::thread::sleep(settings.flush_delay());
    let (_, trace) = traced.finish()?;
    drop(held);
    Ok(trace)
}
