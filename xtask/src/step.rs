//! One step of a command: prints its title, shows progress, logs the output of its programs, and prints the end of the
//! log if one fails.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How many lines of a failed program's output are printed; the log file has all.
const TAIL_LINES: usize = 25;

/// A running step.
pub(crate) struct Step {
    name: String,
    bar: ProgressBar,
    log: PathBuf,
    started: Instant,
}

impl Step {
    /// Prints the step's title. `what` describes it, and why it may take long.
    pub(crate) fn start(name: &str, what: &str, log_dir: &Path) -> Result<Self> {
        fs::create_dir_all(log_dir).with_context(|| format!("cannot create the log folder {}", log_dir.display()))?;
        eprintln!("==> {name}: {what}");
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(spinner_style());
        bar.enable_steady_tick(Duration::from_millis(120));
        let log = log_dir.join(format!("{}.log", name.replace([' ', '/'], "-")));
        File::create(&log).with_context(|| format!("cannot write the log {}", log.display()))?;
        Ok(Self { name: name.to_owned(), bar, log, started: Instant::now() })
    }

    /// The log of this step's programs.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Runs a program; a failure is an error, after the end of its output is printed.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let (status, tail) = self.capture(command, &mut |_| {})?;
        if !status.success() {
            self.bar.suspend(|| {
                for line in &tail {
                    eprintln!("    | {line}");
                }
            });
            bail!(
                "{}: {} ended with {status} (log: {})",
                self.name,
                command.get_program().to_string_lossy(),
                self.log.display()
            );
        }
        Ok(())
    }

    /// Runs a program and calls `each` for each line of its output. Returns its status and the last lines of its
    /// output.
    pub(crate) fn capture(
        &self,
        command: &mut Command,
        each: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(ExitStatus, Vec<String>)> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut log = File::options()
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write the log {}", self.log.display()))?;
        writeln!(log, "$ {command:?}")?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot run {program}", self.name))?;
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let sink = Mutex::new((log, VecDeque::new(), each));
        let drain = |source: Option<Box<dyn Read + Send>>| {
            let Some(source) = source else { return };
            each_line(source, |line| {
                let Ok(mut guard) = sink.lock() else { return };
                let (log, tail, each) = &mut *guard;
                // A full disk must not hide the program's result.
                let _ = writeln!(log, "{line}");
                each(line);
                if !line.trim().is_empty() {
                    self.bar.set_message(line.trim().to_owned());
                    tail.push_back(line.to_owned());
                    if tail.len() > TAIL_LINES {
                        tail.pop_front();
                    }
                }
            });
        };
        std::thread::scope(|scope| {
            scope.spawn(|| drain(stderr.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>)));
            drain(stdout.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        });
        let status = child.wait().with_context(|| format!("cannot wait for {program}"))?;
        let tail = sink.into_inner().map_or_else(|_| Vec::new(), |(_, tail, _)| tail.into_iter().collect());
        Ok((status, tail))
    }

    /// Runs a download and shows its progress: the bytes in `folder` of `total_bytes`.
    pub(crate) fn run_download(&self, command: &mut Command, folder: &Path, total_bytes: u64) -> Result<()> {
        self.bar.set_length(total_bytes);
        self.bar.set_style(bytes_style());
        let done = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.bar.set_position(folder_bytes(folder).min(total_bytes));
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let result = self.run(command);
            done.store(true, Ordering::Relaxed);
            result
        });
        self.bar.set_style(spinner_style());
        result
    }

    /// Shows what the step does now.
    pub(crate) fn now(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("    {what}");
        } else {
            self.bar.set_message(what.to_owned());
        }
    }

    /// Prints a line above the progress bar.
    pub(crate) fn note(&self, line: &str) {
        self.bar.suspend(|| eprintln!("    {line}"));
    }

    /// Ends the step with its result and duration.
    pub(crate) fn done(self, result: &str) {
        self.bar.finish_and_clear();
        eprintln!("    {result} ({:.1} s)", self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Calls `each` for every line. Replaces bytes that are not UTF-8; a carriage return (progress of curl, pip) ends a line
/// too.
pub(crate) fn each_line(source: impl Read, mut each: impl FnMut(&str)) {
    let mut reader = BufReader::new(source);
    let mut raw = Vec::new();
    loop {
        raw.clear();
        match reader.read_until(b'\n', &mut raw) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&raw);
                for line in text.trim_end_matches(['\n', '\r']).split('\r') {
                    each(line);
                }
            }
        }
    }
}

/// The bytes of all files in a folder and its direct subfolders (apt's `partial`).
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("    {spinner} {elapsed} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bytes_style() -> ProgressStyle {
    ProgressStyle::with_template("    [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_newline_and_carriage_return() {
        let mut seen = Vec::new();
        each_line(&b"a\r\nb\rc\n\xffd"[..], |line| seen.push(line.to_owned()));
        assert_eq!(seen, ["a", "b", "c", "\u{fffd}d"]);
    }

    #[test]
    fn a_failing_program_is_an_error_that_names_the_log() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let step = Step::start("probe", "a test", dir.path())?;
        let error = step.run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        let text = error.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(text.contains("exit status: 3"), "{text}");
        let log = fs::read_to_string(dir.path().join("probe.log"))?;
        assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
        Ok(())
    }
}
