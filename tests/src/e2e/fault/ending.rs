//! Every way to end a traced run: SIGINT, SIGTERM, a closed standard output, SIGKILL.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tracer_report::model::{CUT_OFF, NO_END};

use super::attach::IDLE_TIME;
use super::tables::unless_lossy;
use crate::e2e::comparison::ids_of;
use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{TracedRun, complete_incident, replay, tool};

pub(super) fn sigint(settings: &Settings) -> Result<()> {
    ends_with_a_report(settings, libc::SIGINT)
}

pub(super) fn sigterm(settings: &Settings) -> Result<()> {
    ends_with_a_report(settings, libc::SIGTERM)
}

fn ends_with_a_report(settings: &Settings, signal: libc::c_int) -> Result<()> {
    let running = Running::start(tool(settings, "watch").args(["--all", "--format", "json"]))?;
    running.wait_ready(settings.scaled(60))?;
    sleep(IDLE_TIME);
    let ended = running.stop(signal, settings.scaled(20))?;
    ended.exited(0)?;
    ended.report().map(drop)
}

pub(super) fn stdout_closed(settings: &Settings) -> Result<()> {
    for format in ["text", "json"] {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = tool(settings, "watch");
        command.args(["--all", "--format", format]);
        let running = Running::start_with_stdout(&mut command, Stdio::from(writer))?;
        // The command holds the write end in this process.
        drop(command);
        drop(reader);
        running.wait_ready(settings.scaled(60))?;
        sleep(IDLE_TIME);
        running.stop(libc::SIGINT, settings.scaled(20))?.exited(0).with_context(|| format!("format {format}"))?;
    }
    Ok(())
}

pub(super) fn killed(settings: &Settings) -> Result<()> {
    let before = pinned();
    let traced = TracedRun::start(settings, "fault-killed", &["--all"])?;
    let (_held, truth) = complete_incident(settings, &["sem-leak"])?;
    // ipctrace flushes its trace once a second.
    sleep(settings.flush_delay());
    let trace = traced.kill()?;
    let left: Vec<_> = pinned().difference(&before).cloned().collect();
    ensure!(left.is_empty(), "objects left in /sys/fs/bpf: {left:?}");
    let report = report_without_end(settings, &trace)?;
    let leaked = truth.expect.first().context("no truth")?;
    let found = report["findings"].as_array().into_iter().flatten().any(|finding| {
        let ids = ids_of(finding);
        finding["code"] == *leaked.code && leaked.ids.iter().all(|id| ids.contains(id))
    });
    if !found {
        let error = anyhow!("the trace of a killed run does not contain the leak before the kill");
        return Err(unless_lossy(&report, error, "after a kill"));
    }
    Ok(())
}

/// The report of a trace whose recorder was killed or failed; the report must state that.
pub(super) fn report_without_end(settings: &Settings, trace: &Path) -> Result<Value> {
    let ended = replay(settings, trace)?;
    ended.exited(0)?;
    let report = ended.report()?;
    ensure!(lacks_end(&report), "the report of {} does not state that the trace lacks its end", trace.display());
    Ok(report)
}

/// Whether a report states that its recorder did not end the trace.
pub(super) fn lacks_end(report: &Value) -> bool {
    let mut missing = report["not_collected"].as_array().into_iter().flatten().filter_map(|sentence| sentence.as_str());
    missing.any(|sentence| [NO_END, CUT_OFF].iter().any(|beginning| sentence.starts_with(beginning)))
}

/// The entries of the BPF file system, if it is mounted.
fn pinned() -> BTreeSet<OsString> {
    std::fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}
