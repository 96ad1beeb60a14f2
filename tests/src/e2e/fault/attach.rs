//! Missing targets, missing capabilities, hostile process names, and a ring buffer that is too small.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::e2e::comparison::concerns;
use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{TracedRun, complete_incident, tool};

/// The uid and gid of the user nobody, without capabilities.
const NOBODY: u32 = 65_534;

pub(super) fn no_such_pid(settings: &Settings) -> Result<()> {
    // The pid of a process that has just been reaped.
    let mut child = Command::new("true").spawn().context("cannot run true")?;
    let pid = child.id().to_string();
    child.wait()?;
    let ended = Running::start(tool(settings, "watch").args(["-p", &pid]))?.wait(settings.scaled(20))?;
    ended.exited(1)?;
    ensure!(ended.stderr.contains(&pid), "the message does not name pid {pid}: {}", ended.stderr);
    Ok(())
}

pub(super) fn not_root(settings: &Settings) -> Result<()> {
    let (_directory, copy) = copy_of_tool(settings)?;
    let mut command = Command::new(&copy);
    command.args(["watch", "--all"]).current_dir("/").uid(NOBODY).gid(NOBODY);
    let ended = Running::start(&mut command)?.wait(settings.scaled(20))?;
    ended.exited(4)?;
    ensure!(ended.stderr.contains("CAP_"), "the message names no capability: {}", ended.stderr);
    Ok(())
}

/// A copy of the tool that every user may run, in a directory that is removed when the first value is dropped.
pub(super) fn copy_of_tool(settings: &Settings) -> Result<(tempfile::TempDir, PathBuf)> {
    // Other users may lack access to the build directory.
    let directory = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir()?;
    let copy = directory.path().join("ipctrace");
    // Another process copies it: if this one had it open for writing while another thread forks, exec would fail with
    // ETXTBSY.
    let copied = Command::new("cp").arg(&settings.tool).arg(&copy).status().context("cannot run cp")?;
    ensure!(copied.success(), "cannot copy ipctrace: {copied}");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755))?;
    Ok((directory, copy))
}

pub(super) fn target_exits(settings: &Settings) -> Result<()> {
    let mut target = Command::new("sleep").arg("1000").spawn().context("cannot run sleep")?;
    let traced = TracedRun::start(settings, "fault-target-exits", &["-p", &target.id().to_string()]);
    target.kill()?;
    target.wait()?;
    let mut traced = traced?;
    sleep(settings.flush_delay());
    if !traced.has_ended() {
        traced.signal(libc::SIGINT)?;
    }
    traced.finished().map(drop)
}

pub(super) fn unknown_option(settings: &Settings) -> Result<()> {
    let ended =
        Running::start(tool(settings, "watch").args(["--all", "--no-such-option"]))?.wait(settings.scaled(5))?;
    ended.exited(2)?;
    ensure!(ended.stderr.contains("no-such-option"), "the message does not name the option: {}", ended.stderr);
    Ok(())
}

pub(super) fn hostile_comm(settings: &Settings) -> Result<()> {
    const COMM: &str = "\x1b[31m\n<script>";
    let running = Running::start(tool(settings, "watch").args(["--all", "--format", "text"]))?;
    running.wait_ready(settings.scaled(60))?;
    let (_held, truth) = complete_incident(settings, &["sem-leak", "--comm", COMM])?;
    sleep(settings.flush_delay());
    let ended = running.stop(libc::SIGINT, settings.scaled(20))?;
    ended.exited(0)?;
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let id = truth.expect.first().and_then(|expected| expected.ids.first()).context("no truth")?;
    ensure!(text.contains("sem-leak"), "the leak of the hostile process (set {id}) is not reported: {text:?}");
    for (stream, text) in [("output", &text), ("messages", &ended.stderr)] {
        let raw = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        ensure!(raw.is_none(), "raw control character {raw:?} in the {stream}");
        ensure!(!text.lines().any(|line| line.starts_with("<script>")), "a line feed in a comm breaks a line");
    }
    Ok(())
}

pub(super) fn ring_overflow(settings: &Settings) -> Result<()> {
    let traced = TracedRun::start(settings, "fault-ring-overflow", &["--all", "--ring-kib", "4"])?;
    let (_held, truth) = complete_incident(settings, &["sem-churn"])?;
    sleep(settings.flush_delay());
    let (report, _) = traced.finish()?;
    let findings = report["findings"].as_array().context("no findings")?;
    let lost = report["loss"]["events"].as_u64().or_else(|| report["loss"]["events"].as_str()?.parse().ok());
    let uncertain = findings.iter().any(|finding| finding["confidence"] == "uncertain");
    ensure!(
        lost.unwrap_or(0) > 0 || uncertain,
        "no loss, although 40000 events do not fit into 4 KiB: {}",
        report["loss"]
    );
    // The incident removes all its sets: no finding about it may be certain.
    let certain = findings.iter().find(|finding| concerns(&truth, finding) && finding["confidence"] == "certain");
    ensure!(certain.is_none(), "certain despite lost events: {}", certain.map_or(&Value::Null, |f| &f["title"]));
    Ok(())
}

/// How long an idle traced run lasts before the test ends it.
pub(super) const IDLE_TIME: Duration = Duration::from_millis(300);
