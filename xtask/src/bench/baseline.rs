//! The scenario `baseline`: the cost of the baseline on a host with many processes and descriptors, and of `ls sem` in
//! an IPC namespace that is nearly full of semaphore sets.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::crowd::{FDS_A_PROCESS, PROCESSES, SETS};
use super::workload::Running;
use crate::machine::{Machine, find_on_path};
use crate::step::Step;

/// The goals for time and memory of the baseline.
const GOAL_MS: f64 = 2_000.0;
const GOAL_MIB: f64 = 100.0;
/// The goal for the time of `ls sem`, in terms of `ipcs -s`.
const GOAL_IPCS: f64 = 2.0;

/// The results of all runs; an empty list was not measured.
#[derive(Debug, Default)]
pub(super) struct Baseline {
    /// From the start of `watch --all` to `ready`.
    ready_ms: Vec<f64>,
    /// The part of it that reads the tables and applies them to the model.
    tables_ms: Vec<f64>,
    watch_mib: Vec<f64>,
    ls_ms: Vec<f64>,
    ls_mib: Vec<f64>,
    ls_sem_ms: Vec<f64>,
    ipcs_ms: Vec<f64>,
    /// What was not measured, and why.
    skipped: Vec<String>,
}

/// Runs the scenario. Skips what cannot be measured here, with its reason.
pub(super) fn measure(machine: &Machine, log_dir: &Path, runs: u16) -> Result<Baseline> {
    let what = format!("{runs} rounds among {PROCESSES} processes, and among {SETS} semaphore sets");
    let step = Step::start("baseline", &what, log_dir)?;
    let mut all = Baseline::default();
    let program = machine.release_binary("ipctrace");
    step.now("starting processes");
    match Running::start_command(["crowd", "processes"]) {
        Ok(crowd) => {
            for round in 1..=runs {
                step.now(&format!("round {round} of {runs}: watch --all"));
                all.watch(&program)?;
                step.now(&format!("round {round} of {runs}: ls"));
                let ended = run(Command::new(&program).arg("ls"))?;
                all.ls_ms.push(ended.wall_ms);
                all.ls_mib.push(ended.peak_mib);
            }
            drop(crowd);
        }
        Err(error) => all.skipped.push(format!("watch and ls: {error:#}")),
    }
    step.now("making semaphore sets");
    if let Err(error) = all.sets(&program, runs) {
        all.skipped.push(format!("ls sem: {error:#}"));
    }
    for reason in &all.skipped {
        step.note(&format!("skipped: {reason}"));
    }
    step.done("measured");
    Ok(all)
}

