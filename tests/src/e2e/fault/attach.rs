//! Targets that are not there, rights that are missing, names that want to harm a terminal, more events than room.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::e2e::Settings;
use crate::e2e::session::{Running, Watch, complete_incident, tool};
use crate::e2e::verdict::concerns;

/// A user without any rights.
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

/// The program where everybody may run it, as long as the directory lives.
pub(super) fn copy_of_tool(settings: &Settings) -> Result<(tempfile::TempDir, PathBuf)> {
    // The build directory may be closed to others.
    let directory = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir()?;
    let copy = directory.path().join("ipctrace");
    // By another process: a file that this one has open for writing while another thread forks cannot be executed.
    let copied = Command::new("cp").arg(&settings.tool).arg(&copy).status().context("cannot run cp")?;
    ensure!(copied.success(), "cannot copy ipctrace: {copied}");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755))?;
    Ok((directory, copy))
}

pub(super) fn target_exits(settings: &Settings) -> Result<()> {
    let mut target = Command::new("sleep").arg("1000").spawn().context("cannot run sleep")?;
    let session = Watch::start(settings, "fault-target-exits", &["-p", &target.id().to_string()]);
    target.kill()?;
    target.wait()?;
    let mut session = session?;
    sleep(settings.settle());
    if !session.has_ended() {
        session.signal(libc::SIGINT)?;
    }
    session.finished().map(drop)
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
    sleep(settings.settle());
    let ended = running.stop(libc::SIGINT, settings.scaled(20))?;
    ended.exited(0)?;
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let id = truth.expect.first().and_then(|expected| expected.ids.first()).context("no truth")?;
    ensure!(text.contains("sem-leak"), "the leak of the hostile process (set {id}) is not reported: {text:?}");
    for (stream, text) in [("output", &text), ("messages", &ended.stderr)] {
        let raw = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        ensure!(raw.is_none(), "the {stream} hold a raw control character {raw:?}");
        ensure!(!text.lines().any(|line| line.starts_with("<script>")), "a line feed in a comm breaks a line");
    }
    Ok(())
}

pub(super) fn ring_overflow(settings: &Settings) -> Result<()> {
    let session = Watch::start(settings, "fault-ring-overflow", &["--all", "--ring-kib", "4"])?;
    let (_storm, storm) = complete_incident(settings, &["sem-storm"])?;
    sleep(settings.settle());
    let (report, _) = session.finish()?;
    let findings = report["findings"].as_array().context("no findings")?;
    let lost = report["loss"]["events"].as_u64().or_else(|| report["loss"]["events"].as_str()?.parse().ok());
    let uncertain = findings.iter().any(|finding| finding["confidence"] == "uncertain");
    ensure!(lost.unwrap_or(0) > 0 || uncertain, "40000 events fit into 4 KiB? loss is {}", report["loss"]);
    // Everything was removed again: nothing certain may be said of the storm.
    let of_storm = findings.iter().filter(|finding| concerns(&storm, finding));
    let certain = of_storm.into_iter().find(|finding| finding["confidence"] == "certain");
    ensure!(certain.is_none(), "certain in spite of lost events: {}", certain.map_or(&Value::Null, |f| &f["title"]));
    Ok(())
}

/// How long an idle session runs before it is ended.
pub(super) const A_MOMENT: Duration = Duration::from_millis(300);
