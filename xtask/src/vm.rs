//! One VM: boots a kernel on this machine's own root file system (read-only for the guest), runs a script, and returns
//! its output.
//!
//! The output comes through a serial port of its own, because kernel messages on the console would break its lines;
//! this needs no udev. A guest that dies writes no `EXIT` line, so it never counts as a success.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::emulator::Emulator;
use crate::kernels::Kernel;

/// The serial port's name in the guest.
const PORT: &str = "ipctrace.results";
/// Emulated boots take 6 to 10 s on an idle machine, and far longer on a busy one.
const BOOT_TIMEOUT: Duration = Duration::from_secs(150);
/// How often the guest's output is read.
const POLL: Duration = Duration::from_millis(200);

/// What to run in the guest.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// A shell command. Its standard output is returned, its standard error goes to the console.
    pub(crate) script: &'a str,
    /// The guest's current folder.
    pub(crate) folder: &'a Path,
    /// Name of the log files, without extension.
    pub(crate) name: &'a str,
    pub(crate) log_dir: &'a Path,
    /// Timeout of the whole run, boot included.
    pub(crate) timeout: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The script ended with this exit code.
    Exited(i32),
    /// The guest or the emulator died.
    Died,
    /// It was killed after its timeout.
    TimedOut,
    /// The guest did not boot in time.
    NotBooted,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) ending: Ending,
    /// `uname -r` in the guest.
    pub(crate) release: String,
    /// The script's standard output.
    pub(crate) lines: Vec<String>,
    pub(crate) console: PathBuf,
    pub(crate) elapsed: Duration,
}

/// Boots the kernel and runs the job; boots once more if the guest did not come up.
/// `on_line` gets each line of output as it arrives.
pub(crate) fn run(emulator: &Emulator, kernel: &Kernel, job: &Job<'_>, on_line: &dyn Fn(&str)) -> Result<Report> {
    let first = attempt(emulator, kernel, job, on_line)?;
    if first.ending != Ending::NotBooted {
        return Ok(first);
    }
    on_line("the guest did not boot, trying once more");
    attempt(emulator, kernel, job, on_line)
}

fn attempt(emulator: &Emulator, kernel: &Kernel, job: &Job<'_>, on_line: &dyn Fn(&str)) -> Result<Report> {
    let started = Instant::now();
    let file = |extension: &str| job.log_dir.join(format!("{}.{extension}", job.name));
    let (script, results, console) = (file("sh"), file("results"), file("console"));
    for path in [&script, &results, &kernel.image] {
        check_path(path)?;
    }
    fs::create_dir_all(job.log_dir)?;
    fs::write(&script, guest_script(job)).with_context(|| format!("cannot write {script:?}"))?;
    File::create(&results).with_context(|| format!("cannot write {results:?}"))?;
    let log = File::create(&console).with_context(|| format!("cannot write {console:?}"))?;
    let mut command = guest_command(emulator, kernel, &results);
    command.arg(&script).current_dir(job.folder).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", emulator.vng.display()))?;
    let ending = wait_for_end(&mut child, &results, started, job.timeout, on_line)?;
    let lines = read_lines(&results);
    let release = lines.iter().find_map(|line| line.strip_prefix("BOOTED ")).unwrap_or_default().to_owned();
    Ok(Report { ending, release, lines, console, elapsed: started.elapsed() })
}

/// A command that boots the kernel and runs the shell script that is its last argument.
fn guest_command(emulator: &Emulator, kernel: &Kernel, results: &Path) -> Command {
    let mut command = Command::new(&emulator.vng);
    command
        .arg("--run")
        .arg(&kernel.image)
        .args(["--disable-kvm", "--user", "root", "--cpus", "1", "--memory", "1G", "--verbose"])
        .arg(format!(
            "--qemu-opts=-chardev file,id=results,path={} -device virtserialport,chardev=results,name={PORT}",
            results.display()
        ))
        .args(["--", "sh"])
        .env("PATH", &emulator.path)
        .stdin(Stdio::null());
    command
}