impl Baseline {
    fn watch(&mut self, program: &Path) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot create a folder for the report")?;
        let mut command = Command::new(program);
        command.args(["watch", "--all", "--duration", "100ms", "--format", "json", "-o"]);
        command.arg(folder.path().join("report.json")).env("IPCTRACE_LOG", "ipctrace=debug,tracer_collector=debug");
        let ended = run(&mut command)?;
        self.ready_ms.push(ended.ready_ms.context("ipctrace did not print `ready`")?);
        self.tables_ms.push(ended.tables_ms.context("ipctrace did not log the time of its baseline")?);
        self.watch_mib.push(ended.peak_mib);
        Ok(())
    }

    fn sets(&mut self, program: &Path, runs: u16) -> Result<()> {
        let ipcs = find_on_path("ipcs").context("ipcs is not installed: apt-get install util-linux")?;
        let (ours, theirs) = (format!("{}\tls\tsem", program.display()), format!("{}\t-s", ipcs.display()));
        let mut crowd = Running::start_command(["crowd", "sets"])?;
        for _ in 0..runs {
            self.ipcs_ms.push(crowd.request(&theirs)? as f64 / 1e6);
            self.ls_sem_ms.push(crowd.request(&ours)? as f64 / 1e6);
        }
        Ok(())
    }

    /// `ls sem` in terms of `ipcs -s`.
    fn ratio(&self) -> Option<f64> {
        Some(median(&self.ls_sem_ms)? / median(&self.ipcs_ms)?)
    }

    /// The table for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{PROCESSES} processes, {} descriptors\n", PROCESSES * FDS_A_PROCESS);
        let mut line = |what: &str, value: Option<f64>, unit: &str, goal: Option<f64>| {
            let Some(value) = value else { return };
            let verdict = goal.map_or_else(String::new, |goal| {
                format!("   <= {goal} {unit}: {}", if value <= goal { "reached" } else { "not reached" })
            });
            text.push_str(&format!("{what:34} {value:>9.1} {unit:3}{verdict}\n"));
        };
        line("watch --all, until ready", median(&self.ready_ms), "ms", None);
        line("watch --all, its baseline", median(&self.tables_ms), "ms", Some(GOAL_MS));
        line("watch --all, peak memory", most(&self.watch_mib), "MiB", Some(GOAL_MIB));
        line("ls", median(&self.ls_ms), "ms", Some(GOAL_MS));
        line("ls, peak memory", most(&self.ls_mib), "MiB", Some(GOAL_MIB));
        line(&format!("ipcs -s, {SETS} sets"), median(&self.ipcs_ms), "ms", None);
        line(&format!("ls sem, {SETS} sets"), median(&self.ls_sem_ms), "ms", None);
        line("ls sem / ipcs -s", self.ratio(), "x", Some(GOAL_IPCS));
        for reason in &self.skipped {
            text.push_str(&format!("skipped: {reason}\n"));
        }
        text
    }

    /// Every figure of every run.
    pub(super) fn json(&self) -> Value {
        json!({
            "processes": PROCESSES,
            "descriptors": PROCESSES * FDS_A_PROCESS,
            "sem_sets": SETS,
            "ready_ms": self.ready_ms,
            "tables_ms": self.tables_ms,
            "watch_mib": self.watch_mib,
            "ls_ms": self.ls_ms,
            "ls_mib": self.ls_mib,
            "ls_sem_ms": self.ls_sem_ms,
            "ipcs_ms": self.ipcs_ms,
            "skipped": self.skipped,
        })
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: &[f64]) -> Option<f64> {
    sorted(values).get(values.len() / 2).copied()
}

fn most(values: &[f64]) -> Option<f64> {
    sorted(values).last().copied()
}

/// The cost of a run of ipctrace.
struct Ended {
    wall_ms: f64,
    peak_mib: f64,
    ready_ms: Option<f64>,
    tables_ms: Option<f64>,
}

/// Runs the command and discards its standard output.
fn run(command: &mut Command) -> Result<Ended> {
    let started = Instant::now();
    let ms = || started.elapsed().as_secs_f64() * 1e3;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (mut ready_ms, mut tables_ms, mut messages) = (None, None, Vec::new());
    for line in BufReader::new(child.stderr.take().context("no standard error")?).lines() {
        let line = line.context("cannot read the messages of ipctrace")?;
        if let Some((_, rest)) = line.split_once("baseline_us=") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            tables_ms = digits.parse::<f64>().ok().map(|us| us / 1e3);
        } else if line.trim() == "ready" {
            ready_ms = Some(ms());
        }
        messages.push(line);
    }
    let pid = i32::try_from(child.id()).context("a pid beyond 31 bits")?;
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid. The child is ours, and nothing else waits for it.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "cannot wait for ipctrace: {}", std::io::Error::last_os_error());
    if status != 0 {
        bail!("ipctrace ended with wait status {status:#x}: {}", messages.join("; "));
    }
    Ok(Ended { wall_ms: ms(), peak_mib: usage.ru_maxrss as f64 / 1024.0, ready_ms, tables_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_and_skips_are_in_the_table() {
        let found = Baseline {
            tables_ms: vec![900.0, 2_500.0, 1_000.0],
            watch_mib: vec![90.0, 101.0],
            ipcs_ms: vec![10.0],
            ls_sem_ms: vec![15.0],
            skipped: vec!["ls: why".to_owned()],
            ..Baseline::default()
        };
        let text = found.text();
        for (what, verdict) in
            [("its baseline", ": reached"), ("peak memory", "not reached"), ("ls sem / ipcs", ": reached")]
        {
            let line = text.lines().find(|line| line.contains(what)).unwrap_or_default();
            assert!(line.ends_with(verdict), "{line:?}");
        }
        assert!(text.contains("skipped: ls: why") && !text.contains("until ready"), "{text}");
    }
}
