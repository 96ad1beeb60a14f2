//! `ipctrace record`: killed at any moment, in parts, on a full disk, and as a flight recorder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tracer_collector::inventory::boot_ns;
use tracer_common::event::{Header, read};
use tracer_record::Record;
use tracer_trace::Reader;

use super::ending::{lacks_end, report_without_end};
use crate::call::SemSet;
use crate::e2e::process::{Ended, Running};
use crate::e2e::settings::Settings;
use crate::e2e::traced_run::{complete_incident, replay, tool};

const KILLS: u64 = 20;
/// Semaphore sets created and removed per millisecond: hundreds of kilobytes of trace per second.
const SETS_PER_MS: usize = 100;
/// The longest part of a trace that a kill may lose: records wait for a flush for up to a second.
const MISSING_MAX: Duration = Duration::from_millis(1500);

/// Sets its flag when it is dropped, also by an early return or a panic.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Runs `work` while another thread creates and removes semaphore sets.
fn under_load<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<()> {
            while !stop.load(Relaxed) {
                for _ in 0..SETS_PER_MS {
                    SemSet::create(libc::IPC_PRIVATE, 1)
                        .and_then(SemSet::remove)
                        .context("cannot create and remove a semaphore set")?;
                }
                sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let done = {
            let _stop = StopOnDrop(&stop);
            work()
        };
        let loaded = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        done.and_then(|out| loaded.map(|()| out))
    })
}

fn start(settings: &Settings, args: &[&str], output: &Path) -> Result<Running> {
    let running = Running::start(tool(settings, "record").args(args).arg("-o").arg(output))?;
    running.wait_ready(settings.scaled(60))?;
    Ok(running)
}

/// The parts of a recording that exist, the newest last.
fn parts(output: &Path) -> Result<Vec<PathBuf>> {
    Ok(numbered_parts(output)?.into_iter().map(|(_, path)| path).collect())
}

