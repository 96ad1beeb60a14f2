//! `cargo xtask bench`: the cost of tracing fixed work.
//!
//! Each workload runs untraced and under each tracer in turn, for several rounds; slow-down is t / t_untraced - 1, of
//! medians. All work is pinned to one CPU, because a second one would hide the cost.
//!
//! The other scenario measures the baseline on a machine with many processes.

mod baseline;
pub(crate) mod crowd;
mod table;
mod tracer;
pub(crate) mod workload;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::build;
use crate::machine::Machine;
use crate::step::Step;
use table::{Cell, Row};
use tracer::Mode;
use workload::{Running, Work};

/// What the command measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// The slow-down of traced work
    Tracing,
    /// The baseline among many processes, descriptors and semaphore sets
    Baseline,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of rounds; the result is the median of each mode
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measure only this scenario [default: both]
    #[arg(long, value_enum)]
    scenario: Option<Scenario>,
    /// Measure only these workloads [default: all]
    #[arg(long, value_enum)]
    work: Vec<Work>,
    /// Measure only these modes, and untraced [default: all]
    #[arg(long, value_enum)]
    mode: Vec<Mode>,
    /// The programs are built (set when the command restarts itself through sudo)
    #[arg(long, hide = true)]
    built: bool,
}

/// Runs the command.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    if !options.built {
        build::run(machine)?;
    }
    if !machine.is_root {
        return again_as_root(machine, options.built);
    }
    let wants = |scenario| options.scenario.is_none_or(|only| only == scenario);
    let works = if wants(Scenario::Tracing) { chosen(&options.work, &Work::ALL) } else { Vec::new() };
    let mut modes = vec![Mode::Untraced];
    modes.extend(chosen(&options.mode, &Mode::ALL).into_iter().filter(|m| *m != Mode::Untraced));
    let log_dir = machine.target().join("bench");
    let mut rows = Vec::new();
    for work in works {
        let what = format!("{} rounds of {} modes", options.runs, modes.len());
        let step = Step::start(work.name(), &what, &log_dir)?;
        let row = measure(machine, &step, work, &modes, options.runs)?;
        step.done("measured");
        // Printed at once, so that a bench that is interrupted has results.
        eprint!("{}", table::text(std::slice::from_ref(&row)));
        rows.push(row);
    }
    let found = wants(Scenario::Baseline).then(|| baseline::measure(machine, &log_dir, options.runs)).transpose()?;
    let file = log_dir.join("bench.json");
    let all = json!({ "rows": table::json(&rows), "baseline": found.as_ref().map(baseline::Baseline::json) });
    fs::write(&file, format!("{all:#}\n")).with_context(|| format!("cannot write {file:?}"))?;
    print!("{}", table::text(&rows));
    print!("{}", found.as_ref().map(baseline::Baseline::text).unwrap_or_default());
    eprintln!("all times: {}", file.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs all rounds of one workload. Skips a mode that cannot run, with its reason.
fn measure(machine: &Machine, step: &Step, work: Work, modes: &[Mode], runs: u16) -> Result<Row> {
    let mut cells: Vec<Cell> = modes.iter().map(|mode| Cell::new(*mode)).collect();
    for round in 1..=runs {
        for cell in &mut cells {
            if cell.skipped.is_some() {
                continue;
            }
            step.now(&format!("round {round} of {runs}: {}", cell.mode.name()));
            match once(machine, work, cell.mode) {
                Ok(nanoseconds) => cell.times_ns.push(nanoseconds),
                // All slow-downs of the row are relative to this one.
                Err(error) if cell.mode == Mode::Untraced => return Err(error),
                Err(error) => {
                    let reason = format!("{error:#}");
                    step.note(&format!("{} skipped: {reason}", cell.mode.name()));
                    cell.skipped = Some(reason);
                }
            }
        }
    }
    Ok(Row { work: work.name(), cells })
}

/// One run: starts the workload, attaches the tracer, does the work, ends the tracer. Returns the nanoseconds.
fn once(machine: &Machine, work: Work, mode: Mode) -> Result<u64> {
    let mut running = Running::start(Some(work))?;
    // The target of the modes that trace another process.
    let bystander = Running::start(None)?;
    let target = if mode.traces_workload() { running.pid() } else { bystander.pid() };
    let tracer = tracer::start(machine, mode, work, target)?;
    let elapsed = running.run()?;
    if let Some(tracer) = tracer {
        tracer.finish(mode)?;
    }
    Ok(elapsed)
}

/// Runs the same command through sudo: tracers need root, and so does a signal to them.
fn again_as_root(machine: &Machine, built: bool) -> Result<ExitCode> {
    let why = "the bench (all tracers load eBPF programs or trace other processes)";
    machine.announce_root(why);
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = machine.as_root(own, why)?;
    command.args(std::env::args_os().skip(1)).args((!built).then_some("--built"));
    let status = command.status().context("cannot run sudo")?;
    if !status.success() {
        bail!("the bench ended with {status}");
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen<T: Copy>(some: &[T], all: &[T]) -> Vec<T> {
    if some.is_empty() { all } else { some }.to_vec()
}
