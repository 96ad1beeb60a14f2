//! `e2e native|vm`: plays incidents under `ipctrace` and compares its reports with the ground truth.
//!
//! Exits with 0 if no case failed, and with 1 otherwise.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use ipctrace_tests::e2e::{self, Settings};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    /// On this machine
    Native,
    /// In a VM whose root file system is read-only
    Vm,
}

#[derive(Parser)]
#[command(about = "Play incidents under ipctrace and compare its reports with the ground truth")]
struct Arguments {
    place: Place,
    /// Run only cases whose name contains one of these
    filter: Vec<String>,
    /// Force one backend
    #[arg(long, value_parser = ["fentry", "kprobe", "tracepoint"])]
    backend: Option<String>,
    /// Multiply tolerances of durations and time limits by this [default: 1, in a VM 5]
    #[arg(long)]
    time_scale: Option<f64>,
    /// Path of the ipctrace under test [default: beside this program]
    #[arg(long)]
    ipctrace: Option<PathBuf>,
    /// Path of the incidents program [default: beside this program]
    #[arg(long)]
    incidents: Option<PathBuf>,
    /// Trace each case in a run of its own
    #[arg(long)]
    alone: bool,
    /// Trace each case in a run of its own that watches only its pids; no fault tests
    #[arg(long, conflicts_with = "alone")]
    by_pid: bool,
    /// Only the run that attaches when the incidents are complete; no fault tests
    #[arg(long, conflicts_with_all = ["alone", "by_pid"])]
    late: bool,
    /// Create this directory and keep reports, traces and truths in it
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Print the names of all cases and exit
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<bool> {
    if arguments.list {
        e2e::names().iter().for_each(|name| println!("{name}"));
        return Ok(true);
    }
    let vm = arguments.place == Place::Vm;
    e2e::writable_tmp(vm)?;
    let temporary = tempfile::Builder::new().prefix("ipctrace-e2e-").tempdir().context("cannot make a directory")?;
    let directory = match arguments.keep {
        Some(directory) => {
            std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
            directory
        }
        None => temporary.path().to_owned(),
    };
    let here = std::env::current_exe().context("cannot find this program")?;
    let beside = |name: &str| here.with_file_name(name);
    let settings = Settings {
        tool: arguments.ipctrace.unwrap_or_else(|| beside("ipctrace")),
        incidents: arguments.incidents.unwrap_or_else(|| beside("incidents")),
        vm,
        backend: arguments.backend,
        time_scale: arguments.time_scale.unwrap_or(if vm { 5.0 } else { 1.0 }),
        filters: arguments.filter,
        alone: arguments.alone,
        by_pid: arguments.by_pid,
        late: arguments.late,
        directory,
    };
    let tally = e2e::run(&settings)?;
    println!("{}", tally.summary());
    Ok(!tally.failed())
}
