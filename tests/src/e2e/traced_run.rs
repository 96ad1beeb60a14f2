//! Runs of `ipctrace` under test: traced live, or replayed from a trace; and the incidents held beside them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::process::{Ended, Running, tail};
use super::settings::Settings;
use crate::skip::Skip;
use crate::truth::Truth;

impl Ended {
    /// The JSON report on standard output.
    pub(super) fn report(&self) -> Result<Value> {
        parse_report(&self.stdout)
    }
}

/// Parses a JSON report and checks its schema version and that it has a list of findings.
pub(super) fn parse_report(bytes: &[u8]) -> Result<Value> {
    let report: Value = serde_json::from_slice(bytes)
        .with_context(|| format!("the report is not JSON: {:?}", tail(&String::from_utf8_lossy(bytes))))?;
    ensure!(report["schema"] == 1, "the report's schema is {}", report["schema"]);
    ensure!(report["findings"].is_array(), "the report has no list of findings");
    Ok(report)
}

/// A running `ipctrace watch` that writes its report and its trace to files.
#[derive(Debug)]
pub(super) struct TracedRun {
    running: Running,
    report: PathBuf,
    trace: PathBuf,
    timeout: Duration,
}

impl TracedRun {
    /// Starts it and waits for `ready`; its files are `NAME.json` and `NAME.trace` in the directory of the suite.
    pub(super) fn start(settings: &Settings, name: &str, args: &[&str]) -> Result<Self> {
        let report = settings.directory.join(format!("{name}.json"));
        let trace = settings.directory.join(format!("{name}.trace"));
        let mut command = tool(settings, "watch");
        command.args(["--format", "json", "-o"]).arg(&report).arg("--save").arg(&trace).args(args);
        let running = Running::start(&mut command)?;
        running.wait_ready(settings.scaled(60))?;
        Ok(Self { running, report, trace, timeout: settings.scaled(20) })
    }

    pub(super) fn pid(&self) -> i32 {
        self.running.pid()
    }

    pub(super) fn signal(&self, signal: libc::c_int) -> Result<()> {
        self.running.signal(signal)
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }

    /// Interrupts it; returns its report and the path of its trace.
    pub(super) fn finish(self) -> Result<(Value, PathBuf)> {
        // It may have ended with its target.
        let _ = self.running.signal(libc::SIGINT);
        self.finished()
    }

    /// Waits for its end; returns its report and the path of its trace.
    pub(super) fn finished(self) -> Result<(Value, PathBuf)> {
        let ended = self.running.wait(self.timeout)?;
        ended.exited(0)?;
        let bytes = std::fs::read(&self.report)
            .with_context(|| format!("ipctrace exited with 0 but wrote no {}", self.report.display()))?;
        Ok((parse_report(&bytes)?, self.trace))
    }

    /// Kills it with SIGKILL, so without a report; returns the path of its trace.
    pub(super) fn kill(self) -> Result<PathBuf> {
        self.running.signal(libc::SIGKILL)?;
        let ended = self.running.wait(self.timeout)?;
        ensure!(ended.code == 128 + libc::SIGKILL, "ended by itself with exit code {}", ended.code);
        Ok(self.trace)
    }
}

/// `ipctrace SUBCOMMAND`, with the forced backend if the subcommand attaches probes.
pub(super) fn tool(settings: &Settings, subcommand: &str) -> Command {
    let mut command = Command::new(&settings.tool);
    command.arg(subcommand);
    if let (Some(backend), "watch" | "run" | "record") = (&settings.backend, subcommand) {
        command.args(["--backend", backend]);
    }
    command
}

/// Starts an incident, which holds until the value is dropped.
pub(super) fn incident(settings: &Settings, args: &[&str]) -> Result<Running> {
    Running::start(Command::new(&settings.incidents).args(args).args(["--hold", "3600"]))
}

/// Starts an incident and waits until it is complete; it holds until the first value is dropped.
///
/// # Errors
/// A [`Skip`] if this machine cannot play it.
pub(super) fn complete_incident(settings: &Settings, args: &[&str]) -> Result<(Running, Truth)> {
    let running = incident(settings, args)?;
    let truth = running.wait_printed("READY ", settings.scaled(60));
    // An incident that skips ends at once, which ends the wait above.
    if let Some(reason) = running.printed("SKIP ") {
        return Err(Skip(reason).into());
    }
    let truth = truth.with_context(|| format!("incident {args:?}"))?;
    Ok((running, serde_json::from_str(&truth)?))
}

/// `ipctrace report TRACE --format json`.
pub(super) fn replay(settings: &Settings, trace: &Path) -> Result<Ended> {
    Running::start(tool(settings, "report").arg(trace).args(["--format", "json"]))?.wait(settings.scaled(20))
}
