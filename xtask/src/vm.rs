//! One VM: boots a kernel on this machine's own root file system (read-only for the guest), runs a
//! script in it, and returns what the script wrote.
//!
//! The guest answers over a serial port of its own, not over the console: kernel messages cannot
//! tear its lines, and no udev is needed. A guest that dies leaves no `EXIT` line, so it can never
//! be taken for a success.

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
/// Emulated boots take 6 to 10 s on an idle machine; a busy one is given much more.
const BOOT_LIMIT: Duration = Duration::from_secs(150);
/// How often the guest's answers are looked at.
const POLL: Duration = Duration::from_millis(200);

/// What to run in the guest.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// A shell command; its standard output comes back, its standard error goes to the console.
    pub(crate) script: &'a str,
    /// The guest's current folder.
    pub(crate) folder: &'a Path,
    /// What the log files are called.
    pub(crate) name: &'a str,
    pub(crate) log_dir: &'a Path,
    /// For the whole run, boot included.
    pub(crate) limit: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The script ended, with this exit code.
    Exited(i32),
    /// The guest died, or the emulator did.
    Died,
    /// It was killed after its limit.
    TimedOut,
    /// The guest gave no sign of life.
    NotBooted,
}

/// What came back from the guest.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) ending: Ending,
    /// What `uname -r` said in the guest.
    pub(crate) release: String,
    /// The script's standard output.
    pub(crate) lines: Vec<String>,
    pub(crate) console: PathBuf,
    pub(crate) elapsed: Duration,
}

/// Boots the kernel and runs the job; a boot without a sign of life is tried once more.
/// `watch` gets each line of output as it comes.
pub(crate) fn run(emulator: &Emulator, kernel: &Kernel, job: &Job<'_>, watch: &dyn Fn(&str)) -> Result<Answer> {
    let first = attempt(emulator, kernel, job, watch)?;
    if first.ending != Ending::NotBooted {
        return Ok(first);
    }
    watch("no sign of life, booting once more");
    attempt(emulator, kernel, job, watch)
}

fn attempt(emulator: &Emulator, kernel: &Kernel, job: &Job<'_>, watch: &dyn Fn(&str)) -> Result<Answer> {
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
    let mut command = Command::new(&emulator.vng);
    command
        .arg("--run")
        .arg(&kernel.image)
        .args(["--disable-kvm", "--user", "root", "--cpus", "1", "--memory", "1G", "--verbose"])
        .arg(format!(
            "--qemu-opts=-chardev file,id=results,path={} -device \
             virtserialport,chardev=results,name={PORT}",
            results.display()
        ))
        .args(["--", "sh"])
        .arg(&script)
        .env("PATH", &emulator.path)
        .current_dir(job.folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", emulator.vng.display()))?;
    let mut seen = 0;
    let ending = loop {
        let ended = child.try_wait().context("cannot wait for vng")?.is_some();
        let lines = read_lines(&results);
        for line in lines.iter().skip(seen) {
            watch(line);
        }
        seen = lines.len();
        let booted = lines.iter().any(|line| line.starts_with("BOOTED "));
        if let Some(code) = exit_code(&lines) {
            // The power-down takes a second; a guest that hangs in it is not waited for.
            if !ended {
                wait_or_kill(&mut child, Duration::from_secs(10));
            }
            break Ending::Exited(code);
        }
        if ended {
            break if booted { Ending::Died } else { Ending::NotBooted };
        }
        let elapsed = started.elapsed();
        if elapsed > job.limit || (!booted && elapsed > BOOT_LIMIT) {
            wait_or_kill(&mut child, Duration::ZERO);
            break if booted { Ending::TimedOut } else { Ending::NotBooted };
        }
        std::thread::sleep(POLL);
    };
    let lines = read_lines(&results);
    let release = lines.iter().find_map(|line| line.strip_prefix("BOOTED ")).unwrap_or_default().to_owned();
    Ok(Answer { ending, release, lines, console, elapsed: started.elapsed() })
}

/// Finds the port by its name, and puts the job's output there between a first and a last line.
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

/// Complete lines only: the last one may still be on its way.
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

/// vng and qemu split their arguments at spaces and commas.
fn check_path(path: &Path) -> Result<()> {
    let text = path.to_string_lossy();
    if text.contains([' ', ',', '\'', '"', '\t']) {
        bail!("a VM cannot use the path `{text}`: move it to one without spaces, commas or quotes");
    }
    Ok(())
}

/// Waits for the child; after `patience` it and everything it started are killed.
fn wait_or_kill(child: &mut Child, patience: Duration) {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(POLL);
    }
    let mut family = descendants(child.id());
    family.push(child.id());
    // Politely first, so that vng can clean up behind its emulator.
    for signal in [Signal::TERM, Signal::KILL] {
        for id in family.iter().filter(|id| is_alive(**id)) {
            if let Some(pid) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                // It may be gone by now.
                let _ = kill_process(pid, signal);
            }
        }
        for _ in 0..15 {
            // Reaps the child; the others are reaped by their own parents.
            let _ = child.try_wait();
            if !family.iter().any(|id| is_alive(*id)) {
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Whether a process still runs; one that only waits to be reaped does not.
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
        let family = descendants(child.id());
        assert_eq!(family.len(), 2);
        wait_or_kill(&mut child, Duration::ZERO);
        assert!(!family.iter().any(|id| is_alive(*id)));
        Ok(())
    }
}
