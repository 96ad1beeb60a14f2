//! Truncated traces, files that are no traces, and paths that a trace must not be written to.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::e2e::process::Running;
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{TracedRun, complete_incident, replay, tool};

pub(super) fn trace_truncated(settings: &Settings) -> Result<()> {
    let traced = TracedRun::start(settings, "fault-trace", &["--all"])?;
    let held = complete_incident(settings, &["sem-leak"])?;
    std::thread::sleep(settings.flush_delay());
    let (_, trace) = traced.finish()?;
    drop(held);
    let whole = std::fs::read(&trace).context("cannot read the trace")?;
    ensure!(whole.len() > 64, "the trace has only {} bytes", whole.len());
    let cuts =
        [0, 1, 7, 16, 64, whole.len() / 4, whole.len() / 2, whole.len() * 3 / 4, whole.len() - 9, whole.len() - 1];
    for (number, cut) in cuts.into_iter().enumerate() {
        let path = settings.directory.join(format!("fault-cut-{number}.trace"));
        std::fs::write(&path, &whole[..cut])?;
        let ended = replay(settings, &path).with_context(|| format!("cut at {cut} of {} bytes", whole.len()))?;
        ended.no_panic().with_context(|| format!("cut at {cut} of {} bytes", whole.len()))?;
        // Only a truncated header is fatal.
        let answered =
            if ended.code == 0 { ended.report().is_ok() } else { ended.code == 1 && !ended.stderr.is_empty() };
        ensure!(answered, "cut at {cut} of {} bytes: exit code {} without an answer", whole.len(), ended.code);
        let only_the_tail = cut >= whole.len() - 9;
        ensure!(ended.code == 0 || !only_the_tail, "a truncated tail is fatal: {}", ended.stderr);
    }
    Ok(())
}

pub(super) fn trace_garbage(settings: &Settings) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        // Reproducible noise: xorshift with a fixed seed.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(100_000)
    .collect();
    for (name, bytes) in [("empty", &[][..]), ("text", b"this is not a trace\n"), ("noise", &noise)] {
        let path = settings.directory.join(format!("fault-garbage-{name}.trace"));
        std::fs::write(&path, bytes)?;
        let ended = replay(settings, &path)?;
        ended.exited(1).with_context(|| format!("a file of {name}"))?;
        ensure!(
            ended.stderr.contains(&*path.to_string_lossy()),
            "the message does not name the file: {}",
            ended.stderr
        );
    }
    let ended = replay(settings, Path::new("/nonexistent/trace"))?;
    ended.exited(1)?;
    ensure!(ended.stderr.contains("/nonexistent/trace"), "the message does not name the file: {}", ended.stderr);
    Ok(())
}

pub(super) fn save_symlink(settings: &Settings) -> Result<()> {
    let target = settings.directory.join("fault-symlink-target");
    let link = settings.directory.join("fault-symlink.trace");
    std::os::unix::fs::symlink(&target, &link)?;
    refused(settings, &link)?;
    ensure!(!target.exists(), "the trace was written through a symbolic link");
    Ok(())
}

pub(super) fn save_existing(settings: &Settings) -> Result<()> {
    const CONTENT: &[u8] = b"mine";
    let path = settings.directory.join("fault-existing.trace");
    std::fs::write(&path, CONTENT)?;
    refused(settings, &path)?;
    ensure!(std::fs::read(&path)? == CONTENT, "an existing file was overwritten");
    Ok(())
}

fn refused(settings: &Settings, path: &Path) -> Result<()> {
    for (subcommand, option) in [("watch", "--save"), ("record", "-o")] {
        let mut command = tool(settings, subcommand);
        command.args(["--all", option]).arg(path);
        let ended = Running::start(&mut command)?.wait(settings.scaled(20)).context("it accepted the path")?;
        ended.exited(1).with_context(|| subcommand.to_owned())?;
        let named = ended.stderr.contains(&*path.to_string_lossy());
        ensure!(named, "{subcommand}: the message does not name the file: {}", ended.stderr);
    }
    Ok(())
}
