//! `cargo xtask vm`: the end-to-end suite on several kernels and backends.
//!
//! One VM for each pair, and at most as many VMs at a time as this machine has processors.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::build;
use crate::kernels::{FAMILIES, Family, Kernel};
use crate::machine::Machine;
use crate::results::{self, Case, Counts, Outcome, Run};
use crate::setup::{self, Lab};
use crate::vm::{self, Ending, Job, Report};

/// All backends, by the names of ipctrace's `--backend`.
pub(crate) const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

/// Options of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these kernels: 5.10, 6.1, 6.12, 6.18, 7.x [default: all but 6.18]
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Only these backends [default: all]
    #[arg(long, value_parser = BACKENDS)]
    backend: Vec<String>,
    /// Kill a VM that runs longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// Run this shell command in each VM instead of the suite and print its output
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Run only cases whose name contains one of these
    #[arg(last = true)]
    filter: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    let families: Vec<&'static Family> = if options.kernel.is_empty() {
        FAMILIES.iter().filter(|family| family.in_matrix).collect()
    } else {
        let named = options.kernel.iter().map(|name| Family::named(name));
        named.collect::<Result<_>>()?
    };
    let lab = setup::lab(machine, &families)?;
    if let Some(command) = &options.exec {
        return exec(machine, &lab, command, options.timeout);
    }
    build::run(machine)?;
    let backends: Vec<&str> = if options.backend.is_empty() {
        BACKENDS.to_vec()
    } else {
        options.backend.iter().map(String::as_str).collect()
    };
    let timeout = Duration::from_secs(options.timeout);
    let runs = suite(machine, &lab, &backends, &options.filter, timeout);
    for line in results::exceptions(&runs) {
        println!("{line}");
    }
    println!("\n{}", results::matrix(&runs));
    let mut counts = Counts::default();
    for run in &runs {
        counts += Counts::of(&run.cases);
    }
    if counts == Counts::default() {
        bail!("no case matches {:?}", options.filter);
    }
    println!("{counts}");
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the suite on every kernel of the lab with every backend.
pub(crate) fn suite(machine: &Machine, lab: &Lab, backends: &[&str], filter: &[String], timeout: Duration) -> Vec<Run> {
    let pairs: Vec<(&Kernel, &str)> =
        lab.kernels.iter().flat_map(|kernel| backends.iter().map(move |backend| (kernel, *backend))).collect();
    eprintln!(
        "==> VMs: {} boots, {} at a time; minutes each, because the processor is emulated",
        pairs.len(),
        workers().min(pairs.len())
    );
    let board = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let queue: Mutex<VecDeque<(usize, (&Kernel, &str))>> = Mutex::new(pairs.iter().copied().enumerate().collect());
    let done: Mutex<Vec<(usize, Run)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers().min(pairs.len()) {
            scope.spawn(|| {
                while let Some((index, (kernel, backend))) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let bar = board.add(spinner(&format!("{} {backend}", kernel.family)));
                    let run = one(machine, lab, kernel, backend, filter, timeout, &bar);
                    bar.finish_and_clear();
                    let line = format!("    {} {backend}: {}", kernel.family, Counts::of(&run.cases));
                    // A hidden board (no terminal) prints nothing by itself.
                    board.suspend(|| eprintln!("{line}"));
                    if let Ok(mut done) = done.lock() {
                        done.push((index, run));
                    }
                }
            });
        }
    });
    let mut runs = done.into_inner().unwrap_or_default();
    runs.sort_by_key(|(index, _)| *index);
    runs.into_iter().map(|(_, run)| run).collect()
}

fn one(
    machine: &Machine,
    lab: &Lab,
    kernel: &Kernel,
    backend: &str,
    filter: &[String],
    timeout: Duration,
    bar: &ProgressBar,
) -> Run {
    let words: Vec<String> = filter.iter().map(|word| quote(word)).collect();
    let script = format!(
        "{} vm --backend {backend} {}",
        quote(&machine.release_binary("e2e").to_string_lossy()),
        words.join(" ")
    );
    let job = Job {
        script: &script,
        folder: &machine.repo,
        name: &format!("vm-{}-{backend}", kernel.family),
        log_dir: &log_dir(machine),
        timeout,
    };
    let cases = match vm::run(&lab.emulator, kernel, &job, &|line| {
        bar.set_message(line.to_owned());
    }) {
        Ok(report) => cases_of(&report, kernel, !filter.is_empty()),
        Err(error) => vec![Case::broken("vm", format!("{error:#}"))],
    };
    Run { kernel: kernel.family.to_owned(), backend: backend.to_owned(), cases }
}

