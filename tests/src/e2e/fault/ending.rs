//! Every way to end a session: by signal, by a reader that is gone, by SIGKILL.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::attach::A_MOMENT;
use super::tables::explained;
use crate::e2e::Settings;
use crate::e2e::session::{Running, Watch, complete_incident, replay, tool};
use crate::e2e::verdict::ids_of;

pub(super) fn sigint(settings: &Settings) -> Result<()> {
    ends_with_a_report(settings, libc::SIGINT)
}

pub(super) fn sigterm(settings: &Settings) -> Result<()> {
    ends_with_a_report(settings, libc::SIGTERM)
}

fn ends_with_a_report(settings: &Settings, signal: libc::c_int) -> Result<()> {
    let running = Running::start(tool(settings, "watch").args(["--all", "--format", "json"]))?;
    running.wait_ready(settings.scaled(60))?;
    sleep(A_MOMENT);
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
        // The command keeps the write end open in this process, too.
        drop(command);
        drop(reader);
        running.wait_ready(settings.scaled(60))?;
        sleep(A_MOMENT);
        running.stop(libc::SIGINT, settings.scaled(20))?.exited(0).with_context(|| format!("format {format}"))?;
    }
    Ok(())
}

pub(super) fn killed(settings: &Settings) -> Result<()> {
    let before = pinned();
    let session = Watch::start(settings, "fault-killed", &["--all"])?;
    let (_held, truth) = complete_incident(settings, &["sem-leak"])?;
    // The trace is flushed once a second.
    sleep(settings.settle());
    let trace = session.kill()?;
    let left: Vec<_> = pinned().difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left behind in /sys/fs/bpf: {left:?}");
    let report = unended(settings, &trace)?;
    let leaked = truth.expect.first().context("no truth")?;
    let found = report["findings"].as_array().into_iter().flatten().any(|finding| {
        let ids = ids_of(finding);
        finding["code"] == *leaked.code && leaked.ids.iter().all(|id| ids.contains(id))
    });
    if !found {
        let error = anyhow!("the trace of a killed session does not tell of the leak before");
        return Err(explained(&report, error, "after a kill"));
    }
    Ok(())
}

/// The report of a trace whose recorder was killed or could not go on, which says so.
pub(super) fn unended(settings: &Settings, trace: &Path) -> Result<Value> {
    let ended = replay(settings, trace)?;
    ended.exited(0)?;
    let report = ended.report()?;
    ensure!(says_no_end(&report), "the report of {} does not say that it has no end", trace.display());
    Ok(report)
}

/// Whether a report says that its trace was not ended by its recorder.
pub(super) fn says_no_end(report: &Value) -> bool {
    let mut missing = report["not_collected"].as_array().into_iter().flatten().filter_map(|sentence| sentence.as_str());
    missing.any(|sentence| sentence.starts_with("the trace has no end") || sentence.contains("is cut off at"))
}

/// What is pinned in the BPF file system, if there is one.
fn pinned() -> BTreeSet<OsString> {
    std::fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}
