//! stress-ng under `watch --all`: healthy programs at full load that count their own operations.
//!
//! Every finding about a stressor is false unless the suite checks the reason why it is true.
//! The recorded events and the lost ones must add up to the operations that stress-ng counted.

mod stressor;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tracer_common::event::Kind;
use tracer_common::site::Site;

use super::outcome::{Outcome, Tally};
use super::process::Running;
use super::settings::Settings;
use super::traced_run::TracedRun;
use crate::skip::Skip;
use crate::stage::proc;
use stressor::{ALL, LATE, Stressor, WORKERS};
use trace::Trace;

/// How long each stressor runs, in seconds at time scale 1.
const SECONDS: u64 = 2;
/// Limit of the tool's peak memory while it follows tens of thousands of processes and a million descriptors.
const MEMORY_MAX_KIB: u64 = 300 << 10;
const GROUP: &str = "stress/";
const PROGRAM: &str = "stress-ng";
/// The directory of POSIX semaphores and shared memory in the C library.
const SHM_DIRECTORY: &str = "/dev/shm";

/// A stressor's run that has ended.
struct Played {
    stressor: &'static Stressor,
    /// Operations that stress-ng itself counted.
    ops: u64,
}

/// The full names of all cases of this module.
pub(super) fn names() -> impl Iterator<Item = String> {
    let whole = ALL.iter().map(|s| format!("{GROUP}{}", s.name));
    let late = LATE.iter().map(|name| format!("{GROUP}late/{name}"));
    whole.chain(late).chain([format!("{GROUP}{LOSSES}")])
}

const LOSSES: &str = "losses";

/// Emulated processors are too slow for stressors: in a VM a stressor runs only if a filter begins with the group's name.
fn wanted(settings: &Settings, name: &str) -> bool {
    settings.wants(name) && (!settings.vm || settings.filters.iter().any(|filter| filter.starts_with("stress")))
}

/// Runs the selected stressors and counts them.
pub(super) fn run(settings: &Settings, tally: &mut Tally) -> Result<()> {
    let of = |name: &str| format!("{GROUP}{name}");
    let whole: Vec<&'static Stressor> = ALL.iter().filter(|s| wanted(settings, &of(s.name))).collect();
    let late: Vec<&'static Stressor> =
        ALL.iter().filter(|s| LATE.contains(&s.name) && wanted(settings, &of(&format!("late/{}", s.name)))).collect();
    if !whole.is_empty() {
        run_in_turn(settings, tally, &whole)?;
    }
    for stressor in late {
        tally.add(&of(&format!("late/{}", stressor.name)), "-", &outcome(run_late(settings, stressor)));
    }
    if wanted(settings, &of(LOSSES)) {
        tally.add(&of(LOSSES), "-", &outcome(losses(settings)));
    }
    Ok(())
}

fn outcome(result: Result<Vec<String>>) -> Outcome {
    match result {
        Ok(problems) => Outcome::of(problems),
        Err(error) => Outcome::of_error(&error),
    }
}