/// The parts of a recording with their numbers from 0, the newest last.
fn numbered_parts(output: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let name = output.file_name().context("the output has no file name")?.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(output.parent().context("the output has no folder")?)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = file.strip_prefix(&name) else { continue };
        let number = if rest.is_empty() { Some(0) } else { rest.strip_prefix('.').and_then(|n| n.parse::<u32>().ok()) };
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// The time of the last kernel record in the parts, or of a later baseline, in ns of the boot clock.
fn last_record_ns(parts: &[PathBuf]) -> Result<u64> {
    let mut last = 0;
    for part in parts {
        for record in Reader::open(part)? {
            let record = record.with_context(|| format!("cannot read {}", part.display()))?;
            if let Record::Kernel(bytes) = &record {
                let header: Header = read(bytes).ok().context("a kernel record without a header")?;
                last = last.max(header.ts_ns);
            } else if let Record::Baseline(inventory) = &record {
                last = last.max(inventory.until_ns);
            }
        }
    }
    Ok(last)
}

pub(super) fn killed(settings: &Settings) -> Result<()> {
    let folder = settings.directory.join("fault-record-killed");
    std::fs::create_dir(&folder)?;
    under_load(|| {
        for number in 0..KILLS {
            let output = folder.join(format!("{number}.trace"));
            // Every other recording also rotates parts while it is killed.
            let args: &[&str] =
                if number % 2 == 0 { &["--all"] } else { &["--all", "--max-size", "1M", "--parts", "3"] };
            let running = start(settings, args, &output)?;
            // Kill at different times within two seconds, which contain two flushes.
            sleep(Duration::from_millis(200 + (number * 7919) % 2000));
            let killed_ns = boot_ns();
            running.signal(libc::SIGKILL)?;
            let ended = running.wait(settings.scaled(20))?;
            ensure!(
                ended.code == 128 + libc::SIGKILL,
                "ended by itself with exit code {}: {}",
                ended.code,
                ended.stderr
            );
            let parts = parts(&output)?;
            let newest = parts.last().context("record wrote no file")?;
            report_without_end(settings, newest).with_context(|| format!("kill {number}"))?;
            let missing = Duration::from_nanos(killed_ns.saturating_sub(last_record_ns(&parts)?));
            let limit = MISSING_MAX.mul_f64(settings.time_scale.max(1.0));
            ensure!(missing <= limit, "kill {number}: the last {} ms are missing", missing.as_millis());
            for part in &parts {
                report_of(settings, part).with_context(|| format!("kill {number}"))?;
                std::fs::remove_file(part)?;
            }
        }
        Ok(())
    })
}

/// The report of a trace.
fn report_of(settings: &Settings, trace: &Path) -> Result<Value> {
    let ended = replay(settings, trace)?;
    ended.exited(0).with_context(|| trace.display().to_string())?;
    ended.report()
}

fn has_finding(report: &Value, code: &str) -> bool {
    report["findings"].as_array().into_iter().flatten().any(|finding| finding["code"] == *code)
}

pub(super) fn in_parts(settings: &Settings) -> Result<()> {
    let output = settings.directory.join("fault-record-parts.trace");
    let running = start(settings, &["--all", "--max-size", "1M"], &output)?;
    let limit = Instant::now() + settings.scaled(60);
    under_load(|| {
        while parts(&output)?.last().is_none_or(|newest| !newest.to_string_lossy().ends_with(".trace.3")) {
            ensure!(Instant::now() < limit, "no fourth part in time: {:?}", parts(&output));
            sleep(Duration::from_millis(50));
        }
        Ok(())
    })?;
    let (_held, _) = complete_incident(settings, &["fd-leak"])?;
    sleep(settings.flush_delay());
    let ended = running.stop(libc::SIGINT, settings.scaled(30))?;
    ended.exited(0)?;
    let parts = numbered_parts(&output)?;
    let [_, (newest_number, newest)] = &parts[..] else { bail!("{} parts are kept, expected 2", parts.len()) };
    let summarized = ended.stderr.lines().any(|line| summarizes(line, &parts, newest_number + 1));
    ensure!(summarized, "the summary does not name the parts and their number: {}", ended.stderr);
    for (_, part) in &parts {
        let report = report_of(settings, part)?;
        ensure!(!lacks_end(&report), "{} has no end", part.display());
    }
    ensure!(has_finding(&report_of(settings, newest)?, "fd-leak"), "the last part alone does not show the leak");
    Ok(())
}

/// Whether a line names each kept part, how many parts are kept, and how many there were in total.
fn summarizes(line: &str, kept: &[(u32, PathBuf)], total: u32) -> bool {
    let has_number = |number: String| line.split_whitespace().any(|word| word == number);
    kept.iter().all(|(_, path)| line.contains(&*path.to_string_lossy()))
        && has_number(kept.len().to_string())
        && has_number(total.to_string())
}

pub(super) fn full_disk(settings: &Settings) -> Result<()> {
    // In the words of the C library: "No space left on device".
    let full = std::io::Error::from_raw_os_error(libc::ENOSPC).to_string();
    let full = full.split(" (os error").next().unwrap_or(&full);
    let rotated = on_a_small_disk(settings, "parts", "--max-size 1M --parts 100 --duration 20s")?;
    rotated.exited(0)?;
    ensure!(rotated.stderr.contains(full), "no message that the disk was full: {}", rotated.stderr);
    // Two parts, or one while the recorder waits for the next baseline.
    let kept = numbered_parts(&settings.directory.join("fault-record-disk-parts").join("t"))?;
    let oldest = kept.first().map(|(number, _)| *number).context("no part is left")?;
    ensure!(oldest > 0, "the first part was not removed from the full disk");
    kept.iter().try_for_each(|(_, part)| report_of(settings, part).map(drop))?;

    // The full disk ends this recording; on a busy machine that takes some time.
    let single = on_a_small_disk(settings, "single", "--duration 90s")?;
    single.exited(1)?;
    let messages = single.stderr.matches(full).count();
    ensure!(messages == 1, "{messages} messages that the disk is full, expected 1: {}", single.stderr);
    let trace = settings.directory.join("fault-record-disk-single").join("t");
    report_without_end(settings, &trace)?;
    Ok(())
}

/// Records under load on a disk of 1.5 MiB, and copies its files to the directory of the suite.
fn on_a_small_disk(settings: &Settings, name: &str, options: &str) -> Result<Ended> {
    let copy = settings.directory.join(format!("fault-record-disk-{name}"));
    std::fs::create_dir(&copy)?;
    let disk = tempfile::tempdir()?;
    let (tool, disk, copy) = (settings.tool.display(), disk.path().display(), copy.display());
    let script = format!(
        "mount -t tmpfs -o size=1536k none {disk} || exit 99
         {tool} record --all {options} -o {disk}/t
         code=$?
         cp {disk}/* {copy}/ && exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    under_load(|| Running::start(&mut command)?.wait(settings.scaled(120)))
}

pub(super) fn flight(settings: &Settings) -> Result<()> {
    let folder = settings.directory.join("fault-record-flight");
    std::fs::create_dir(&folder)?;
    let args = ["--all", "--flight-recorder", "--keep", "60s", "--after", "1s", "--trigger", "fd-*"];
    let running = start(settings, &args, &folder)?;
    let (_held, _) = complete_incident(settings, &["fd-leak"])?;
    let trace = appeared(settings, &folder, "-fd-leak.trace")?;
    // The trace continues for a second (`--after`) before it ends.
    sleep(Duration::from_secs(3));
    let report = report_of(settings, &trace)?;
    ensure!(has_finding(&report, "fd-leak"), "the trace does not contain the finding that triggered it");
    ensure!(!lacks_end(&report), "the trace has no end");
    let ended = running.stop(libc::SIGINT, settings.scaled(30))?;
    ended.exited(0)?;
    let files = std::fs::read_dir(&folder)?.count();
    ensure!(files == 1, "{files} files, expected only the triggered trace");
    let named = ended.stderr.contains(&*trace.to_string_lossy());
    ensure!(named, "the summary does not name {}: {}", trace.display(), ended.stderr);
    Ok(())
}

pub(super) fn flight_asked(settings: &Settings) -> Result<()> {
    let folder = settings.directory.join("fault-record-asked");
    std::fs::create_dir(&folder)?;
    let prefix = folder.join("mine");
    let running = start(settings, &["--all", "--flight-recorder", "--trigger", "deadlock"], &prefix)?;
    let (_held, _) = complete_incident(settings, &["sem-leak"])?;
    running.signal(libc::SIGUSR1)?;
    let trace = appeared(settings, &folder, "-asked.trace")?;
    // The recorder ends its traces when it ends.
    running.stop(libc::SIGTERM, settings.scaled(30))?.exited(0)?;
    let report = report_of(settings, &trace)?;
    ensure!(has_finding(&report, "sem-leak"), "the trace does not contain the leak before the signal");
    ensure!(!lacks_end(&report), "the trace has no end");
    let files = std::fs::read_dir(&folder)?.count();
    ensure!(files == 1, "{files} files, expected only the requested trace");
    Ok(())
}

/// Waits for a file whose name ends with `end`.
fn appeared(settings: &Settings, folder: &Path, end: &str) -> Result<PathBuf> {
    let limit = Instant::now() + settings.scaled(30);
    loop {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(end) {
                return Ok(path);
            }
        }
        ensure!(Instant::now() < limit, "no file *{end} in {}", folder.display());
        sleep(Duration::from_millis(50));
    }
}
