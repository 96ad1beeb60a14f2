//! `record`: killed at any moment, in parts, on a full disk, and as a flight recorder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_collector::inventory::boot_ns;
use tracer_common::event::{Header, read};
use tracer_record::Record;
use tracer_trace::Reader;

use super::ending::{says_no_end, unended};
use crate::call::SemSet;
use crate::e2e::Settings;
use crate::e2e::session::{Ended, Running, complete_incident, replay, tool};

const KILLS: u64 = 20;
/// Sets that are made and removed each millisecond: hundreds of kilobytes of trace a second.
const BURST: usize = 100;
/// A record is on its way to the file for a second at most; then the file is written.
const MISSING: Duration = Duration::from_millis(1500);

/// Creates and removes semaphore sets until it is dropped.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Does something while there is load.
fn under_load<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<()> {
            while !over.load(Relaxed) {
                for _ in 0..BURST {
                    SemSet::create(libc::IPC_PRIVATE, 1)
                        .and_then(SemSet::remove)
                        .context("cannot create and remove a semaphore set")?;
                }
                sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let done = {
            let _until = Load(&over);
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

/// The parts of a recording, the newest last.
fn parts(output: &Path) -> Result<Vec<PathBuf>> {
    let name = output.file_name().context("no name")?.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(output.parent().context("no folder")?)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = file.strip_prefix(&name) else { continue };
        let number = if rest.is_empty() { Some(0) } else { rest.strip_prefix('.').and_then(|n| n.parse::<u32>().ok()) };
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Up to when the parts tell: the last kernel record, or a baseline behind which there is none yet.
fn told_until_ns(parts: &[PathBuf]) -> Result<u64> {
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
            // Every other one is killed while it changes from part to part, too.
            let args: &[&str] =
                if number % 2 == 0 { &["--all"] } else { &["--all", "--max-size", "1M", "--parts", "3"] };
            let running = start(settings, args, &output)?;
            // Spread over two seconds, so over two flushes.
            sleep(Duration::from_millis(200 + (number * 7919) % 2000));
            let killed_ns = boot_ns();
            running.signal(libc::SIGKILL)?;
            let ended = running.wait(settings.scaled(20))?;
            ensure!(ended.code == 128 + libc::SIGKILL, "ended by itself with {}: {}", ended.code, ended.stderr);
            let parts = parts(&output)?;
            let newest = parts.last().context("no file")?;
            unended(settings, newest).with_context(|| format!("kill {number}"))?;
            let missing = Duration::from_nanos(killed_ns.saturating_sub(told_until_ns(&parts)?));
            let limit = MISSING.mul_f64(settings.time_scale.max(1.0));
            ensure!(missing <= limit, "kill {number}: the last {} ms are missing", missing.as_millis());
            for part in &parts {
                reported(settings, part).with_context(|| format!("kill {number}"))?;
                std::fs::remove_file(part)?;
            }
        }
        Ok(())
    })
}

/// The report of a file that `record` wrote.
fn reported(settings: &Settings, trace: &Path) -> Result<Value> {
    let ended = replay(settings, trace)?;
    ended.exited(0).with_context(|| trace.display().to_string())?;
    ended.report()
}

fn has_found(report: &Value, code: &str) -> bool {
    report["findings"].as_array().into_iter().flatten().any(|finding| finding["code"] == *code)
}

pub(super) fn in_parts(settings: &Settings) -> Result<()> {
    let output = settings.directory.join("fault-record-parts.trace");
    let running = start(settings, &["--all", "--max-size", "1M"], &output)?;
    let limit = Instant::now() + settings.scaled(60);
    under_load(|| {
        while parts(&output)?.last().is_none_or(|newest| !newest.to_string_lossy().ends_with(".trace.3")) {
            ensure!(Instant::now() < limit, "no fourth part: {:?}", parts(&output));
            sleep(Duration::from_millis(50));
        }
        Ok(())
    })?;
    let (_held, _) = complete_incident(settings, &["fd-leak"])?;
    sleep(settings.settle());
    let ended = running.stop(libc::SIGINT, settings.scaled(30))?;
    ended.exited(0)?;
    ensure!(ended.stderr.contains("the last 2 of "), "the last line does not tell of the parts: {}", ended.stderr);
    let parts = parts(&output)?;
    ensure!(parts.len() == 2, "{} parts are kept rather than 2", parts.len());
    for part in &parts {
        let report = reported(settings, part)?;
        ensure!(!says_no_end(&report), "{} has no end", part.display());
    }
    let last = reported(settings, parts.last().context("no part")?)?;
    ensure!(has_found(&last, "fd-leak"), "the last part alone does not tell of the leak");
    Ok(())
}

pub(super) fn full_disk(settings: &Settings) -> Result<()> {
    let rotated = on_a_small_disk(settings, "parts", "--max-size 1M --parts 100")?;
    rotated.exited(0)?;
    let said = rotated.stderr.matches("the oldest part goes").count();
    ensure!(said > 0, "the disk was never full: {}", rotated.stderr);
    // One while the next is awaited, else two.
    let kept = parts(&settings.directory.join("fault-record-disk-parts").join("t"))?;
    ensure!(!kept.is_empty(), "no part is left");
    kept.iter().try_for_each(|part| reported(settings, part).map(drop))?;

    let single = on_a_small_disk(settings, "single", "")?;
    single.exited(1)?;
    let told = single.stderr.matches("No space left").count();
    ensure!(told == 1, "a full disk is told {told} times: {}", single.stderr);
    let trace = settings.directory.join("fault-record-disk-single").join("t");
    unended(settings, &trace)?;
    Ok(())
}

/// Records for some seconds on a disk of 2 MB, and copies what is there afterwards.
fn on_a_small_disk(settings: &Settings, name: &str, options: &str) -> Result<Ended> {
    let copy = settings.directory.join(format!("fault-record-disk-{name}"));
    std::fs::create_dir(&copy)?;
    let disk = tempfile::tempdir()?;
    let (tool, disk, copy) = (settings.tool.display(), disk.path().display(), copy.display());
    let script = format!(
        "mount -t tmpfs -o size=2M none {disk} || exit 99
         {tool} record --all --duration 12s {options} -o {disk}/t
         code=$?
         cp {disk}/* {copy}/ && exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    under_load(|| Running::start(&mut command)?.wait(settings.scaled(60)))
}

pub(super) fn flight(settings: &Settings) -> Result<()> {
    let folder = settings.directory.join("fault-record-flight");
    std::fs::create_dir(&folder)?;
    let args = ["--all", "--flight-recorder", "--keep", "60s", "--after", "1s", "--trigger", "fd-*"];
    let running = start(settings, &args, &folder)?;
    let (_held, _) = complete_incident(settings, &["fd-leak"])?;
    let trace = appeared(settings, &folder, "-fd-leak.trace")?;
    // What comes afterwards is in it as well; then it has an end.
    sleep(Duration::from_secs(3));
    let report = reported(settings, &trace)?;
    ensure!(has_found(&report, "fd-leak"), "the trace does not tell of what it was written for");
    ensure!(!says_no_end(&report), "the trace has no end");
    let ended = running.stop(libc::SIGINT, settings.scaled(30))?;
    ended.exited(0)?;
    ensure!(ended.stderr.contains("; 1 written: "), "{}", ended.stderr);
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
    // The end of the recorder ends what it writes.
    running.stop(libc::SIGTERM, settings.scaled(30))?.exited(0)?;
    let report = reported(settings, &trace)?;
    ensure!(has_found(&report, "sem-leak"), "the trace does not tell of the leak before");
    ensure!(!says_no_end(&report), "the trace has no end");
    let files = std::fs::read_dir(&folder)?.count();
    ensure!(files == 1, "{files} files: only what was asked for is written");
    Ok(())
}

/// Waits for a file whose name ends so.
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