/// The cases of a run, and a failure if it did not end normally.
fn cases_of(report: &Report, kernel: &Kernel, filtered: bool) -> Vec<Case> {
    let mut cases = results::parse_results(report.lines.iter().map(String::as_str));
    let failures = cases.iter().any(|case| case.outcome == Outcome::Failed);
    let seconds = report.elapsed.as_secs();
    let problem = match report.ending {
        Ending::Exited(_) if report.release != kernel.release => {
            Some(format!("the guest runs {} instead of {}", report.release, kernel.release))
        }
        Ending::Exited(0) if cases.is_empty() && !filtered => Some("no case ran".to_owned()),
        Ending::Exited(code) if code != 0 && !failures => {
            Some(format!("the suite ended with {code} and no failed case"))
        }
        Ending::Exited(_) => None,
        Ending::Died => Some("the guest died before the suite ended".to_owned()),
        Ending::TimedOut => Some(format!("killed after {seconds} s")),
        Ending::NotBooted => Some(format!("the guest did not boot in two attempts (the last took {seconds} s)")),
    };
    if let Some(problem) = problem {
        let console = report.console.display();
        cases.push(Case::broken("vm", format!("{problem}; its console: {console}")));
    }
    cases
}

/// Runs a command on each kernel, one after the other.
fn exec(machine: &Machine, lab: &Lab, command: &str, timeout: u64) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for kernel in &lab.kernels {
        let job = Job {
            script: command,
            folder: &machine.repo,
            // Two of these commands may run at the same time.
            name: &format!("exec-{}-{}", kernel.family, std::process::id()),
            log_dir: &log_dir(machine),
            timeout: Duration::from_secs(timeout),
        };
        let report = vm::run(&lab.emulator, kernel, &job, &|line| println!("{line}"))?;
        eprintln!(
            "    {}: {:?} after {:.1} s; its console: {}",
            kernel.family,
            report.ending,
            report.elapsed.as_secs_f64(),
            report.console.display()
        );
        if report.ending != Ending::Exited(0) {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// The folder of the VMs' logs.
pub(crate) fn log_dir(machine: &Machine) -> std::path::PathBuf {
    let folder: &Path = &machine.target();
    folder.join("test-logs")
}

fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn spinner(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("    {spinner} {elapsed} {prefix}: {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Quotes a word for the guest's shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ending: Ending, release: &str, lines: &[&str]) -> Report {
        Report {
            ending,
            release: release.to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            console: "c".into(),
            elapsed: Duration::from_secs(3),
        }
    }

    #[test]
    fn a_dead_guest_is_never_a_pass() {
        let kernel = Kernel { family: "6.1", release: "6.1.0-1".to_owned(), image: "i".into() };
        const PASS: &str = "RESULT {\"case\":\"sem\",\"variant\":\"bug\",\"outcome\":\"passed\"}";
        const FAIL: &str = "RESULT {\"case\":\"sem\",\"variant\":\"bug\",\"outcome\":\"failed\"}";
        // Ending, release, lines, failures expected.
        let table: &[(Ending, &str, &[&str], usize)] = &[
            (Ending::Exited(0), "6.1.0-1", &[PASS], 0),
            (Ending::Exited(0), "6.1.0-1", &[], 1),
            (Ending::Exited(0), "6.18.0", &[PASS], 1),
            (Ending::Exited(1), "6.1.0-1", &[FAIL], 1),
            (Ending::Exited(1), "6.1.0-1", &[PASS], 1),
            (Ending::Died, "6.1.0-1", &[PASS], 1),
            (Ending::TimedOut, "6.1.0-1", &[PASS, FAIL], 2),
            (Ending::NotBooted, "", &[], 1),
        ];
        for (ending, release, lines, failed) in table {
            let cases = cases_of(&report(ending.clone(), release, lines), &kernel, false);
            assert_eq!(Counts::of(&cases).failed, *failed, "{ending:?} {lines:?}");
        }
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("a'b c"), r"'a'\''b c'");
    }
}