/// One traced run over all stressors, one after the other.
fn run_in_turn(settings: &Settings, tally: &mut Tally, stressors: &[&'static Stressor]) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a directory")?;
    let traced = TracedRun::start(settings, "stress", &["--all", "--min-stall", &min_stall(settings)])?;
    let played: Vec<Result<Played>> =
        stressors.iter().map(|stressor| play(settings, stressor, folder.path())).collect();
    sleep(settings.flush_delay());
    let (memory, finished) = (peak_memory_kib(traced.pid()), traced.finish());
    let checked = finished.and_then(|(report, trace)| {
        check_memory(memory)?;
        check_losses(&report)?;
        Ok((report, Trace::read(&trace)?))
    });
    for (stressor, played) in stressors.iter().zip(played) {
        let result = match (&checked, played) {
            (_, Err(error)) => Err(error),
            (Err(error), Ok(_)) => Err(anyhow::anyhow!("{error:#}")),
            (Ok((report, trace)), Ok(played)) => Ok([
                stressor.truths.problems(&of_stressor(stressor, report)),
                count_problems(&played, trace, report, trace.lost_any()),
            ]
            .concat()),
        };
        tally.add(&format!("{GROUP}{}", stressor.name), "-", &outcome(result));
    }
    Ok(())
}

/// Runs a stressor to its end.
///
/// # Errors
/// A [`Skip`] if stress-ng is not installed.
fn play(settings: &Settings, stressor: &'static Stressor, folder: &Path) -> Result<Played> {
    let seconds = settings.scaled(SECONDS).as_secs();
    let running = start(settings, stressor, seconds, folder)?;
    let ended = running.wait(settings.scaled(30) + Duration::from_secs(seconds))?;
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(ended.code == 0, "stress-ng ended with exit code {}: {text}{}", ended.code, ended.stderr);
    let ops = text.lines().chain(ended.stderr.lines()).find_map(|line| operations(line, stressor.name));
    let ops = ops.with_context(|| format!("stress-ng printed no count: {text}{}", ended.stderr))?;
    Ok(Played { stressor, ops })
}

/// Starts a stressor in an IPC namespace of its own, which takes the stressor's leftovers with it.
fn start(settings: &Settings, stressor: &Stressor, seconds: u64, folder: &Path) -> Result<Running> {
    let found = Command::new(PROGRAM).arg("--version").output();
    if found.is_err() {
        return Err(Skip(format!("{PROGRAM} is not installed (apt-get install {PROGRAM})")).into());
    }
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={}", stressor::NOFILE)).args(["unshare", "--ipc", PROGRAM, "--metrics", "--oomable"]);
    command.args([format!("--{}", stressor.name), WORKERS.to_string()]);
    command.args(["--timeout".to_owned(), format!("{seconds}s"), "--temp-path".to_owned()]).arg(folder);
    if settings.vm {
        command.args(stressor.in_vm);
    }
    Running::start(&mut command)
}

/// The operations in a line such as `stress-ng: metrc: [1234] pipe  10413569  10.00 ...` (`info` in older versions).
fn operations(line: &str, name: &str) -> Option<u64> {
    let (_, row) = line.strip_prefix("stress-ng:")?.split_once("] ")?;
    let mut words = row.split_whitespace();
    (words.next()? == name).then(|| words.next()?.parse().ok())?
}

/// `--min-stall` above the time that a runnable thread waits for a processor: some 100 ms, on an emulated machine more.
fn min_stall(settings: &Settings) -> String {
    format!("{}ms", settings.scaled(1).as_millis() / 2)
}

/// Findings that name a process or an object of this stressor.
fn of_stressor<'r>(stressor: &Stressor, report: &'r Value) -> Vec<&'r Value> {
    let comm = stressor.comm();
    let all = report["findings"].as_array().into_iter().flatten();
    all.filter(|finding| {
        let mut named = finding["processes"].as_array().into_iter().flatten();
        let nameless = finding["processes"].as_array().is_none_or(Vec::is_empty);
        named.any(|process| process["comm"] == *comm) || (nameless && stressor.may_own(finding))
    })
    .collect()
}

/// Fails unless the losses by site add up to the total.
fn check_losses(report: &Value) -> Result<()> {
    let sites = report["loss"]["sites"].as_array().into_iter().flatten();
    let sum: u64 = sites.filter_map(|site| site["events"].as_u64()).sum();
    ensure!(report["loss"]["events"].as_u64() == Some(sum), "losses do not add up: {}", report["loss"]);
    Ok(())
}

/// Lost records of one site in the report.
fn lost_at(report: &Value, site: Site) -> u64 {
    let sites = report["loss"]["sites"].as_array().into_iter().flatten();
    sites.filter(|row| row["site"] == site.info().name).filter_map(|row| row["events"].as_u64()).sum()
}

