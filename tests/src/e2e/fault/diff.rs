//! `diff` of two runs of one program, before and after its fix.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::tool;

/// Plays an incident under `run` and saves its trace.
fn played(settings: &Settings, variant: &str) -> Result<PathBuf> {
    let trace = settings.directory.join(format!("fault-diff-{variant}.trace"));
    let mut command = tool(settings, "run");
    command.arg("--save").arg(&trace).arg("--").arg(&settings.incidents);
    command.args(["pipe-stall", "--hold", "1", "--variant", variant]);
    Running::start(&mut command)?.wait(settings.scaled(60))?.exited(0)?;
    Ok(trace)
}

pub(super) fn before_and_after(settings: &Settings) -> Result<()> {
    let (bug, fixed) = (played(settings, "bug")?, played(settings, "fixed")?);
    // `diff` exits with 3 if a finding is new or worse.
    for (a, b, change, code) in [(&bug, &fixed, "gone", 0), (&fixed, &bug, "new", 3), (&bug, &bug, "same", 0)] {
        let mut command = tool(settings, "diff");
        command.arg(a).arg(b).args(["--format", "json"]);
        let ended = Running::start(&mut command)?.wait(settings.scaled(30))?;
        ended.exited(code)?;
        let diff: Value = serde_json::from_slice(&ended.stdout).context("diff printed no JSON")?;
        let changes = diff["changes"].as_array().context("diff printed no list of changes")?;
        let stalls = changes.iter().filter(|c| c["code"] == "pipe-stall").count();
        ensure!(
            stalls > 0 && changes.iter().all(|c| c["change"] == change),
            "expected only {change} findings: {changes:#?}"
        );
    }
    Ok(())
}
