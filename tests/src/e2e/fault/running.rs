//! `ipctrace run`: it exits with the exit code of the command.

use anyhow::{Context, Result, ensure};

use crate::call::SemSet;
use crate::e2e::process::{Ended, Running};
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{parse_report, tool};
use crate::truth::Truth;

pub(super) fn exit_code(settings: &Settings) -> Result<()> {
    ran(settings, "exit", &[], &["sh", "-c", "exit 7"])?.exited(7)?;
    let report = std::fs::read(settings.directory.join("fault-run-exit.json")).context("no report was written")?;
    parse_report(&report).map(drop)
}

pub(super) fn signal(settings: &Settings) -> Result<()> {
    ran(settings, "signal", &[], &["sh", "-c", "kill -9 $$"])?.exited(128 + 9)
}

pub(super) fn not_found(settings: &Settings) -> Result<()> {
    let ended = ran(settings, "not-found", &[], &["/nonexistent"])?;
    ended.exited(127)?;
    ensure!(ended.stderr.contains("/nonexistent"), "the message does not name the command: {}", ended.stderr);
    Ok(())
}

pub(super) fn not_executable(settings: &Settings) -> Result<()> {
    let ended = ran(settings, "not-executable", &[], &["/etc/passwd"])?;
    ended.exited(126)?;
    ensure!(ended.stderr.contains("/etc/passwd"), "the message does not name the command: {}", ended.stderr);
    Ok(())
}

pub(super) fn fail_on(settings: &Settings) -> Result<()> {
    let incidents = settings.incidents.to_str().context("the path of `incidents` is not UTF-8")?;
    let command = [incidents, "sem-leak", "--hold", "0", "--keep"];
    let leaking = ran(settings, "fail-on", &["--fail-on", "sem-leak"], &command)?;
    let output = String::from_utf8_lossy(&leaking.stdout).into_owned();
    let truth = output
        .lines()
        .find_map(|line| line.strip_prefix("READY "))
        .with_context(|| format!("the incident printed no READY: {output}{}", leaking.stderr))?;
    let truth: Truth = serde_json::from_str(truth)?;
    for id in truth.expect.iter().flat_map(|expected| &expected.ids) {
        SemSet(id.parse()?).remove().context("cannot remove the sets that the incident left")?;
    }
    leaking.exited(3)?;
    let healthy = [incidents, "sem-leak", "--hold", "0", "--variant", "fixed"];
    ran(settings, "fail-on-healthy", &["--fail-on", "sem-leak"], &healthy)?.exited(0)
}

fn ran(settings: &Settings, name: &str, options: &[&str], command: &[&str]) -> Result<Ended> {
    let report = settings.directory.join(format!("fault-run-{name}.json"));
    let mut tool = tool(settings, "run");
    tool.args(["--format", "json", "-o"]).arg(report).args(options).arg("--").args(command);
    Running::start(&mut tool)?.wait(settings.scaled(30))
}