/// Where the recorded events do not fit the operations that stress-ng counted.
fn count_problems(played: &Played, trace: &Trace, report: &Value, lossy: bool) -> Vec<String> {
    let comm = played.stressor.comm();
    let slack = WORKERS as u64;
    let recorded = |kind: Kind| trace.count(&comm, kind);
    let mut problems = Vec::new();
    for kind in played.stressor.at_most {
        let found = recorded(*kind);
        if found > played.ops + slack {
            problems.push(format!("{found} records {kind:?}, stress-ng counted {} operations", played.ops));
        }
    }
    for (kind, site) in played.stressor.exactly {
        let (found, lost) = (recorded(*kind), lost_at(report, *site));
        // The report does not say which process a lost record belonged to.
        if found > played.ops + slack || found + lost + slack < played.ops {
            problems.push(format!(
                "{found} records {kind:?} and {lost} lost at {}, stress-ng counted {} operations",
                site.info().name,
                played.ops
            ));
        }
    }
    for (made, gone) in played.stressor.pairs {
        let (made_n, gone_n) = (recorded(*made), recorded(*gone));
        if made_n == 0 || (made_n != gone_n && !lossy) {
            problems.push(format!("{made_n} records {made:?}, {gone_n} {gone:?}, although no object is left"));
        }
    }
    problems
}

/// A traced run that begins and ends while the stressor is at work.
fn run_late(settings: &Settings, stressor: &'static Stressor) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().context("cannot make a directory")?;
    let before = posix_names();
    let running = start(settings, stressor, 3600, folder.path())?;
    let main = running.pid();
    let end = Instant::now() + settings.scaled(20);
    while workers_at_work(main) < WORKERS {
        ensure!(Instant::now() < end, "stress-ng did not start its workers in time");
        sleep(Duration::from_millis(5));
    }
    let name = format!("stress-late-{}", stressor.name);
    let traced = TracedRun::start(settings, &name, &["--all", "--min-stall", &min_stall(settings)]);
    let finished = traced.and_then(|traced| {
        sleep(settings.flush_delay());
        let memory = peak_memory_kib(traced.pid());
        let (seen, finished) = sample_during(main, || traced.finish());
        Ok((finished?.0, seen, memory))
    });
    let workers = family(&proc::table(), main);
    let ended = running.stop(libc::SIGINT, settings.scaled(30));
    remove_left(&before, &workers);
    let (report, seen, memory) = finished?;
    ended.context("stress-ng did not end after SIGINT")?;
    check_memory(memory)?;
    check_losses(&report)?;
    let mut problems = Vec::new();
    for finding in of_stressor(stressor, &report) {
        let true_of_it = match finding["code"].as_str() {
            Some("zombie-leak") => all_sampled(&finding["evidence"]["pids"], &seen.zombies),
            Some("posix-shm-leak") => all_sampled(&finding["evidence"]["ids"], &seen.unused),
            _ => Err("a healthy stressor causes no such finding".to_owned()),
        };
        if let Err(why) = true_of_it {
            problems.push(format!("false {}: {} ({why})", finding["code"], finding["title"]));
        }
    }
    Ok(problems)
}

/// Fails unless the samples saw everything that a finding names; a stressor at work passes through such states.
fn all_sampled(named: &Value, seen: &BTreeSet<String>) -> Result<(), String> {
    let named = named.as_array().into_iter().flatten().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
    let other: Vec<String> = named.filter(|name| !seen.contains(name)).collect();
    match other.first() {
        None => Ok(()),
        Some(first) => Err(format!("the samples did not see {} of the named ones, such as {first}", other.len())),
    }
}

/// A ring buffer that is far too small: every lost record must be counted, and nothing may be found.
fn losses(settings: &Settings) -> Result<Vec<String>> {
    let stressor = ALL.iter().find(|s| s.name == "sockfd").context("no stressor sockfd")?;
    let folder = tempfile::tempdir().context("cannot make a directory")?;
    let traced = TracedRun::start(settings, "stress-losses", &["--all", "--ring-kib", "4"])?;
    let played = play(settings, stressor, folder.path());
    sleep(settings.flush_delay());
    let (report, trace) = traced.finish()?;
    let (played, trace) = (played?, Trace::read(&trace)?);
    check_losses(&report)?;
    let mut problems = count_problems(&played, &trace, &report, true);
    if report["loss"]["events"].as_u64().unwrap_or(0) == 0 {
        problems.push(format!("no loss, although {} operations do not fit into 4 KiB", played.ops));
    }
    for finding in of_stressor(stressor, &report) {
        problems.push(format!("false {}: {}", finding["code"], finding["title"]));
    }
    Ok(problems)
}

/// The tool's peak resident memory (VmHWM), in KiB.
fn peak_memory_kib(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read the tool's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context("no VmHWM in the tool's status")
}