/// Passes on the guest's lines until it ends or runs into a timeout.
fn wait_for_end(
    child: &mut Child,
    results: &Path,
    started: Instant,
    timeout: Duration,
    on_line: &dyn Fn(&str),
) -> Result<Ending> {
    let mut reported = 0;
    loop {
        let ended = child.try_wait().context("cannot wait for vng")?.is_some();
        let lines = read_lines(results);
        for line in lines.iter().skip(reported) {
            on_line(line);
        }
        reported = lines.len();
        let booted = lines.iter().any(|line| line.starts_with("BOOTED "));
        if let Some(code) = exit_code(&lines) {
            // The power-down takes a second; a guest that hangs in it is killed.
            if !ended {
                wait_or_kill(child, Duration::from_secs(10));
            }
            return Ok(Ending::Exited(code));
        }
        if ended {
            return Ok(if booted { Ending::Died } else { Ending::NotBooted });
        }
        let elapsed = started.elapsed();
        if elapsed > timeout || (!booted && elapsed > BOOT_TIMEOUT) {
            wait_or_kill(child, Duration::ZERO);
            return Ok(if booted { Ending::TimedOut } else { Ending::NotBooted });
        }
        std::thread::sleep(POLL);
    }
}

/// Finds the port by its name, and writes the job's output there between a `BOOTED` and an `EXIT` line.
fn guest_script(job: &Job<'_>) -> String {
    format!(
        "for port in /sys/class/virtio-ports/*; do\n\
         \x20 [ \"$(cat \"$port/name\")\" = {PORT} ] && exec >\"/dev/${{port##*/}}\"\n\
         done\n\
         echo \"BOOTED $(uname -r)\"\n\
         cd '{}' || exit\n\
         (\n{}\n)\n\
         echo \"EXIT $?\"\n",
        job.folder.display(),
        job.script
    )
}

/// Complete lines only: the guest may still be writing the last one.
fn read_lines(results: &Path) -> Vec<String> {
    let bytes = fs::read(results).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .map(|line| line.trim_end_matches('\r').to_owned())
        .collect()
}

fn exit_code(lines: &[String]) -> Option<i32> {
    lines.iter().rev().find_map(|line| line.strip_prefix("EXIT ")?.trim().parse().ok())
}

/// Rejects paths that vng and qemu would split: they separate arguments by spaces and commas.
fn check_path(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    if text.contains([' ', ',', '\'', '"', '\t']) {
        bail!("a VM cannot use the path `{text}`: move it to one without spaces, commas or quotes");
    }
    Ok(())
}

/// Waits for the child; after `timeout` kills it and all its descendants.
fn wait_or_kill(child: &mut Child, timeout: Duration) {
    let until = Instant::now() + timeout;
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let mut tree = descendants(child.id());
    tree.push(child.id());
    // SIGTERM first, so that vng can clean up after its emulator.
    for signal in [Signal::TERM, Signal::KILL] {
        for id in tree.iter().filter(|id| is_alive(**id)) {
            if let Some(pid) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                // It may have ended by now.
                let _ = kill_process(pid, signal);
            }
        }
        for _ in 0..15 {
            // Reaps the child; the others are reaped by their own parents.
            let _ = child.try_wait();
            if !tree.iter().any(|id| is_alive(*id)) {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Whether a process still runs; a zombie does not.
fn is_alive(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, after)| !after.trim_start().starts_with(['Z', 'X']))
}

/// All living descendants of a process, the youngest generation first.
fn descendants(root: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parents: Vec<(u32, u32)> = entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((id, parse_parent(&stat)?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(id, _)| *id));
        next += 1;
    }
    found.remove(0);
    found.reverse();
    found
}

/// The parent in `/proc/PID/stat`. The command's name may hold spaces and brackets.
fn parse_parent(stat: &str) -> Option<u32> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_a_hostile_name() {
        assert_eq!(parse_parent("12 (a) b) (c) S 7 12 12"), Some(7));
        assert_eq!(parse_parent("12 (a"), None);
    }

    #[test]
    fn a_torn_exit_line_is_no_exit() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), "BOOTED 6.1\nRESULT {}\nEXIT 0")?;
        let lines = read_lines(file.path());
        assert_eq!(lines.len(), 2);
        assert_eq!(exit_code(&lines), None);
        fs::write(file.path(), "BOOTED 6.1\r\nEXIT 3\r\n")?;
        assert_eq!(exit_code(&read_lines(file.path())), Some(3));
        Ok(())
    }

    #[test]
    fn children_and_grandchildren_are_killed() -> Result<()> {
        let mut child = Command::new("sh").args(["-c", "sh -c 'sleep 600; true'; true"]).spawn()?;
        let until = Instant::now() + Duration::from_secs(10);
        while descendants(child.id()).len() < 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let tree = descendants(child.id());
        assert_eq!(tree.len(), 2);
        wait_or_kill(&mut child, Duration::ZERO);
        assert!(!tree.iter().any(|id| is_alive(*id)));
        Ok(())
    }
}
