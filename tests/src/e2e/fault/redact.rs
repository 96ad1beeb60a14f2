//! A trace saved with `--redact` contains no name of the traced program or of its files.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tracer_record::Record;
use tracer_trace::Reader;

use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{parse_report, replay, tool};

/// Part of the names of the program and of its folder; fits into a comm.
const SENTINEL: &str = "zq7secret";

pub(super) fn saved(settings: &Settings) -> Result<()> {
    let folder = settings.directory.join(format!("fault-redact-{SENTINEL}"));
    std::fs::create_dir_all(&folder)?;
    let program = folder.join(format!("{SENTINEL}-prog"));
    std::fs::copy(&settings.incidents, &program)?;
    for incident in ["fifo-stall", "socket-stall", "mq-stall"] {
        check(settings, incident, &folder, &program).context(incident)?;
    }
    Ok(())
}

fn check(settings: &Settings, incident: &str, folder: &Path, program: &Path) -> Result<()> {
    let trace = settings.directory.join(format!("fault-redact-{incident}.trace"));
    let report = settings.directory.join(format!("fault-redact-{incident}.json"));
    let mut command = tool(settings, "run");
    command.args(["--redact", "--format", "json", "--save"]).arg(&trace).arg("-o").arg(&report).arg("--");
    command.arg(program).args([incident, "--hold", "1"]).env("TMPDIR", folder).current_dir(folder);
    Running::start(&mut command)?.wait(settings.scaled(60))?.exited(0)?;
    let mut records = 0;
    for record in Reader::open(&trace)? {
        let record = record?;
        let bytes = if let Record::Kernel(bytes) = record { bytes } else { serde_json::to_vec(&record)? };
        let found = bytes.windows(SENTINEL.len()).any(|w| w == SENTINEL.as_bytes());
        ensure!(!found, "a record contains the name: {}", String::from_utf8_lossy(&bytes));
        records += 1;
    }
    ensure!(records > 10, "the trace has only {records} records");
    // The report of the run itself contains names and the same findings.
    let plain = std::fs::read(&report).context("no report was written")?;
    ensure!(
        plain.windows(SENTINEL.len()).any(|w| w == SENTINEL.as_bytes()),
        "the run's report does not contain the name"
    );
    let (plain, redacted) = (parse_report(&plain)?, replay(settings, &trace)?.report()?);
    ensure!(plain["redacted"] == false && redacted["redacted"] == true, "the trace is not marked as redacted");
    let codes = |report: &serde_json::Value| {
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        findings.iter().map(|f| (f["code"].clone(), f["object"]["id"].clone())).collect::<Vec<_>>()
    };
    ensure!(!codes(&plain).is_empty(), "no findings");
    let (plain, redacted) = (codes(&plain), codes(&redacted));
    ensure!(plain == redacted, "findings {plain:?}, after redaction {redacted:?}");
    Ok(())
}