fn check_memory(kib: Result<u64>) -> Result<()> {
    let kib = kib?;
    if kib > MEMORY_MAX_KIB {
        bail!("ipctrace used {} MiB of memory, more than {} MiB", kib >> 10, MEMORY_MAX_KIB >> 10);
    }
    Ok(())
}

/// Workers that have begun; stress-ng renames a worker when it begins.
fn workers_at_work(main: i32) -> usize {
    let begun = |pid: &i32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.starts_with("stress-ng-")
    };
    proc::children(main).iter().filter(|pid| begun(pid)).count()
}

/// A process and all its descendants.
fn family(table: &[(i32, i32, char)], main: i32) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, parent, _) in table {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut all = BTreeSet::from([main]);
    let mut next = vec![main];
    while let Some(parent) = next.pop() {
        next.extend(children.get(&parent).into_iter().flatten().filter(|pid| all.insert(**pid)));
    }
    all
}

/// The union of samples of `/proc` and [`SHM_DIRECTORY`].
#[derive(Default)]
struct Samples {
    /// Pids of zombies.
    zombies: BTreeSet<String>,
    /// Names of shared memory that no process had open or mapped: stress-ng closes what it creates, and maps anonymous
    /// memory instead (`mmap` with `MAP_ANONYMOUS` in stress-shm.c).
    unused: BTreeSet<String>,
}

/// Samples the family every 20 ms while `work` runs, because its zombies and names come and go.
fn sample_during<T>(main: i32, work: impl FnOnce() -> T) -> (Samples, T) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut seen = Samples::default();
            while !done.load(SeqCst) {
                let table = proc::table();
                let family = family(&table, main);
                let ours = table.iter().filter(|(pid, _, state)| *state == 'Z' && family.contains(pid));
                seen.zombies.extend(ours.map(|(pid, ..)| pid.to_string()));
                sample_unused(&family, &mut seen.unused);
                sleep(Duration::from_millis(20));
            }
            seen
        });
        let out = work();
        done.store(true, SeqCst);
        (sampler.join().unwrap_or_default(), out)
    })
}

/// Adds the names of the family's shared memory that exist although no process of the family has them open or mapped.
fn sample_unused(family: &BTreeSet<i32>, out: &mut BTreeSet<String>) {
    let names: Vec<PathBuf> = posix_names().into_iter().filter(|path| of_family(path, family)).collect();
    if names.is_empty() {
        return;
    }
    let mut used = BTreeSet::new();
    for pid in family {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        used.extend(maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..]))));
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        used.extend(fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()));
    }
    let left = names.into_iter().filter(|path| !used.contains(path) && path.exists());
    out.extend(left.filter_map(|path| Some(format!("/{}", path.file_name()?.to_str()?))));
}

fn posix_names() -> BTreeSet<PathBuf> {
    std::fs::read_dir(SHM_DIRECTORY).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Removes the shared memory that an interrupted stressor leaves.
fn remove_left(before: &BTreeSet<PathBuf>, family: &BTreeSet<i32>) {
    for path in posix_names().difference(before).filter(|path| of_family(path, family)) {
        // The stressor may have removed it meanwhile.
        let _ = std::fs::remove_file(path);
    }
}

/// Whether a name contains the pid of one of these processes, as `stress-ng-PID-...`.
fn of_family(path: &Path, family: &BTreeSet<i32>) -> bool {
    let pid = || path.file_name()?.to_str()?.strip_prefix("stress-ng-")?.split('-').next()?.parse().ok();
    pid().is_some_and(|pid: i32| family.contains(&pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_row_of_the_stressor() {
        let table = [
            "stress-ng: metrc: [1] shm-sysv           1083      3.00      0.89      2.66       360.44         304.62",
            "stress-ng: metrc: [1] shm-sysv           49995.64 nanosecs per shmget call (geometic mean of 2 instances)",
        ];
        assert_eq!(table.map(|line| operations(line, "shm-sysv")), [Some(1083), None]);
        assert_eq!(operations(table[0], "shm"), None);
        assert_eq!(operations("stress-ng: info:  [7] pipe   12 1.0 1.0", "pipe"), Some(12));
        assert_eq!(operations("stress-ng: info:  [7] dispatching hogs: 2 pipe", "pipe"), None);
    }
}
